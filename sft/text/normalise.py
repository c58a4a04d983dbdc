"""What makes two rows the same: the normalised text of their question, and the exact question with its answer.

normalise_text("Ｈello, World！")              # "helloworld"
group_key("很好。", seed=42) == group_key("很 好", seed=42)
"""

import functools
import re
import unicodedata

from prompts.task import INVISIBLE


def normalise_text(text: str) -> str:
    """NFKC, case folded, without whitespace, punctuation and zero-width characters; of a text of nothing else NFKC."""
    bare = _skipped().sub("", text)
    if not bare.isascii() and not unicodedata.is_normalized("NFKC", bare):  # the test is much cheaper than NFKC
        bare = _skipped().sub("", unicodedata.normalize("NFKC", bare))
    return bare.casefold() or unicodedata.normalize("NFKC", text)


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
