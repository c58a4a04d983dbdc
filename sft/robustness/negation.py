"""Which characters of a text no perturbation may touch: a typo in 不好 would not preserve the label.

protect("不好吃") -> [True, True, False]: the negation, and the character it is said of.
"""

import re

# Words first, so that their whole length is protected; then single characters that negate wherever they stand.
CHINESE = "没有|没能|没法|并非|毫无|绝非|从未|未必|难以|毫不|不|没|沒|無|无|未|非|别|勿|莫|否|毋|休|甭|缺|假"
ENGLISH = r"\b(?:not|no|never|none|nothing|nobody|neither|nor|without|hardly|barely|cannot|lack|lacks)\b|\b\w+n['’]t\b"
# What turns a whole sentence round is as much part of the label: 但 and its like must stay readable.
CONTRAST = r"但是?|不过|然而|却|可惜|除了|\b(?:but|however|although|except|unfortunately)\b"
NEGATION = re.compile(f"{CHINESE}|{ENGLISH}", re.IGNORECASE)
PROTECTED = re.compile(f"(?:{CHINESE})[\u4e00-\u9fff]?|(?:{ENGLISH})(?:\\s+\\w+)?|{CONTRAST}", re.IGNORECASE)


def is_negating(text: str) -> bool:
    """Whether a word, or a part of it, negates: is_negating("不错") -> True, is_negating("干净") -> False."""
    return NEGATION.search(text) is not None


def protect(text: str) -> list[bool]:
    """For each character whether it must stay: negations with what stands behind them, and words of contrast."""
    kept = [False] * len(text)
    for match in PROTECTED.finditer(text):
        kept[match.start() : match.end()] = [True] * (match.end() - match.start())
    return kept
