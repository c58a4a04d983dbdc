"""Keyword sets: thousands of terms found in one pass over a text (Aho-Corasick).

keywords = KeywordSet(["gan", "人工智能"])
keywords.find("We train a GAN")               # "gan"
keywords.find("the organ")                    # None: Latin terms are words
keywords.find("他研究人工智能多年")              # "人工智能": Chinese terms stand anywhere
"""

import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import ahocorasick

from sft.data.places import find_file
from sft.errors import DataError

# Scripts that put no space between words: Han, kana, Hangul (particles follow at once), Thai, Lao, Khmer, Burmese.
UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u30ff\u3130-\u318f\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]"
)


class KeywordSet:
    """Terms to look for, compared after NFKC and case folding; runs of white space are one space."""

    def __init__(self, terms: Iterable[str]) -> None:
        self._automaton = ahocorasick.Automaton()
        for term in terms:
            folded = fold_text(term)
            if folded:
                bounds = len(folded), _is_word(folded[0]), _is_word(folded[-1])
                self._automaton.add_word(folded, (term, *bounds))
        if not len(self._automaton):
            raise DataError("a keyword list holds no terms; give at least one, or leave it out")
        self._automaton.make_automaton()

    def __len__(self) -> int:
        return len(self._automaton)

    def find(self, text: str) -> str | None:
        """The first term that stands in the text, as it was given, or None."""
        folded = fold_text(text)
        for end, (term, length, opens_word, closes_word) in self._automaton.iter(folded):
            start = end - length + 1
            if opens_word and start and _is_word(folded[start - 1]):
                continue
            if closes_word and end + 1 < len(folded) and _is_word(folded[end + 1]):
                continue
            return str(term)
        return None


def fold_text(text: str) -> str:
    """NFKC, case folded, white space as single spaces: "ＧＡＮ\\n model" -> "gan model"."""
    if not text.isascii() and not unicodedata.is_normalized("NFKC", text):
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def read_terms(path: str) -> list[str]:
    """The terms of a file, one a line; blank lines and those that begin with # are none. Raises DataError."""
    try:
        lines = Path(find_file(path)).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise DataError(f"{path}: a keyword list in another encoding than UTF-8; convert it") from None
    terms = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not terms:
        raise DataError(f"{path}: the keyword list holds no terms; write one a line")
    return terms


def _is_word(character: str) -> bool:
    return (character.isalnum() or character == "_") and not UNSPACED.match(character)
