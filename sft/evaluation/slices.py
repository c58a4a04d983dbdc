"""Parts of the rows that figures are also told for: where a row comes from, how long it is, what it is written in."""

import re
from collections.abc import Callable, Sequence

from sft.data.canonical import question_of
from sft.evaluation.rows import EvalRow

LENGTH_EDGES = (64, 128, 256, 512, 1024, 2048, 4096)  # tokens of the whole row
MOSTLY = 0.8  # share of the words from which a text is of one script
HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
KANA = re.compile("[\u3041-\u30ff\u31f0-\u31ff]")
LATIN = re.compile("[A-Za-z\u00c0-\u024f\u1e00-\u1eff]+")
LETTER = re.compile(r"[^\W\d_]")


def language_of(text: str) -> str:
    """By script, since no model is at hand to tell more: "zh", "latin" (English and its kin), "mixed" or "other".

    A Chinese character and a Latin word count one each: language_of("我用 python 写代码") -> "zh" (6 of 7);
    language_of("什么是 LoRA adapter") -> "mixed". Text with kana, without letters, or in another script is "other".
    """
    num_han, num_latin = len(HAN.findall(text)), len(LATIN.findall(text))
    if KANA.search(text) or num_han + num_latin == 0:
        return "other"
    if len(LETTER.findall(text)) > 2 * (num_han + sum(map(len, LATIN.findall(text)))):
        return "other"  # mostly Cyrillic, Arabic, Hangul, ...
    share = num_han / (num_han + num_latin)
    return "zh" if share >= MOSTLY else "latin" if share <= 1 - MOSTLY else "mixed"


def language_of_row(row: EvalRow) -> str:
    """Of what the row asks and answers; the task's own prompt around it does not count."""
    return language_of(f"{question_of(row.row)}\n{row.reference}")


def length_bucket(num_tokens: int) -> str:
    """The bucket a row's length falls into: 100 -> "65-128", 5000 -> "4097+"."""
    low = 1
    for edge in LENGTH_EDGES:
        if num_tokens <= edge:
            return f"{low}-{edge}"
        low = edge + 1
    return f"{low}+"


SLICES: dict[str, Callable[[EvalRow], str]] = {
    "source": lambda row: row.row["source"],
    "task": lambda row: row.task.name,
    "length": lambda row: length_bucket(row.num_tokens),
    "language": language_of_row,
}


def places_in_slices(rows: Sequence[EvalRow]) -> dict[str, dict[str, list[int]]]:
    """Row numbers by kind of slice and slice: {"language": {"zh": [0, 2], "latin": [1]}, ...}; lengths in order."""
    found: dict[str, dict[str, list[int]]] = {kind: {} for kind in SLICES}
    for place, row in enumerate(rows):
        for kind, name_of in SLICES.items():
            found[kind].setdefault(name_of(row), []).append(place)
    found["length"] = dict(sorted(found["length"].items(), key=lambda item: int(item[0].rstrip("+").split("-")[0])))
    return found
