"""Near duplicates: rows whose shingles are mostly another row's, found by MinHash signatures and checked on the texts.

A row is never called a near duplicate by its signature alone: each pair that shares a band is compared shingle by
shingle, so no row below the threshold is dropped, and a pair above it is missed with a probability below one percent.

A signature is 192 bytes per text. The hashes are rensa's (MinHash, Broder 1997; locality-sensitive hashing by bands as
in Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, ch. 3). rensa's own index holds everything in memory; here
signatures are on disk and one band is in memory at a time, so that 5 million rows fit a laptop.

Rows that hold a text of an evaluation file are found by shared runs of 13 characters, as GPT-3's training data were
cleaned (Brown et al. 2020, appendix C); theirs are words, these are characters without spaces and punctuation, so that
Chinese needs no words. One shared run of 13 letters says little in English, so a row counts only if it holds most of
the runs of one evaluation text.

    held_out = EvaluationTexts.read(["benchmark.jsonl"])
    held_out.find(row)            # None, or "holds 97% of benchmark.jsonl:12"
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from sft.console import progress
from sft.data.files.reader import BadRow, RowReader
from sft.data.rows.canonical import Row, answer_of, question_of
from sft.errors import DataError
from sft.files import find_file, sha256_of
from sft.text import hash_ngrams, normalise_text, shingles_of

MARGIN = 0.16  # four standard deviations of a Jaccard of .8 that is estimated by 96 hashes
SHOWN_FROM = 50_000  # rows; fewer take seconds
IsNear = Callable[[int, int], bool]
NUM_BANDS = 16
BAND_HASHES = 6  # two texts of Jaccard .8 share a band with probability 1 - (1 - .8^6)^16 = .992, of .5 with .22
NUM_HASHES = NUM_BANDS * BAND_HASHES
HASH_SEED = 42  # not the user's: it decides what is found, which must not depend on --seed
ROW_BYTES = NUM_HASHES * 2
ROWS_AT_A_TIME = 65_536


class SignatureFile:
    """Signatures on disk, one per row; a context manager. Opens the file or creates an empty one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO = path.open("a+b")

    def __len__(self) -> int:
        return self._path.stat().st_size // ROW_BYTES

    def append(self, signatures: np.ndarray) -> None:
        """Add rows at the end."""
        self._file.write(signatures.tobytes())
        self._file.flush()

    def append_file(self, path: Path) -> None:
        """Add the rows of another such file at the end."""
        with path.open("rb") as file:
            shutil.copyfileobj(file, self._file)
        self._file.flush()

    def read(self, numbers: np.ndarray) -> np.ndarray:
        """The signatures of these rows. Read, not mapped: pages that are mapped count as this process's memory."""
        descriptor = self._file.fileno()
        rows = (os.pread(descriptor, ROW_BYTES, number * ROW_BYTES) for number in numbers.tolist())
        return np.frombuffer(b"".join(rows), dtype=np.uint16).reshape(-1, NUM_HASHES)

    def band_keys(self, band: int) -> np.ndarray:
        """One 64-bit key a row, equal where two rows agree in all hashes of the band: (N,) uint64."""
        keys = np.empty(len(self), dtype=np.uint64)
        columns = slice(band * BAND_HASHES, (band + 1) * BAND_HASHES)
        with self._path.open("rb") as file:
            for start in range(0, len(keys), ROWS_AT_A_TIME):
                part = np.frombuffer(file.read(ROWS_AT_A_TIME * ROW_BYTES), dtype=np.uint16).reshape(-1, NUM_HASHES)
                mixed = np.full(len(part), band, dtype=np.uint64)
                for column in part[:, columns].T.astype(np.uint64):
                    mixed = (mixed ^ column) * np.uint64(0x9E3779B97F4A7C15)
                    mixed ^= mixed >> np.uint64(29)
                keys[start : start + len(part)] = mixed
        return keys

    def __enter__(self) -> "SignatureFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def find_near_duplicates(
    signatures: SignatureFile,
    alive: np.ndarray,  # (N,) bool: rows to look at
    threshold: float,
    is_near: IsNear,
    *,
    side: np.ndarray | None = None,  # (N,) int: only rows of different sides are compared, and the lower side stays
) -> np.ndarray:
    """Index of the earlier row that each row nearly duplicates, or -1: (N,) int64.

    The row named stays itself, unless it is near an even earlier one that shares another band with it.
    """
    alive = alive.copy()
    twins = np.full(len(alive), -1, dtype=np.int64)
    refused: set[tuple[int, int]] = set()  # pairs that share several bands are compared once
    num_rows = int(np.count_nonzero(alive))
    shown = num_rows >= SHOWN_FROM
    for band in progress(range(NUM_BANDS), description=f"compare {num_rows:,} rows", unit="band", shown=shown):
        for members in _runs(signatures.band_keys(band), alive, side):
            _compare(members, signatures.read(members), threshold, is_near, side, twins, refused)
        alive &= twins < 0
    return twins


def _runs(keys: np.ndarray, alive: np.ndarray, side: np.ndarray | None) -> Iterator[np.ndarray]:
    """Rows that share a band's key, two or more, of two sides or more, in the order of side and number."""
    numbers = np.flatnonzero(alive)
    if side is not None:
        numbers = numbers[np.argsort(side[numbers], kind="stable")]
    numbers = numbers[np.argsort(keys[numbers], kind="stable")]
    if not len(numbers):
        return
    starts = np.flatnonzero(np.concatenate([[True], np.diff(keys[numbers]) != 0]))
    ends = np.append(starts[1:], len(numbers))
    wanted = ends - starts > 1
    if side is not None:
        sides = side[numbers]
        wanted &= np.minimum.reduceat(sides, starts) != np.maximum.reduceat(sides, starts)
    for start, end in zip(starts[wanted].tolist(), ends[wanted].tolist(), strict=True):
        yield numbers[start:end]


def _compare(
    members: np.ndarray,
    rows: np.ndarray,  # (M, NUM_HASHES) their signatures
    threshold: float,
    is_near: IsNear,
    side: np.ndarray | None,
    twins: np.ndarray,
    refused: set[tuple[int, int]],
) -> None:
    """Compare each row with those before it that stay; enter what is found in `twins`."""
    staying = [0]  # positions in members
    lower = np.zeros(0, dtype=np.int64)  # those of a lower side than the row's own
    for position in range(1, len(members)):
        if side is None:
            others = np.array(staying)
        elif side[members[position]] != side[members[position - 1]]:
            others = lower = np.array(staying)
        else:
            others = lower
        equal = np.count_nonzero(rows[others] == rows[position], axis=1)
        likely = equal >= (threshold - MARGIN) * NUM_HASHES
        for other in others[likely][np.argsort(-equal[likely], kind="stable")].tolist():
            pair = int(members[position]), int(members[other])
            if pair in refused:
                continue
            if is_near(*pair):
                twins[pair[0]] = pair[1]
                break
            refused.add(pair)
        else:
            staying.append(position)


def sign_texts(texts: Sequence[str]) -> np.ndarray:
    """The signatures of texts: (N, NUM_HASHES) uint16, the lower half of each hash."""
    if not texts:
        return np.zeros((0, NUM_HASHES), dtype=np.uint16)
    from rensa import RMinHash  # 20 ms

    sets = [shingles_of(text) for text in texts]
    offsets = np.cumsum([0, *(len(shingles) for shingles in sets)], dtype=np.uint64)
    matrix = RMinHash.digest_matrix_from_flat_token_hashes(np.concatenate(sets), offsets, NUM_HASHES, HASH_SEED)
    return np.array(matrix.to_rows(), dtype=np.uint32).astype(np.uint16)


NGRAM = 13  # characters
CONTAINED = 0.8  # share of an evaluation text's n-grams that a row must hold
COMMON = 10  # an n-gram of more evaluation texts than this is a phrase of the task, not of a text (GPT-3's number)


@dataclass(frozen=True)
class EvaluationTexts:
    """N-grams of held-out texts as sorted arrays; every n-gram occurs once for each text that contains it."""

    places: tuple[str, ...]  # of every text: "benchmark.jsonl:12"
    ngrams: np.ndarray  # (G,) uint64, sorted
    owners: np.ndarray  # (G,) int32: the text an n-gram is of
    sizes: np.ndarray  # (T,) int32: n-grams of each text that count
    whole: dict[str, int]  # normalised text -> its number, for those too short or too common to have n-grams
    files: dict[str, str]  # name -> SHA-256, for the manifest

    @classmethod
    def read(cls, files: Iterable[str]) -> "EvaluationTexts":
        """The questions of every row of these files, in any accepted form. Raises DataError if one is unusable."""
        places: list[str] = []
        texts: list[str] = []
        hashes: dict[str, str] = {}
        for name in files:
            path = find_file(name)
            hashes[name] = sha256_of(path)
            for place, text in _read_questions(name, path):
                places.append(place)
                texts.append(normalise_text(text))
        return cls._index(places, texts, hashes)

    @classmethod
    def _index(cls, places: list[str], texts: list[str], hashes: dict[str, str]) -> "EvaluationTexts":
        held = [np.unique(hash_ngrams(text, NGRAM)) if len(text) >= NGRAM else _NONE for text in texts]
        totals = np.array([len(grams) for grams in held], dtype=np.int32)
        ngrams = np.concatenate([_NONE, *held])
        owners = np.repeat(np.arange(len(held), dtype=np.int32), totals)
        _, inverse, counts = np.unique(ngrams, return_inverse=True, return_counts=True)
        telling = counts[inverse] <= COMMON if len(ngrams) else np.zeros(0, dtype=bool)
        sizes = np.bincount(owners[telling], minlength=len(texts)).astype(np.int32)
        compared_whole = sizes * 2 < np.maximum(totals, 1)  # too short, or mostly phrases of the task
        telling &= ~compared_whole[owners]
        ngrams, owners = ngrams[telling], owners[telling]
        order = np.argsort(ngrams, kind="stable")
        whole: dict[str, int] = {}
        for number in np.flatnonzero(compared_whole).tolist():
            whole.setdefault(texts[number], number)
        return cls(tuple(places), ngrams[order], owners[order], sizes, whole, hashes)

    def find(self, row: Row) -> str | None:
        """What the row holds of which evaluation text, or None: "holds 97% of benchmark.jsonl:12"."""
        question = normalise_text(question_of(row))
        if self.whole and question in self.whole:
            return f"holds 100% of {self.places[self.whole[question]]}"
        text = question + normalise_text(answer_of(row))
        if len(text) < NGRAM or not len(self.ngrams):
            return None
        grams = np.unique(hash_ngrams(text, NGRAM))
        starts = np.searchsorted(self.ngrams, grams, side="left")
        hits = np.flatnonzero(self.ngrams[np.minimum(starts, len(self.ngrams) - 1)] == grams)
        if not len(hits):
            return None
        ends = np.searchsorted(self.ngrams, grams[hits], side="right")
        owners = np.concatenate([self.owners[a:b] for a, b in zip(starts[hits].tolist(), ends.tolist(), strict=True)])
        texts, shared = np.unique(owners, return_counts=True)
        share = shared / self.sizes[texts]
        best = int(np.argmax(share))
        return f"holds {share[best]:.0%} of {self.places[texts[best]]}" if share[best] >= CONTAINED else None


_NONE = np.zeros(0, dtype=np.uint64)


def _read_questions(name: str, path: Path) -> Iterator[tuple[str, str]]:
    for found in RowReader(path, shown_as=name):
        if isinstance(found, BadRow):
            raise DataError(f"--decontaminate: {found.file}:{found.line}: {found.message}; fix the evaluation file")
        yield f"{found.file}:{found.line}", question_of(found.row)
