"""Choosing among all candidates: duplicates are dropped, quotas are filled, every row not chosen is recorded.

In this order: duplicates, texts that a published split holds out, near duplicates, texts with two labels, more rows of
a text than wanted; then the quotas are dealt out, again and again until no row of one split is near one of another.
"""

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from sft.data.building.candidates import CandidateIndex, CandidateStore
from sft.data.building.manifest import BuildOptions
from sft.data.building.mixing import Mixture, mix
from sft.data.building.preset import Preset
from sft.data.building.selection import (
    DEALING_ORDER,
    NOT_CHOSEN,
    find_conflicts,
    find_duplicates,
    find_held_out,
    find_surplus,
)
from sft.data.building.splits_apart import SplitGuard, find_overlaps, make_is_near
from sft.data.building.spool import Spool
from sft.data.folder import Overlap
from sft.data.ledger import EXCERPT_CHARACTERS, Ledger
from sft.data.likeness.near_duplicates import SignatureFile, find_near_duplicates
from sft.data.quotas import SPLITS, Cell
from sft.data.rows.canonical import question_of
from sft.errors import DataError

# Why a candidate is not chosen, and what the ledger says of the row it repeats, if there is one.
REASONS = {
    "over_quota": "",
    "duplicate": "same as {}",
    "other_split": "asks the same as {}",  # which its publisher put in another split
    "near_duplicate": "near {}",
    "conflicting_label": "",
    "same_text": "",
    "near_other_split": "near {}",  # which is in a split before its own
}
NAMES = list(REASONS)
SPLIT_SALTS = np.array([0, 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], dtype=np.uint64)
ROWS_AT_A_TIME = 65_536


class Choice:
    """What is known of each candidate: whether it may still be chosen, and why not."""

    mixture: Mixture  # once rows are dealt out
    overlaps: list[Overlap]

    def __init__(self, index: CandidateIndex, source: np.ndarray) -> None:
        self.index = index
        self.source = source  # (N,) position of each row's source
        self.alive = np.ones(len(index), dtype=bool)  # (N,)
        self.reason = np.zeros(len(index), dtype=np.uint8)  # (N,) position in NAMES
        self.twin = np.full(len(index), -1, dtype=np.int32)  # (N,) the row that this one repeats, or -1

    def leave_out(self, reason: str, rows: np.ndarray) -> None:
        """Rows (a mask) that must not be chosen."""
        rows = rows & self.alive
        self.reason[rows] = NAMES.index(reason)
        self.alive &= ~rows

    def leave_out_twins(self, reason: str, twins: np.ndarray) -> None:
        """Rows that repeat another: for each row its number, or -1."""
        rows = (twins >= 0) & self.alive
        self.twin[rows] = twins[rows]
        self.leave_out(reason, rows)


def choose_rows(
    preset: Preset,
    cells: list[Cell],
    store: CandidateStore,
    spools: Sequence[Spool],
    options: BuildOptions,
    dataset: Path,
    scratch: Path,
) -> Choice:
    """Fill the quotas; overlaps.jsonl goes to `dataset`. Raises DataError for short sources."""
    choice = Choice(store.index(), store.source_numbers())
    specs = list(preset.sources.values())
    splits = [SPLITS.index(spec.split) if spec.split else -1 for spec in specs]
    published = np.array(splits, dtype=np.int8)[choice.source]
    with contextlib.ExitStack() as stack:
        guard = None
        if preset.near_across_splits is not None:
            guard = stack.enter_context(SplitGuard(store, scratch / "questions", preset.near_across_splits))
        choice.overlaps = find_overlaps(choice.index.group, published, store, guard, dataset / "overlaps.jsonl")
        if preset.on_overlap == "keep":
            choice.index = _tell_splits_apart(choice.index, published)
        choice.leave_out_twins("duplicate", find_duplicates(choice.index.exact, _seniority(published)))
        choice.leave_out_twins("other_split", find_held_out(choice.index.group, published, choice.alive))
        if preset.near_duplicates is not None:
            # what a publisher holds out stays whole; rows of train near it go when splits are kept apart
            rows = choice.alive & ~np.isin(published, [SPLITS.index("validation"), SPLITS.index("test")])
            twins = _find_near(rows, store, spools, preset.near_duplicates, scratch)
            choice.leave_out_twins("near_duplicate", twins)
        choice.leave_out("conflicting_label", find_conflicts(choice.index, choice.alive))
        limits = np.array([spec.max_rows_per_text or 0 for spec in specs], dtype=np.int32)[choice.source]
        choice.leave_out("same_text", find_surplus(choice.index, choice.alive, choice.source, limits))
        let_be = published >= 0 if preset.on_overlap == "keep" else None
        _deal(choice, preset, cells, options, guard, let_be)
    return choice


def book_rows(choice: Choice, names: Sequence[str], store: CandidateStore, ledger: Ledger) -> None:
    """Enter every row that was not chosen in the ledger, count the others, and give an example of each reason."""
    shown: set[tuple[int, int]] = set()
    for number, source, reason, twin in _not_chosen(choice):
        name = NAMES[reason]
        where, detail = store.where(number), REASONS[name].format(store.id_of(twin)) if twin >= 0 else ""
        ledger.drop(names[source], where, name, detail, store.own_id_of(number))
        if (source, reason) not in shown:
            shown.add((source, reason))
            text = question_of(store.read_row(number))[:EXCERPT_CHARACTERS]
            ledger.tallies[names[source]].examples[name] = {"where": where, "detail": detail, "text": text}
    kept = np.bincount(choice.source[choice.mixture.split_of != NOT_CHOSEN], minlength=len(names))
    for name, count in zip(names, kept.tolist(), strict=True):
        ledger.tallies[name].kept = count


def _deal(
    choice: Choice,
    preset: Preset,
    cells: list[Cell],
    options: BuildOptions,
    guard: SplitGuard | None,
    let_be: np.ndarray | None,
) -> None:
    """Deal out, take back what is near a row of another split, and deal again: others take the places."""
    while True:
        rng = random.Random(options.seed)
        try:
            choice.mixture = mix(choice.index, choice.alive, cells, preset.plans(), options.on_shortage, rng)
        except DataError as error:
            near = int(np.count_nonzero(choice.reason == NAMES.index("near_other_split")))
            if not near:
                raise
            raise DataError(
                f"{error} ({near:,} rows were left out as nearly the same as a row of another split; "
                "near_across_splits in the preset)"
            ) from None
        filled = [name for name in SPLITS if len(choice.mixture.copies[name])]
        if guard is None or len(filled) < 2:
            return
        twins = guard.find_straddlers(choice.mixture.split_of, let_be)
        if not (twins >= 0).any():
            return
        choice.leave_out_twins("near_other_split", twins)


def _find_near(
    rows: np.ndarray, store: CandidateStore, spools: Sequence[Spool], threshold: float, scratch: Path
) -> np.ndarray:
    """Near duplicates among these rows (a mask): for each the earlier one it repeats, or -1. (N,) int64."""
    with SignatureFile(scratch / "signatures") as signatures:
        for spool in spools:
            signatures.append_file(spool.signatures)
        return find_near_duplicates(signatures, rows, threshold, make_is_near(store, threshold))


def _seniority(published: np.ndarray) -> np.ndarray | None:
    """Which of two equal rows stays: a published test split's, then validation's, then train's, then any other."""
    if (published < 0).all():
        return None
    return np.array([*(DEALING_ORDER.index(name) for name in SPLITS), len(SPLITS)], dtype=np.int8)[published]


def _tell_splits_apart(index: CandidateIndex, published: np.ndarray) -> CandidateIndex:
    """Keys that differ between published splits, so that a text may be in each: published data as published."""
    salt = SPLIT_SALTS[published + 1]
    return replace(
        index,
        group=index.group ^ salt,
        side=None if index.side is None else index.side ^ salt,
        exact=index.exact ^ salt,
    )


def _not_chosen(choice: Choice) -> Iterator[tuple[int, int, int, int]]:
    numbers = np.flatnonzero(choice.mixture.split_of == NOT_CHOSEN)
    for start in range(0, len(numbers), ROWS_AT_A_TIME):
        part = numbers[start : start + ROWS_AT_A_TIME]
        columns = (part, choice.source[part], choice.reason[part], choice.twin[part])
        yield from zip(*(column.tolist() for column in columns), strict=True)
