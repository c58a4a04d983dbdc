"""Texts with a known likeness to each other: what duplicate and leak detection is measured on."""

import random
from collections.abc import Iterator
from typing import NamedTuple

from sft.text import jaccard, shingles_of

HAN = "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方民得经"
ENGLISH_WORDS = (
    "model train data layer token answer question water river mountain protein signal voltage circuit amplifier "
    "patient doctor result method measure light energy market price teacher school history empire village bridge "
    "engine wheel pressure temperature carbon oxygen planet orbit gravity language grammar sentence memory cache thread"
)
ENGLISH = ENGLISH_WORDS.split()


class NearPair(NamedTuple):
    """A text and an edited one, with their Jaccard similarity."""

    text: str
    edited: str
    similarity: float


def make_text(language: str, rng: random.Random) -> str:
    """A random text of 60 to 120 Han characters, or of 30 to 60 English words."""
    if language == "zh":
        return "".join(rng.choices(HAN, k=rng.randint(60, 120)))
    return " ".join(rng.choices(ENGLISH, k=rng.randint(30, 60)))


def make_near_pairs(language: str, count: int, low: float, high: float, rng: random.Random) -> Iterator[NearPair]:
    """Pairs whose Jaccard similarity lies between the two bounds: characters or words replaced one by one."""
    while count:
        text = make_text(language, rng)
        units = list(text) if language == "zh" else text.split()
        similarity = 1.0
        while similarity > high:
            units[rng.randrange(len(units))] = rng.choice(HAN) if language == "zh" else rng.choice(ENGLISH)
            edited = "".join(units) if language == "zh" else " ".join(units)
            similarity = jaccard(shingles_of(text), shingles_of(edited))
        if similarity >= low:
            count -= 1
            yield NearPair(text, edited, similarity)
