"""Exact quotas: how many rows of which source and stratum go into which split.

    largest_remainder(10, [Fraction(1, 3)] * 3)       # [4, 3, 3]

A cell is one source's one stratum (reviews labelled 正面, or all of a source without strata).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

SPLITS = ("train", "validation", "test")


def largest_remainder(total: int, shares: Sequence[Fraction | int]) -> list[int]:
    """`total` divided in the ratio of the shares, summing to it exactly; among equal remainders the first gets more.

    Each part is its ideal size rounded down or up (Hamilton's method). All-zero shares give all zeros.
    """
    whole = sum(shares)
    if not whole:
        return [0] * len(shares)
    ideal = [Fraction(total) * share / whole for share in shares]
    parts = [int(size) for size in ideal]
    by_remainder = sorted(range(len(parts)), key=lambda number: parts[number] - ideal[number])
    for number in by_remainder[: total - sum(parts)]:
        parts[number] += 1
    return parts


def parse_pairs(text: str, example: str) -> dict[str, str]:
    """The value given for each name: "正常:15000，a:b: 2" -> {"正常": "15000", "a:b": "2"}; full-width ： and ， too.

    Raises ValueError, naming the example, if a part is not name:value, or a name occurs twice.
    """
    pairs: dict[str, str] = {}
    for part in re.split("[,，]", text):
        name, colon, value = (piece.strip() for piece in part.replace("：", ":").rpartition(":"))
        if not (name and colon and value):
            raise ValueError(f"{part.strip()!r} does not say how many; write {example}")
        if name in pairs:
            raise ValueError(f"{name!r} is given twice")
        pairs[name] = value
    return pairs


def parse_label_quota(text: str) -> dict[str, int]:
    """Rows of each label: "正常:15000,暴恐:6000" -> {"正常": 15000, "暴恐": 6000}.

    Raises ValueError as parse_pairs does, and where a value is no number of rows.
    """
    quota = parse_pairs(text, "正常:15000,暴恐:6000")
    for label, number in quota.items():
        if not number.isascii() or not number.isdigit():
            raise ValueError(f"{label}:{number}: {number!r} is no number of rows; write {label}:15000")
    return {label: int(number) for label, number in quota.items()}


def scale_plans(plans: Sequence["SplitPlan"], total: int) -> list["SplitPlan"]:
    """This mixture with `total` rows in all and the same ratio of splits."""
    parts = largest_remainder(total, [plan.total for plan in plans])
    return [plan.scaled_to(part) for plan, part in zip(plans, parts, strict=True)]


@dataclass(frozen=True)
class Cell:
    """One stratum of one source; `stratum` is "" where the source has none. `share` is its part of the source."""

    source: str
    stratum: str
    share: Fraction


@dataclass(frozen=True)
class SplitPlan:
    """One requested split: {"reviews": 495, "newspaper": 225} rows, and the shares to rescale it by."""

    name: str
    rows: dict[str, int]
    source_shares: dict[str, Fraction]
    stratum_shares: dict[str, dict[str, Fraction]] = field(default_factory=dict)  # that differ from the mixture's

    @property
    def total(self) -> int:
        """Rows of the split, all sources together."""
        return sum(self.rows.values())

    def scaled_to(self, total: int) -> "SplitPlan":
        """This mixture in another size."""
        parts = largest_remainder(total, list(self.source_shares.values()))
        return replace(self, rows=dict(zip(self.source_shares, parts, strict=True)))


Quotas = dict[str, list[int]]  # split -> rows of each cell, in the order of the cells


def divide_over_cells(plans: Sequence[SplitPlan], cells: Sequence[Cell]) -> Quotas:
    """The quota of every cell in every split: {"train": [248, 247, 225], "test": [50, 50, 50]}."""
    quotas: Quotas = {}
    for plan in plans:
        quotas[plan.name] = [0] * len(cells)
        for source, rows in plan.rows.items():
            numbers = [number for number, cell in enumerate(cells) if cell.source == source]
            own = plan.stratum_shares.get(source)
            shares = [cells[n].share if own is None else own.get(cells[n].stratum, Fraction(0)) for n in numbers]
            for number, part in zip(numbers, largest_remainder(rows, shares), strict=True):
                quotas[plan.name][number] = part
    return quotas


def asked_of(quotas: Quotas, cell: int) -> int:
    """Rows of one cell over all splits."""
    return sum(quota[cell] for quota in quotas.values())


def shrink_cell(quotas: Quotas, cell: int, available: int) -> None:
    """Divide the rows of a short cell over the splits in the ratio of their requests, in place."""
    parts = largest_remainder(available, [quota[cell] for quota in quotas.values()])
    for quota, part in zip(quotas.values(), parts, strict=True):
        quota[cell] = part


def rescale_plans(plans: Sequence[SplitPlan], cells: Sequence[Cell], available: Sequence[int]) -> list[SplitPlan]:
    """The largest plans of the same mixture, all splits shrunk alike, whose every cell has enough rows."""
    quotas = divide_over_cells(plans, cells)
    whole = sum(plan.total for plan in plans)
    ratios = [Fraction(available[n], asked_of(quotas, n)) for n in range(len(cells)) if asked_of(quotas, n)]
    total = int(whole * min([Fraction(1), *ratios]))
    while total > 0:
        shrunk = scale_plans(plans, total)
        quotas = divide_over_cells(shrunk, cells)
        if all(asked_of(quotas, number) <= has for number, has in enumerate(available)):
            return shrunk
        total -= 1  # rounding up put a row too many into a short cell; a step or two is enough
    return [plan.scaled_to(0) for plan in plans]
