"""Rows that are in two splits, word for word or nearly: kept apart where we split, listed where the publisher did.

    guard = SplitGuard(store, staging / "questions", threshold=0.8)
    twins = guard.find_straddlers(mixture.split_of)      # for each row of train the row of test it is near, or -1

Data that was split by its publisher is left as it is; overlaps.jsonl lists every row of it that is in another
split:

    {"split": "test", "row": "chn_test-17", "where": "test.csv:18",
     "other_split": "train", "other": "chn_train-5", "other_where": "train.csv:6", "kind": "exact", "similarity": 1.0}
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import orjson

from sft.console import Progress, progress
from sft.data.building.candidates import CandidateStore
from sft.data.building.selection import DEALING_ORDER, NOT_CHOSEN
from sft.data.folder import Overlap
from sft.data.likeness import SHOWN_FROM, IsNear, SignatureFile, find_near_duplicates, sign_texts
from sft.data.quotas import SPLITS
from sft.data.rows.canonical import Row, answer_of, question_of, system_of
from sft.text import jaccard, normalise_text, shingles_of

# Below 17 Han characters or 20 letters a text is near its equal only: there one character is another question.
MIN_SHINGLES = 16
KEPT_SHINGLES = 4096  # rows whose shingles are kept for the next comparison
SIGNED_AT_A_TIME = 2048
PARTS = Callable[[Row], list[str]]
COMPARED = (("test", "train"), ("validation", "train"), ("test", "validation"))
NAMED = 5  # pairs of each comparison that the manifest names


class SplitGuard:
    """Signs the questions of rows when it first meets them. A context manager."""

    def __init__(self, store: CandidateStore, path: Path, threshold: float) -> None:
        self._store = store
        self._threshold = threshold
        self._signatures = SignatureFile(path)
        self._compared = ComparedTexts(store, threshold, question_parts)
        self._position = np.full(len(store), -1, dtype=np.int32)  # of each row in the signature file
        self._numbers = np.zeros(0, dtype=np.int64)  # and back

    def find_straddlers(self, split_of: np.ndarray, may_straddle: np.ndarray | None = None) -> np.ndarray:
        """Number of a near row in an earlier split, for each chosen row; -1 if there is none: (N,) int64.

        The test split keeps its rows against validation and train, validation against train. Two rows of
        `may_straddle` (N,) bool are let be.
        """
        order = np.array([DEALING_ORDER.index(name) for name in SPLITS])
        chosen = np.flatnonzero(split_of != NOT_CHOSEN)
        side = np.full(len(split_of), -1, dtype=np.int64)
        side[chosen] = order[split_of[chosen]]
        return self.find_near(chosen, side, may_straddle)

    def find_near(self, rows: np.ndarray, side: np.ndarray, let_be: np.ndarray | None = None) -> np.ndarray:
        """Number of a near row on a lower side, for each of these rows; -1 if there is none: (N,) int64."""
        self._sign(rows[self._position[rows] < 0])
        numbers = self._numbers
        alive = np.zeros(len(numbers), dtype=bool)
        alive[self._position[rows]] = True
        here = side[numbers]  # by position in the signature file

        def is_near(later: int, earlier: int) -> bool:
            first, second = int(numbers[later]), int(numbers[earlier])
            if let_be is not None and let_be[first] and let_be[second]:
                return False
            return self._compared.is_near(first, second)

        found = find_near_duplicates(self._signatures, alive, self._threshold, is_near, side=here)
        twins = np.full(len(side), -1, dtype=np.int64)
        near = np.flatnonzero(found >= 0)
        twins[numbers[near]] = numbers[found[near]]
        return twins

    def similarity(self, first: int, second: int) -> float:
        """How much two rows ask the same: 0 to 1."""
        return self._compared.similarity(first, second)

    def _sign(self, rows: np.ndarray) -> None:
        bar: Progress[None]
        with progress(total=len(rows), description="sign questions", shown=len(rows) >= SHOWN_FROM) as bar:
            for start in range(0, len(rows), SIGNED_AT_A_TIME):
                part = rows[start : start + SIGNED_AT_A_TIME]
                texts = [question_of(self._store.read_row(number)) for number in part.tolist()]
                self._signatures.append(sign_texts(texts))
                bar.update(len(part))
        self._position[rows] = np.arange(len(self._numbers), len(self._numbers) + len(rows))
        self._numbers = np.concatenate([self._numbers, rows])

    def __enter__(self) -> "SplitGuard":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._signatures.__exit__(kind, error, trace)


class ComparedTexts:
    """Compares rows part by part, each of which must be near: a long instruction does not hide a different input."""

    def __init__(self, store: CandidateStore, threshold: float, parts: PARTS) -> None:
        self._store = store
        self._threshold = threshold
        self._parts = parts
        self._kept: dict[int, tuple[str, list[np.ndarray]]] = {}  # system prompt, shingles of each part

    def is_near(self, first: int, second: int) -> bool:
        """Whether every part reaches the threshold."""
        return self.similarity(first, second) >= self._threshold

    def similarity(self, first: int, second: int) -> float:
        """The Jaccard similarity of the parts that are least alike; 0 if one row has a part more, and where their
        system prompts differ: that may be a document, and one word of it makes it another question.
        """
        (a_system, a), (b_system, b) = self._shingles(first), self._shingles(second)
        return min(map(_compare_part, a, b)) if a_system == b_system and len(a) == len(b) else 0.0

    def _shingles(self, number: int) -> tuple[str, list[np.ndarray]]:
        if number not in self._kept:
            if len(self._kept) >= KEPT_SHINGLES:
                self._kept.clear()
            row = self._store.read_row(number)
            self._kept[number] = normalise_text(system_of(row)), [shingles_of(part) for part in self._parts(row)]
        return self._kept[number]


def _compare_part(first: np.ndarray, second: np.ndarray) -> float:
    similarity = jaccard(first, second)
    return similarity if similarity == 1 or min(len(first), len(second)) >= MIN_SHINGLES else 0.0


def question_parts(row: Row) -> list[str]:
    """What a row asks, an instruction apart from its input."""
    return [row["instruction"], row["input"]] if row.get("input") else [question_of(row)]


def all_parts(row: Row) -> list[str]:
    """What a row asks and what it answers."""
    return [*question_parts(row), answer_of(row)]


def make_is_near(store: CandidateStore, threshold: float) -> IsNear:
    """The comparison for near duplicates: questions and answers both."""
    return ComparedTexts(store, threshold, all_parts).is_near


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
    """`test: 331 of 1,200 rows are in train word for word, 12 more nearly: chn_test-17 = chn_train-5, ...`."""
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
