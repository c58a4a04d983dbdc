"""Exact quotas out of what there is, and what happens where a source runs dry.

error     the build ends, naming every short source (the default)
rescale   the whole dataset shrinks until every share holds again
upsample  the rows there are stand in train repeatedly; evaluation splits never repeat a row and stay short
accept    the short source is short; all others keep their quota
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sft.data.candidates import CandidateIndex
from sft.data.quotas import SPLITS, Cell, Quotas, SplitPlan, asked_of, divide_over_cells, rescale_plans, shrink_cell
from sft.data.selection import NOT_CHOSEN, deal_out
from sft.errors import DataError

OnShortage = Literal["error", "rescale", "upsample", "accept"]


@dataclass(frozen=True)
class Shortage:
    """A cell that did not get the rows it asked for."""

    cell: Cell
    asked: int
    found: int

    def describe(self) -> str:
        """`own: 18 rows asked, 12 found`."""
        name = f"{self.cell.source} ({self.cell.stratum})" if self.cell.stratum else self.cell.source
        return f"{name}: {self.asked:,} rows asked, {self.found:,} found"


@dataclass(frozen=True)
class Mixture:
    """Which row goes where. `copies[split]` lists (row number, copy); copy 1 is the row itself, 2 its first repeat."""

    split_of: np.ndarray  # (N,) int8: position in SPLITS, or NOT_CHOSEN
    copies: dict[str, list[tuple[int, int]]]
    asked: Quotas
    written: Quotas  # repeats included
    shortages: list[Shortage]


def mix(
    index: CandidateIndex,
    alive: np.ndarray,  # (N,) bool: rows that may be chosen
    cells: Sequence[Cell],
    plans: Sequence[SplitPlan],
    on_shortage: OnShortage,
    rng: random.Random,
) -> Mixture:
    """Choose rows for every quota and bring each split into one random order.

    Raises DataError where a source is short and `on_shortage` is "error", and where a split would be left empty.
    """
    asked = divide_over_cells(plans, cells)
    available = _count_cells(index, alive, len(cells))
    if on_shortage == "rescale":
        split_of = _deal_rescaled(index, alive, cells, plans, available)
    else:
        quotas = asked if on_shortage == "error" else _shrink_short_cells(asked, available)
        split_of = deal_out(index, alive, quotas)
    shortages = _find_shortages(index, split_of, cells, asked)
    if shortages and on_shortage == "error":
        listed = "; ".join(shortage.describe() for shortage in shortages)
        raise DataError(f"{listed}; ask for fewer in the preset, or pass --on_shortage rescale|upsample|accept")
    copies = {name: _rows_of(split_of, name) for name in SPLITS}
    if on_shortage == "upsample" and "train" in asked:
        copies["train"] += _repeat_rows(index, copies["train"], cells, asked["train"])
    _refuse_empty_split(asked, copies, shortages)
    for name in SPLITS:
        rng.shuffle(copies[name])
    written = {name: _count_cells(index, [number for number, _ in copies[name]], len(cells)) for name in SPLITS}
    return Mixture(split_of, copies, asked, written, shortages)


def _deal_rescaled(
    index: CandidateIndex, alive: np.ndarray, cells: Sequence[Cell], plans: Sequence[SplitPlan], available: list[int]
) -> np.ndarray:
    """Deal out the largest dataset of the asked mixture that all cells can fill."""
    while True:
        quotas = divide_over_cells(rescale_plans(plans, cells, available), cells)
        split_of = deal_out(index, alive, quotas)
        filled = _count_cells(index, split_of != NOT_CHOSEN, len(cells))
        if all(filled[number] == asked_of(quotas, number) for number in range(len(cells))):
            return split_of
        # groups of several rows did not fit the last places of a split; each turn asks for fewer, so this ends
        short = [number for number in range(len(cells)) if filled[number] < asked_of(quotas, number)]
        available = [filled[number] if number in short else has for number, has in enumerate(available)]


def _shrink_short_cells(asked: Quotas, available: list[int]) -> Quotas:
    quotas = {name: list(quota) for name, quota in asked.items()}
    for number, has in enumerate(available):
        if has < asked_of(asked, number):
            shrink_cell(quotas, number, has)
    return quotas


def _find_shortages(
    index: CandidateIndex, split_of: np.ndarray, cells: Sequence[Cell], asked: Quotas
) -> list[Shortage]:
    found = _count_cells(index, split_of != NOT_CHOSEN, len(cells))
    return [
        Shortage(cell, asked_of(asked, number), found[number])
        for number, cell in enumerate(cells)
        if found[number] < asked_of(asked, number)
    ]


def _rows_of(split_of: np.ndarray, name: str) -> list[tuple[int, int]]:
    return [(number, 1) for number in np.flatnonzero(split_of == SPLITS.index(name)).tolist()]


def _repeat_rows(
    index: CandidateIndex, rows: list[tuple[int, int]], cells: Sequence[Cell], quota: list[int]
) -> list[tuple[int, int]]:
    """Repeats that fill train's quota of every cell, each row as often as any other, one more or less."""
    by_cell: list[list[int]] = [[] for _ in cells]
    for number, _ in rows:
        by_cell[index.cell[number]].append(number)
    repeats: list[tuple[int, int]] = []
    for cell, numbers, wanted in zip(cells, by_cell, quota, strict=True):
        if wanted and not numbers:
            raise DataError(f"{Shortage(cell, wanted, 0).describe()} for train; there is nothing to repeat")
        for extra in range(wanted - len(numbers)):
            repeats.append((numbers[extra % len(numbers)], extra // len(numbers) + 2))
    return repeats


def _refuse_empty_split(asked: Quotas, copies: dict[str, list[tuple[int, int]]], shortages: list[Shortage]) -> None:
    for name, quota in asked.items():
        if sum(quota) and not copies[name]:
            listed = "; ".join(shortage.describe() for shortage in shortages)
            raise DataError(f"{name} would have no rows ({listed}); check the sources and filters of the preset")


def _count_cells(index: CandidateIndex, rows: np.ndarray | list[int], num_cells: int) -> list[int]:
    """Rows of each cell among those given, by mask or by number."""
    return np.bincount(index.cell[rows].astype(np.int64), minlength=num_cells).tolist()
