"""Rows that hold a text of an evaluation file, found by shared runs of 13 characters.

held_out = EvaluationTexts.read(["benchmark.jsonl"])
held_out.find(row)            # None, or "holds 97% of benchmark.jsonl:12"

Overlap of 13-grams is how GPT-3's training data were cleaned (Brown et al. 2020, appendix C); theirs are words, these
are characters without spaces and punctuation, so that Chinese needs no words. One shared run of 13 letters says little
in English, so a row counts only where it holds most of the runs of one evaluation text.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sft.data.files.reader import BadRow, RowReader
from sft.data.rows.canonical import Row, answer_of, question_of
from sft.errors import DataError
from sft.files import find_file, sha256_of
from sft.text.normalise import normalise_text
from sft.text.shingles import hash_ngrams

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
            raise DataError(f"--decontaminate: {found.file}:{found.line}: {found.message}; mend the evaluation file")
        yield f"{found.file}:{found.line}", question_of(found.row)
