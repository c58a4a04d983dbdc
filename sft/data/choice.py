"""Choosing among all candidates: duplicates, conflicts and surplus go, quotas are filled, every other row is booked."""

import random
from collections.abc import Iterator, Sequence

import numpy as np

from sft.data.candidates import CandidateIndex, CandidateStore
from sft.data.canonical import question_of
from sft.data.ledger import EXCERPT_CHARACTERS, Ledger
from sft.data.manifest import BuildOptions
from sft.data.mixing import Mixture, mix
from sft.data.preset import Preset
from sft.data.quotas import Cell
from sft.data.selection import NOT_CHOSEN, find_conflicts, find_duplicates, find_surplus

# Why a candidate is not chosen; the number stands for it while rows are chosen.
REASONS = ("over_quota", "duplicate", "conflicting_label", "same_text")
OVER_QUOTA, DUPLICATE, CONFLICT, SAME_TEXT = range(len(REASONS))
ROWS_AT_A_TIME = 65_536


def choose_rows(preset: Preset, cells: list[Cell], store: CandidateStore, options: BuildOptions) -> "Choice":
    """Leave out duplicates, conflicts and surplus, and fill the quotas. Raises DataError for short sources."""
    choice = Choice(store.index(), store.source_numbers())
    index = choice.index
    limits = np.array([spec.max_rows_per_text or 0 for spec in preset.sources.values()], dtype=np.int32)[choice.source]
    twins = find_duplicates(index.exact)
    choice.leave_out(twins >= 0, DUPLICATE, twins)
    choice.leave_out(find_conflicts(index, choice.alive), CONFLICT)
    choice.leave_out(find_surplus(index, choice.alive, choice.source, limits), SAME_TEXT)
    choice.mixture = mix(index, choice.alive, cells, preset.plans(), options.on_shortage, random.Random(options.seed))
    return choice


class Choice:
    """What is known of each candidate on the way: whether it may still be chosen, and why not."""

    mixture: Mixture  # once rows are dealt out

    def __init__(self, index: CandidateIndex, source: np.ndarray) -> None:
        self.index = index
        self.source = source  # (N,) position of each row's source
        self.alive = np.ones(len(index), dtype=bool)  # (N,)
        self.reason = np.zeros(len(index), dtype=np.uint8)  # (N,) position in REASONS
        self.twin = np.full(len(index), -1, dtype=np.int32)  # (N,) the row that this one repeats, or -1

    def leave_out(self, rows: np.ndarray, reason: int, twins: np.ndarray | None = None) -> None:
        """Rows (a mask) that must not be chosen; `twins` gives for each row the one it repeats."""
        rows = rows & self.alive
        self.reason[rows] = reason
        if twins is not None:
            self.twin[rows] = twins[rows]
        self.alive &= ~rows


def book_rows(choice: Choice, names: Sequence[str], store: CandidateStore, ledger: Ledger) -> None:
    """Enter every row that was not chosen in the ledger, count the others, and give an example of each reason."""
    shown: set[tuple[int, int]] = set()
    for number, source, reason, twin in _not_chosen(choice):
        detail = f"same as {store.id_of(twin)}" if twin >= 0 else ""
        where = store.where(number)
        ledger.drop(names[source], where, REASONS[reason], detail)
        if (source, reason) not in shown:
            shown.add((source, reason))
            text = question_of(store.read_row(number))[:EXCERPT_CHARACTERS]
            ledger.tallies[names[source]].examples[REASONS[reason]] = {"where": where, "detail": detail, "text": text}
    kept = np.bincount(choice.source[choice.mixture.split_of != NOT_CHOSEN], minlength=len(names))
    for name, count in zip(names, kept.tolist(), strict=True):
        ledger.tallies[name].kept = count


def _not_chosen(choice: Choice) -> Iterator[tuple[int, int, int, int]]:
    numbers = np.flatnonzero(choice.mixture.split_of == NOT_CHOSEN)
    for start in range(0, len(numbers), ROWS_AT_A_TIME):
        part = numbers[start : start + ROWS_AT_A_TIME]
        columns = (part, choice.source[part], choice.reason[part], choice.twin[part])
        yield from zip(*(column.tolist() for column in columns), strict=True)
