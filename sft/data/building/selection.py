"""Which candidates are chosen, for which split: pure functions over the candidates' index.

Duplicates go first, then texts that carry two labels, then what exceeds the rows a text may have. The rest is dealt out
side by side in the order of the seeded key: test first, then validation, then train, so that a larger train
split leaves the others as they were.
"""

import itertools
import operator
from collections import Counter
from collections.abc import Iterator

import numpy as np

from sft.data.building.candidates import CandidateIndex
from sft.data.quotas import SPLITS, Quotas

NOT_CHOSEN = -1
TASK_STRIDE = np.uint64(0x9E3779B97F4A7C15)  # spreads one text's keys of several tasks
ROWS_AT_A_TIME = 65_536
DEALING_ORDER = ("test", "validation", "train")


def find_duplicates(exact: np.ndarray, seniority: np.ndarray | None = None) -> np.ndarray:
    """For each row the number of the first row it equals, or -1: [7, 8, 7] -> [-1, -1, 0]. (N,) -> (N,) int64.

    Of equal rows the one with the lowest `seniority` (N,) is the first, if that is given.
    """
    if seniority is not None:
        order = np.argsort(seniority, kind="stable")
        sorted_twins = find_duplicates(exact[order])
        twins = np.full(len(exact), -1, dtype=np.int64)
        twins[order] = np.where(sorted_twins < 0, -1, order[sorted_twins])
        return twins
    _, first, inverse = np.unique(exact, return_index=True, return_inverse=True)
    earliest = first[inverse]
    return np.where(earliest == np.arange(len(exact)), -1, earliest)


def find_held_out(group: np.ndarray, published: np.ndarray, alive: np.ndarray) -> np.ndarray:
    """Number of the published test or validation row with the same question, for each row; -1 if there is none.

    `published`: (N,) position in SPLITS of the split a row was published in, or -1. The test split keeps its rows
    against all others, validation against all but test. (N,) -> (N,) int64
    """
    twins = np.full(len(group), -1, dtype=np.int64)
    for position, name in enumerate(DEALING_ORDER[:-1]):
        seniors = [SPLITS.index(senior) for senior in DEALING_ORDER[: position + 1]]
        holders = np.flatnonzero(alive & (published == SPLITS.index(name)) & (twins < 0))
        others = np.flatnonzero(alive & ~np.isin(published, seniors) & (twins < 0))
        if not len(holders) or not len(others):
            continue
        keys, first = np.unique(group[holders], return_index=True)
        places = np.minimum(np.searchsorted(keys, group[others]), len(keys) - 1)
        same = keys[places] == group[others]
        twins[others[same]] = holders[first[places[same]]]
    return twins


def find_conflicts(index: CandidateIndex, alive: np.ndarray) -> np.ndarray:
    """All rows of a text that has different labels in one task: which label is right cannot be known.

    (N,) bool -> (N,) bool
    """
    numbers = np.flatnonzero(alive & (index.task > 0))
    text_and_task = index.group[numbers] + index.task[numbers] * TASK_STRIDE  # uint64, wraps around
    _, inverse = np.unique(text_and_task, return_inverse=True)
    lowest = np.full(len(numbers), np.iinfo(index.label.dtype).max, dtype=index.label.dtype)
    highest = np.zeros(len(numbers), dtype=index.label.dtype)
    np.minimum.at(lowest, inverse, index.label[numbers])
    np.maximum.at(highest, inverse, index.label[numbers])
    conflicts = np.zeros(len(index), dtype=bool)
    conflicts[numbers] = (lowest != highest)[inverse]
    return conflicts


def find_surplus(index: CandidateIndex, alive: np.ndarray, source: np.ndarray, limit: np.ndarray) -> np.ndarray:
    """Rows beyond the number that one text may have in one source; the first ones stay.

    `source`: (N,) number of each row's source; `limit`: (N,) rows a text may have there, 0 for any number.
    (N,) bool -> (N,) bool
    """
    numbers = np.flatnonzero(alive & (limit > 0))
    order = numbers[np.lexsort((numbers, source[numbers], index.group[numbers]))]
    starts = np.ones(len(order), dtype=bool)  # the starts of texts or sources
    starts[1:] = (np.diff(index.group[order]) != 0) | (np.diff(source[order]) != 0)
    positions = np.arange(len(order))
    rank = positions - np.maximum.accumulate(np.where(starts, positions, 0))
    surplus = np.zeros(len(index), dtype=bool)
    surplus[order] = rank >= limit[order]
    return surplus


def deal_out(index: CandidateIndex, alive: np.ndarray, quotas: Quotas) -> np.ndarray:
    """The split of each row as its position in SPLITS, or NOT_CHOSEN: (N,) bool -> (N,) int8.

    Rows that belong together go to the first split with room for all of them, else as many as fit to the
    first that has room for any; never to two.
    """
    split_of = np.full(len(index), NOT_CHOSEN, dtype=np.int8)
    room = {SPLITS.index(name): list(quotas[name]) for name in DEALING_ORDER if name in quotas}
    numbers = np.flatnonzero(alive)
    side = index.group if index.side is None else index.side
    numbers = numbers[np.argsort(side[numbers], kind="stable")]
    dealt = _iterate(side, numbers, index.cell)
    to_fill = sum(sum(quota) for quota in room.values())
    for _, members in itertools.groupby(dealt, key=operator.itemgetter(0)):
        if not to_fill:
            break
        group = [(number, cell) for _, number, cell in members]
        split = _find_split(room, group)
        for number, cell in group:
            if split is not None and room[split][cell]:
                split_of[number] = split
                room[split][cell] -= 1
                to_fill -= 1
    return split_of


def _iterate(group: np.ndarray, numbers: np.ndarray, cell: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """(group, number, cell) of each row as Python's integers, some at a time: all of 5 million would take 600 MB."""
    for start in range(0, len(numbers), ROWS_AT_A_TIME):
        part = numbers[start : start + ROWS_AT_A_TIME]
        yield from zip(group[part].tolist(), part.tolist(), cell[part].tolist(), strict=True)


def _find_split(room: dict[int, list[int]], group: list[tuple[int, int]]) -> int | None:
    if len(group) == 1:  # nearly all: ten times faster than counting
        cell = group[0][1]
        return next((split for split, free in room.items() if free[cell]), None)
    wanted = Counter(cell for _, cell in group)
    for split, free in room.items():
        if all(free[cell] >= count for cell, count in wanted.items()):
            return split
    return next((split for split, free in room.items() if any(free[cell] for cell in wanted)), None)
