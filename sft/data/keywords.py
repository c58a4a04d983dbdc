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


# Full-width punctuation, as NFKC has it; replacing it first spares most Chinese texts the 14 microseconds of NFKC.
PUNCTUATION = tuple(zip("，！？：；（）\u3000", ",!?:;() ", strict=True))


class KeywordSet:
    """Terms to look for, compared after NFKC and case folding; runs of white space are one space.

    The automaton works on UTF-8 bytes: its nodes search their children one by one, and a node of characters may have
    thousands.
    """

    def __init__(self, terms: Iterable[str]) -> None:
        self._automaton = ahocorasick.Automaton()
        for term in terms:
            folded = fold_text(term)
            if folded:
                size = len(_to_bytes(folded))
                self._automaton.add_word(_as_text(folded), (term, size, _is_word(folded[0]), _is_word(folded[-1])))
        if not len(self._automaton):
            raise DataError("a keyword list holds no terms; give at least one, or leave it out")
        self._automaton.make_automaton()

    def __len__(self) -> int:
        return len(self._automaton)

    def find(self, text: str) -> str | None:
        """The first term that stands in the text, as it was given, or None."""
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
    """Whether a character, if there is one, is part of a word of a script with spaces."""
    return (character.isalnum() or character == "_") and not UNSPACED.match(character)
