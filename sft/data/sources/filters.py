"""Filters of a source: conditions its rows must meet; each row left out is counted under the reason given here.

    filters:
      min_chars: 8
      languages: [zh, en]
      include_keywords: [transistor, 半导体]      # or a file of terms: my_terms.txt
      max_repetition: 0.5

Thousands of keywords are found in one pass over a text (Aho-Corasick):

    keywords = KeywordSet(["gan", "人工智能"])
    keywords.find("We train a GAN")               # "gan"
    keywords.find("a pair of GANs")               # "gan": their plural and a hyphen for a blank are the same
    keywords.find("the organ")                    # None: Latin terms are words
    keywords.find("他研究人工智能多年")              # "人工智能": Chinese terms may occur anywhere
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import ahocorasick
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from sft.data.rows.canonical import Row, answer_of, question_of
from sft.errors import DataError, nearest_name
from sft.files import find_file
from sft.text import LANGUAGES, UNSPACED, detect_language, hash_ngrams

REPEATED_NGRAM = 10  # characters that stand a second time count as repeated

# Scripts that put no space between words: Han, kana, Hangul (particles follow at once), Thai, Lao, Khmer, Burmese.
UNSPACED_LETTER = re.compile(f"[{UNSPACED}]")

# Full-width punctuation, as NFKC has it; replacing it first spares most Chinese texts the 14 microseconds of NFKC.
PUNCTUATION = tuple(zip("，！？：；（）\u3000\u2010\u2011", ",!?:;() --", strict=True))
PLURAL = ((re.compile(r"[^aeiou]y$"), 1, "ies"), (re.compile(r"(?:s|x|z|ch|sh)$"), 0, "es"), (re.compile("$"), 0, "s"))


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
    include_keywords: tuple[str, ...] | str | None = None  # terms, or a file with one per line; a row must hold one
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
            raise ValueError("has no terms; give at least one, or leave it out")
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
        """The reason to leave a row out, or None to keep it; the cheapest checks come first."""
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
    """Share of a text's runs of ten characters that are in it before: 0 for prose, near 1 for a loop.

    "哈" * 50 -> .976. As the duplicate n-grams of Rae et al. 2021 (Gopher, table A1), on characters, so that Chinese
    needs no words. A text below eleven characters cannot be told to repeat: 0.
    """
    if len(text) <= REPEATED_NGRAM:
        return 0.0
    ngrams = hash_ngrams(text, REPEATED_NGRAM)
    return 1 - len(np.unique(ngrams)) / len(ngrams)


class KeywordSet:
    """Terms to look for, compared after NFKC and case folding; runs of white space are one space.

    A term of ASCII letters stands for its plural, too, and one of several words for them with hyphens between them.

    The automaton works on UTF-8 bytes: its nodes search their children one at a time, and a node of characters may have
    thousands.
    """

    def __init__(self, terms: Iterable[str]) -> None:
        self._automaton = ahocorasick.Automaton()
        for term in terms:
            for folded in _forms_of(fold_text(term)):
                size = len(_to_bytes(folded))
                self._automaton.add_word(_as_text(folded), (term, size, _is_word(folded[0]), _is_word(folded[-1])))
        if not len(self._automaton):
            raise DataError("a keyword list has no terms; give at least one, or leave it out")
        self._automaton.make_automaton()

    def __len__(self) -> int:
        return len(self._automaton)

    def find(self, text: str) -> str | None:
        """The first term that is in the text, as it was given, or None."""
        data = _to_bytes(fold_text(text))
        for last, (term, size, opens_word, closes_word) in self._automaton.iter(data.decode("latin-1")):
            start, end = last + 1 - size, last + 1
            # a character has at most four bytes, and the last or first whole one of four bytes is the neighbour
            if opens_word and _is_word(data[max(0, start - 4) : start].decode("utf-8", "ignore")[-1:]):
                continue
            if closes_word and _is_word(data[end : end + 4].decode("utf-8", "ignore")[:1]):
                continue
            return str(term)
        return None


def _forms_of(folded: str) -> set[str]:
    """The ways in which a folded term is written: {"neural network", "neural-network", "neural networks", ...}."""
    if not folded:
        return set()
    forms = {folded}
    if folded.isascii() and len(folded) > 2 and folded[-1].isalpha():
        number, ending = next((cut, ending) for pattern, cut, ending in PLURAL if pattern.search(folded))
        forms.add(folded[: len(folded) - number] + ending)
    return forms | {form.replace(one, other) for form in forms for one, other in (" -", "- ")}


def _make_keywords(terms: Sequence[str] | str | None) -> KeywordSet | None:
    if terms is None:
        return None
    return KeywordSet(read_terms(terms) if isinstance(terms, str) else terms)


def fold_text(text: str) -> str:
    """NFKC, case folded, white space as single spaces: "ＧＡＮ\\n model" -> "gan model"."""
    if not text.isascii():
        for wide, narrow in PUNCTUATION:
            text = text.replace(wide, narrow)
        if not unicodedata.is_normalized("NFKC", text):
            text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _as_text(text: str) -> str:
    """UTF-8 bytes as characters below 256, which is what the automaton takes."""
    return _to_bytes(text).decode("latin-1")


def read_terms(path: str) -> list[str]:
    """The terms of a file, one per line; blank lines and lines that begin with # are skipped. Raises DataError."""
    try:
        lines = Path(find_file(path)).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path}: a keyword list in another encoding than UTF-8; convert it") from None
    terms = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not terms:
        raise DataError(f"{path}: the keyword list has no terms; write one per line")
    return terms


def _is_word(character: str) -> bool:
    """Whether a character, if there is one, is part of a word of a script with spaces."""
    return (character.isalnum() or character == "_") and not UNSPACED_LETTER.match(character)
