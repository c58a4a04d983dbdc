"""Rewrites of a statement in nine ways that keep its label.

Each takes a text and a random generator and returns the text unchanged if it has nothing to change; such
rows are left out of its test and counted. Negations and words of contrast are never touched (sft.robustness.lexicon).

    perturb("synonyms", "服务态度很好，购买方便", random.Random("row-1"))     # "服务态度很好，选购方便"
"""

import random
import re
from collections.abc import Callable, Sequence
from typing import TypeVar

from sft.robustness.lexicon import find_homophones, find_synonyms, find_words, protect
from sft.text.words import HAN

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
