"""Data that comes split by its publisher: which rows of one split stand in another, word for word or nearly.

overlaps.jsonl lists every such row:
    {"split": "test", "row": "chn_test-17", "where": "test.csv:18",
     "other_split": "train", "other": "chn_train-5", "other_where": "train.csv:6", "kind": "exact", "similarity": 1.0}
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson

from sft.data.candidates import CandidateStore
from sft.data.folder import Overlap
from sft.data.quotas import SPLITS
from sft.data.splits_apart import SplitGuard

COMPARED = (("test", "train"), ("validation", "train"), ("test", "validation"))
NAMED = 5  # pairs of each comparison that the manifest names


@dataclass(frozen=True)
class Pair:
    """A row and the row of another split that it overlaps with."""

    row: int
    other: int
    similarity: float  # 1.0 also where only width, case, spaces or punctuation differ
    kind: str  # "exact" or "near"


def find_overlaps(
    group: np.ndarray,  # (N,) uint64
    published: np.ndarray,  # (N,) int8: position in SPLITS, -1 for rows of sources without a split of their own
    store: CandidateStore,
    guard: SplitGuard | None,  # None: near overlaps are not looked for
    report: Path,
) -> list[Overlap]:
    """Compare every two published splits there are; writes `report` if there are two at all."""
    found: list[Overlap] = []
    lines: list[bytes] = []
    for split, other in COMPARED:
        rows = np.flatnonzero(published == SPLITS.index(split))
        others = np.flatnonzero(published == SPLITS.index(other))
        if not len(rows) or not len(others):
            continue
        pairs = _find_exact(group, rows, others)
        if guard is not None:
            rest = np.setdiff1d(rows, [pair.row for pair in pairs], assume_unique=True)
            pairs += _find_near(rest, others, len(group), guard)
        pairs.sort(key=lambda pair: pair.row)
        lines += [_describe(pair, split, other, store) for pair in pairs]
        found.append(
            {
                "split": split,
                "other_split": other,
                "rows": len(rows),
                "exact": sum(pair.kind == "exact" for pair in pairs),
                "near": sum(pair.kind == "near" for pair in pairs),
                "first": [_name(pair, store) for pair in pairs[:NAMED]],
            }
        )
    if found:
        report.write_bytes(b"".join(lines))
    return found


def describe_overlap(overlap: Overlap) -> str:
    """`test: 331 of 1,200 rows stand in train word for word, 12 more nearly: chn_test-17 = chn_train-5, ...`."""
    named = f": {', '.join(overlap['first'])}" if overlap["first"] else ""
    more = overlap["exact"] + overlap["near"] - len(overlap["first"])
    return (
        f"{overlap['split']}: {overlap['exact']:,} of {overlap['rows']:,} rows stand in {overlap['other_split']} word "
        f"for word, {overlap['near']:,} more nearly{named}{f', and {more:,} more' if more > 0 else ''}"
    )


def _find_exact(group: np.ndarray, rows: np.ndarray, others: np.ndarray) -> list[Pair]:
    keys, first = np.unique(group[others], return_index=True)
    places = np.minimum(np.searchsorted(keys, group[rows]), len(keys) - 1)
    same = keys[places] == group[rows]
    twins = others[first[places[same]]]
    return [Pair(row, other, 1.0, "exact") for row, other in zip(rows[same].tolist(), twins.tolist(), strict=True)]


def _find_near(rows: np.ndarray, others: np.ndarray, num_rows: int, guard: SplitGuard) -> list[Pair]:
    side = np.full(num_rows, -1, dtype=np.int64)
    side[others], side[rows] = 0, 1
    twins = guard.find_near(np.sort(np.concatenate([rows, others])), side)
    near = rows[twins[rows] >= 0]
    pairs = zip(near.tolist(), twins[near].tolist(), strict=True)
    return [Pair(row, other, guard.similarity(row, other), "near") for row, other in pairs]


def _describe(pair: Pair, split: str, other: str, store: CandidateStore) -> bytes:
    entry = {
        "split": split,
        "row": store.id_of(pair.row),
        "where": store.where(pair.row),
        "other_split": other,
        "other": store.id_of(pair.other),
        "other_where": store.where(pair.other),
        "kind": pair.kind,
        "similarity": round(pair.similarity, 4),
    }
    return orjson.dumps(entry) + b"\n"


def _name(pair: Pair, store: CandidateStore) -> str:
    row, other = store.id_of(pair.row), store.id_of(pair.other)
    return f"{row} = {other}" if pair.kind == "exact" else f"{row} ~ {other} ({pair.similarity:.2f})"
