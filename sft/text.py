"""Text as every room sees it: scripts, languages, words, the normal form by which texts are equal, near duplicates.

HAN, KANA, HANGUL and LATIN are scripts as ranges of characters, to be joined in a class: f"[{HAN}{KANA}]".

split_words gives the units that ROUGE and distinct-n count. rouge-score's own tokenizer keeps only a-z and 0-9, so it
finds no token at all in a Chinese answer. Here every ideograph and kana counts by itself and every other run of letters
and digits is one word; on ASCII text the result is exactly that of rouge-score without stemming.

detect_language tells the language by script and, for Latin letters, by the commonest words. A statistical identifier
tells a hundred languages and needs a model file and 50 to 1,000 microseconds per text; a mixture asks which of few
languages a text is in, and that its answer never changes with a version.
"""

import functools
import re
import unicodedata
from collections import Counter

import numpy as np

from prompts.task import INVISIBLE

# Unified ideographs with extension A, the compatibility block, and the supplementary planes.
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KANA = "\u3040-\u30ff\u31f0-\u31ff"  # hiragana, katakana and its phonetic extensions
HANGUL = "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
LATIN = "A-Za-z\u00c0-\u024f\u1e00-\u1eff"
UNSPACED = f"{HAN}{KANA}{HANGUL}\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # and Thai, Lao, Burmese, Khmer


WORDS_SIGNATURE = "words:ideograph|alnum-run,nfkc,casefold"

# The iteration mark and the zero of Chinese numbers are written like ideographs, in a block of punctuation.
CHARACTER = f"\u3005\u3007{HAN}{KANA}"
WORD = re.compile(f"[{CHARACTER}]|[^\\W_{CHARACTER}]+")


def split_words(text: str) -> list[str]:
    """Words of a text, full-width forms and case made equal, punctuation left out.

    split_words("我用 Python3 写代码。") -> ["我", "用", "python3", "写", "代", "码"]
    """
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


MAX_WORDS = 200  # of a text in Latin letters; the rest says no more

SCRIPTS = {
    "zh": re.compile(f"[{HAN}]"),
    "ja": re.compile(f"[{KANA}]"),
    "ko": re.compile(f"[{HANGUL}]+"),
    "ru": re.compile("[\u0400-\u052f]+"),  # and its neighbours in Cyrillic letters
    "ar": re.compile("[\u0600-\u06ff\u0750-\u077f]+"),
    "hi": re.compile("[\u0900-\u097f]+"),
    "th": re.compile("[\u0e00-\u0e7f]+"),
    "el": re.compile("[\u0370-\u03ff\u1f00-\u1fff]+"),
    "he": re.compile("[\u0590-\u05ff]+"),
}
LATIN_WORD = re.compile(f"[{LATIN}]+")
COMMON_WORDS = {
    language: frozenset(words.split())
    for language, words in {
        # the last nine are words of other languages, too, so one of them alone decides nothing else
        "en": "the of and to is in that it for was on are as with be this by at you not have from or what how "
        "no do die plus pour come per met den",
        "fr": "le la les des et est une dans que qui pour pas sur avec du au ce il elle je vous nous sont ne plus",
        "de": "der die das und ist nicht ein eine zu den mit von auf für im dem sich auch es ich sie wie wird als",
        "es": "el los las y es una que por con para del se no su al lo como más pero sus le ha está qué un",
        "it": "il di che è la per un una non sono con del si da gli anche della nel ma come più questo dei alla",
        "pt": "o os as e um uma que não é de do da em para com por dos se na no mais como mas foi ao são",
        "nl": "de het een en van is dat niet op te zijn voor met die ook aan er maar om hij ik bij was wordt",
    }.items()
}
LANGUAGES = (*SCRIPTS, *COMMON_WORDS)


def detect_language(text: str) -> str:
    """One of LANGUAGES, or "" for a text without letters. Latin text without known words counts as English.

    A Han character counts as much as a Latin word, so a Chinese sentence full of English terms stays Chinese.
    """
    if text.isascii():
        return _detect_latin(LATIN_WORD.findall(text))
    units = {language: len(pattern.findall(text)) for language, pattern in SCRIPTS.items()}
    if units["ja"] * 10 >= units["zh"] and units["ja"]:
        units["ja"] += units["zh"]  # kanji among kana
        units["zh"] = 0
    words = LATIN_WORD.findall(text)
    best = max(units, key=lambda language: units[language])
    return best if units[best] and units[best] >= len(words) else _detect_latin(words)


def _detect_latin(words: list[str]) -> str:
    if not words:
        return ""
    counts = Counter(word.lower() for word in words[:MAX_WORDS])
    hits = {language: sum(counts[word] for word in common) for language, common in COMMON_WORDS.items()}
    return max(hits, key=lambda language: hits[language])  # English is first, so it wins a tie


# What makes two rows the same: the normalised text of their question, and the exact question with its answer


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


# Character n-grams as 64-bit hashes, computed for a whole text at once: what near duplicates and leaks are found by

HAN_SHINGLE = 2  # characters; one character changed in 20 leaves a Jaccard of .81, with 3 it leaves .72
LATIN_SHINGLE = 5  # letters, across words
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: Knuth, The Art of Computer Programming 3, 6.4
FINAL_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)  # the finaliser of splitmix64 (Steele et al. 2014)
IDEOGRAPHS = re.compile(f"[{HAN}{KANA}]+")


def hash_ngrams(text: str, size: int) -> np.ndarray:
    """The hash of every `size` characters in a row: (len(text) - size + 1,) uint64; a shorter text gives one hash."""
    # surrogatepass: no row contains half a character, but a fixture or a query may
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    size = max(1, min(size, len(codes)))
    mixed = np.full(max(1, len(codes) - size + 1), size, dtype=np.uint64)
    for start in range(size if len(codes) else 0):
        mixed = mixed * MULTIPLIER + codes[start : start + len(mixed)]  # wraps around
    mixed = (mixed ^ (mixed >> np.uint64(30))) * FINAL_MULTIPLIER
    return mixed ^ (mixed >> np.uint64(27))


def shingles_of(text: str) -> np.ndarray:
    """The distinct shingles of a text, sorted; width, case, spaces and punctuation make no difference. (S,) uint64."""
    bare = normalise_text(text)
    num_han = sum(map(len, IDEOGRAPHS.findall(bare)))
    return np.unique(hash_ngrams(bare, HAN_SHINGLE if num_han * 3 >= len(bare) else LATIN_SHINGLE))


def jaccard(first: np.ndarray, second: np.ndarray) -> float:
    """Shared shingles over all shingles of two sorted sets: 1.0 for equal texts."""
    shared = len(np.intersect1d(first, second, assume_unique=True))
    return shared / (len(first) + len(second) - shared)
