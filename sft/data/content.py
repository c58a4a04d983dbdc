"""What makes two rows the same: the normalised text of their question, and the exact question with its answer.

normalise_text("Ｈello, World！")              # "helloworld"
group_key("很好。", seed=42) == group_key("很 好", seed=42)
"""

import functools
import hashlib
import re
import unicodedata

from prompts.task import INVISIBLE
from sft.data.canonical import Row, answer_of, asked_of

KEY_BYTES = 8  # two of 5 million texts share a key with probability 7e-7


def normalise_text(text: str) -> str:
    """NFKC, case folded, without whitespace, punctuation and zero-width characters; of a text of nothing else NFKC."""
    bare = _skipped().sub("", text)
    if not bare.isascii() and not unicodedata.is_normalized("NFKC", bare):  # the test is much cheaper than NFKC
        bare = _skipped().sub("", unicodedata.normalize("NFKC", bare))
    return bare.casefold() or unicodedata.normalize("NFKC", text)


def group_key(text: str, seed: int) -> int:
    """A 64-bit key of the normalised text. Rows of one key stay on one side of a split.

    The seed keys the hash, so sorting by it is a random order that depends on nothing but seed and text.
    """
    return _hash(normalise_text(text), str(seed).encode())


def exact_key(row: Row) -> int:
    """A 64-bit key of task, question and answer as they stand, system prompt included: rows of one key are duplicates.

    Of conversations also which answers are learned: a file may hold one for each of them.
    """
    marks = ""
    if "messages" in row and any("supervised" in turn for turn in row["messages"]):
        marks = "\0" + "".join("-" if turn.get("supervised") is False else "+" for turn in row["messages"])
    return _hash(f"{row['task']}\0{asked_of(row)}\0{answer_of(row)}{marks}", b"")


def _hash(text: str, key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=KEY_BYTES, key=key).digest(), "little")


@functools.cache
def _skipped() -> re.Pattern[str]:
    """Whitespace, punctuation (P and Z) and zero-width characters of the basic plane as one class, compiled once."""
    codes = [
        code
        for code in range(0x10000)
        if unicodedata.category(chr(code))[0] in "PZ" or chr(code).isspace() or chr(code) in INVISIBLE
    ]
    ranges: list[list[int]] = []
    for code in codes:
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return re.compile("[" + "".join(f"\\u{first:04x}-\\u{last:04x}" for first, last in ranges) + "]+")
