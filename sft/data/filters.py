"""Filters of a source: what a row must keep to; each row left out is counted by the reason given here.

filters:
  min_chars: 8
  languages: [zh, en]
  include_keywords: [transistor, 半导体]      # or a file of terms: my_terms.txt
  max_repetition: 0.5
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from sft.data.canonical import Row, answer_of, question_of
from sft.data.keywords import KeywordSet, read_terms
from sft.data.languages import LANGUAGES, detect_language
from sft.data.places import find_file
from sft.data.shingles import hash_ngrams
from sft.errors import nearest_name

REPEATED_NGRAM = 10  # characters that stand a second time count as repeated


class Reason(NamedTuple):
    """Why a row is left out: a short word that is counted, and what the ledger adds for this row."""

    name: str  # "too_short", "excluded_keyword"
    detail: str = ""  # "gan"


class Filters(BaseModel):
    """Bounds, all inclusive; None does not bound. Lengths are in characters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_chars: int | None = None  # of the text or question
    max_chars: int | None = None
    min_answer_chars: int | None = None  # of the answer of rows that have one in words
    max_answer_chars: int | None = None
    max_entities: int | None = None  # of NER rows
    reject_pattern: str | None = None  # a regular expression; a text in which it is found is left out
    require_pattern: str | None = None  # one in which it is not found is left out
    languages: tuple[str, ...] | None = None  # of the text or question: zh, en, ...
    include_keywords: tuple[str, ...] | str | None = None  # terms, or a file with one a line; a row must hold one
    exclude_keywords: tuple[str, ...] | str | None = None  # a row must hold none
    keywords_in: Literal["question", "answer", "row"] = "row"
    max_repetition: float | None = Field(default=None, ge=0, le=1)  # share of the answer that repeats itself

    @field_validator("reject_pattern", "require_pattern")
    @classmethod
    def _check_pattern(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from None
        return pattern

    @field_validator("languages")
    @classmethod
    def _check_languages(cls, languages: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for language in languages or ():
            if language not in LANGUAGES:
                known = ", ".join(LANGUAGES)
                raise ValueError(f"unknown language {language!r}{nearest_name(language, LANGUAGES)} (known: {known})")
        return languages

    @field_validator("include_keywords", "exclude_keywords")
    @classmethod
    def _check_keywords(cls, terms: tuple[str, ...] | str | None) -> tuple[str, ...] | str | None:
        if terms is not None and not isinstance(terms, str) and not any(term.strip() for term in terms):
            raise ValueError("holds no terms; give at least one, or leave it out")
        return terms

    def files(self) -> dict[str, Path]:
        """The keyword files, by the name the preset gives: {"terms.txt": Path("terms.txt")}."""
        named = (self.include_keywords, self.exclude_keywords)
        return {terms: find_file(terms) for terms in named if isinstance(terms, str)}


class RowFilter:
    """Filters made ready for use: patterns compiled, keyword files read. Raises DataError for a missing file."""

    def __init__(self, filters: Filters) -> None:
        self._bounds = filters
        self._reject = re.compile(filters.reject_pattern) if filters.reject_pattern is not None else None
        self._require = re.compile(filters.require_pattern) if filters.require_pattern is not None else None
        self._include = _make_keywords(filters.include_keywords)
        self._exclude = _make_keywords(filters.exclude_keywords)

    def find_reason(self, row: Row) -> Reason | None:
        """Why this row is left out, or None where it stays; the cheapest bounds come first."""
        question, answer = question_of(row), answer_of(row)
        return self._check_sizes(row, question, answer) or self._check_content(question, answer)

    def _check_sizes(self, row: Row, question: str, answer: str) -> Reason | None:
        bounds = self._bounds
        if bounds.min_chars is not None and len(question) < bounds.min_chars:
            return Reason("too_short")
        if bounds.max_chars is not None and len(question) > bounds.max_chars:
            return Reason("too_long")
        if bounds.min_answer_chars is not None and len(answer) < bounds.min_answer_chars:
            return Reason("answer_too_short")
        if bounds.max_answer_chars is not None and len(answer) > bounds.max_answer_chars:
            return Reason("answer_too_long")
        if bounds.max_entities is not None and len(row.get("entities", [])) > bounds.max_entities:
            return Reason("too_many_entities")
        return None

    def _check_content(self, question: str, answer: str) -> Reason | None:
        bounds = self._bounds
        if self._reject is not None and self._reject.search(question):
            return Reason("rejected_pattern")
        if self._require is not None and not self._require.search(question):
            return Reason("missing_pattern")
        if bounds.languages is not None and (language := detect_language(question)) not in bounds.languages:
            return Reason("other_language", language or "no letters")
        searched = {"question": question, "answer": answer, "row": f"{question}\n{answer}"}[bounds.keywords_in]
        if self._exclude is not None and (term := self._exclude.find(searched)) is not None:
            return Reason("excluded_keyword", term)
        if self._include is not None and self._include.find(searched) is None:
            return Reason("no_keyword")
        if bounds.max_repetition is not None and (share := measure_repetition(answer)) > bounds.max_repetition:
            return Reason("repetitive_answer", f"{share:.0%} repeated")
        return None


def measure_repetition(text: str) -> float:
    """Share of a text's runs of ten characters that stand in it before: 0 for prose, near 1 for a loop.

    "哈" * 50 -> .976. As the duplicate n-grams of Rae et al. 2021 (Gopher, table A1), on characters, so that Chinese
    needs no words. A text below eleven characters cannot be told to repeat: 0.
    """
    if len(text) <= REPEATED_NGRAM:
        return 0.0
    ngrams = hash_ngrams(text, REPEATED_NGRAM)
    return 1 - len(np.unique(ngrams)) / len(ngrams)


def _make_keywords(terms: Sequence[str] | str | None) -> KeywordSet | None:
    if terms is None:
        return None
    return KeywordSet(read_terms(terms) if isinstance(terms, str) else terms)
