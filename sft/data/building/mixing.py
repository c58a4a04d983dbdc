"""Exact quotas out of what there is, and what happens where a source runs dry.

error     the build ends, naming every short source (the default)
rescale   the whole dataset shrinks until every share holds again
upsample  the available rows are repeated in train; evaluation splits never repeat a row and stay short
accept    the short source is short; all others keep their quota
"""

from __future__ import annotations  # array[int] exists for type checkers only

import random
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sft.data.building.candidates import CandidateIndex
from sft.data.building.selection import NOT_CHOSEN, deal_out
from sft.data.quotas import SPLITS, Cell, Quotas, SplitPlan, asked_of, divide_over_cells, rescale_plans, shrink_cell
from sft.errors import DataError

OnShortage = Literal["error", "rescale", "upsample", "accept"]


@dataclass(frozen=True)
class Shortage:
    """A cell with fewer rows than requested."""

    cell: Cell
    asked: int
    found: int

    def describe(self) -> str:
        """`own: 18 rows asked, 12 found`."""
        name = f"{self.cell.source} ({self.cell.stratum})" if self.cell.stratum else self.cell.source
        return f"{name}: {self.asked:,} rows asked, {self.found:,} found"


@dataclass
class Copies:
    """Rows to write, in order: (row number, copy) each; copy 1 is the row itself, 2 its first repeat.

    8 bytes per row, where a list of pairs takes 100.
    """

    numbers: array[int]
    copies: array[int]

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self.numbers, self.copies, strict=True)

    def append(self, number: int, copy: int) -> None:
        """Add one row at the end."""
        self.numbers.append(number)
        self.copies.append(copy)

    def shuffle(self, rng: random.Random) -> None:
        """Bring the rows into a random order."""
        order = array("I", range(len(self)))
        rng.shuffle(order)
        self.numbers, self.copies = (
            array("I", np.frombuffer(column, dtype=np.uint32)[order].tobytes())
            for column in (self.numbers, self.copies)
        )


@dataclass(frozen=True)
class Mixture:
    """The assignment of rows to splits and sources."""

    split_of: np.ndarray  # (N,) int8: position in SPLITS, or NOT_CHOSEN
    copies: dict[str, Copies]
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
    """Choose rows for every quota and shuffle each split.

    Raises DataError if a source is short and `on_shortage` is "error", and where a split would be left empty.
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
        raise DataError(f"{listed}; ask for fewer, or pass --on_shortage rescale|upsample|accept")
    copies = {name: _rows_of(split_of, name) for name in SPLITS}
    if on_shortage == "upsample" and "train" in asked:
        _repeat_rows(index, copies["train"], cells, asked["train"])
    _refuse_empty_split(asked, copies, shortages)
    for name in SPLITS:
        copies[name].shuffle(rng)
    written = {
        name: _count_cells(index, np.frombuffer(copies[name].numbers, dtype=np.uint32), len(cells)) for name in SPLITS
    }
    return Mixture(split_of, copies, asked, written, shortages)


def _deal_rescaled(
    index: CandidateIndex, alive: np.ndarray, cells: Sequence[Cell], plans: Sequence[SplitPlan], available: list[int]
) -> np.ndarray:
    """Deal the largest dataset of the requested mixture that all cells can fill."""
    while True:
        quotas = divide_over_cells(rescale_plans(plans, cells, available), cells)
        split_of = deal_out(index, alive, quotas)
        filled = _count_cells(index, split_of != NOT_CHOSEN, len(cells))
        if all(filled[number] == asked_of(quotas, number) for number in range(len(cells))):
            return split_of
        # groups of several rows did not fit the rest of a split; each turn requests fewer, so this ends
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


def _rows_of(split_of: np.ndarray, name: str) -> Copies:
    numbers = np.flatnonzero(split_of == SPLITS.index(name)).astype(np.uint32)
    return Copies(array("I", numbers.tobytes()), array("I", np.ones(len(numbers), dtype=np.uint32).tobytes()))


def _repeat_rows(index: CandidateIndex, rows: Copies, cells: Sequence[Cell], quota: list[int]) -> None:
    """Add repeats until train's quota of every cell is filled, each row as often as any other, one more or less."""
    by_cell: list[list[int]] = [[] for _ in cells]
    for number in rows.numbers:
        by_cell[index.cell[number]].append(number)
    for cell, numbers, wanted in zip(cells, by_cell, quota, strict=True):
        if wanted and not numbers:
            raise DataError(f"{Shortage(cell, wanted, 0).describe()} for train; there is nothing to repeat")
        for extra in range(wanted - len(numbers)):
            rows.append(numbers[extra % len(numbers)], extra // len(numbers) + 2)


def _refuse_empty_split(asked: Quotas, copies: dict[str, Copies], shortages: list[Shortage]) -> None:
    for name, quota in asked.items():
        if sum(quota) and not len(copies[name]):
            listed = "; ".join(shortage.describe() for shortage in shortages)
            raise DataError(f"{name} would have no rows ({listed}); check the sources and filters of the preset")


def _count_cells(index: CandidateIndex, rows: np.ndarray | list[int], num_cells: int) -> list[int]:
    """Rows of each cell among those given, by mask or by number."""
    return np.bincount(index.cell[rows].astype(np.int64), minlength=num_cells).tolist()
