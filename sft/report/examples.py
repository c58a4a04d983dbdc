"""Which rows a report shows, and where an answer differs from its reference."""

import random
import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from sft.evaluation.predictions import Prediction
from sft.html import Markup, element, join
from sft.text.scripts import HAN, KANA

SHOWN = 20
MAX_CHARACTERS = 700  # of a text on the page; predictions.jsonl has all of it
MAX_PIECES = 1_500  # beyond it two texts are not compared piece by piece: the time grows with the square
PIECE = re.compile(rf"[{HAN}{KANA}]|[^\W_{HAN}{KANA}]+|\s+|.", re.DOTALL)


def worst_rows(predictions: Sequence[Prediction], count: int = SHOWN) -> list[Prediction]:
    """Rows the tuned model answers worse than the baseline: broken ones first, then by what the reference lost in
    log-probability a token. Without a baseline those whose references it finds least probable.
    """

    def badness(row: Prediction) -> tuple[int, float]:
        tokens = max(1, row["reference_tokens"])
        broken = sum((change == "broken") - (change == "fixed") for change in row.get("changes", {}).values())
        return broken, (row["nll"] - row.get("base_nll", 0.0)) / tokens

    ordered = sorted(range(len(predictions)), key=lambda place: badness(predictions[place]), reverse=True)
    has_baseline = any("base_nll" in row for row in predictions)
    worst = [predictions[place] for place in ordered]
    return [row for row in worst if not has_baseline or badness(row) > (0, 0.0)][:count]


def random_rows(predictions: Sequence[Prediction], seed: int, count: int = SHOWN) -> list[Prediction]:
    """Rows drawn without looking at their result, in their order; the same for the same seed."""
    places = random.Random(seed).sample(range(len(predictions)), min(count, len(predictions)))
    return [predictions[place] for place in sorted(places)]


def changed_rows(predictions: Sequence[Prediction], change: str) -> list[Prediction]:
    """All rows with a figure that was fixed or broken, and none that went the other way."""
    return [row for row in predictions if set(row.get("changes", {}).values()) == {change}]


def mark_differences(reference: str, answer: str) -> Markup:
    """The answer with what the reference does not have marked, and what it lacks struck through in its place."""
    answer, rest = shorten(answer)
    pieces = [PIECE.findall(text) for text in (shorten(reference)[0], answer)]
    if max(map(len, pieces)) > MAX_PIECES:
        return join(answer, rest, by="")
    shown: list[Markup] = []
    wanted, written = pieces
    for kind, start, end, other_start, other_end in SequenceMatcher(
        None, wanted, written, autojunk=False
    ).get_opcodes():
        if kind == "equal":
            shown.append(join("".join(written[other_start:other_end])))
            continue
        if lacking := "".join(wanted[start:end]):
            shown.append(element("del", lacking))
        if extra := "".join(written[other_start:other_end]):
            shown.append(element("ins", extra))
    return join(*shown, rest, by="")


def shorten(text: str, limit: int = MAX_CHARACTERS) -> tuple[str, str]:
    """A text's first characters, and how many are left out: ("abc", " … (+2)") for "abcde" and 3."""
    return (text, "") if len(text) <= limit else (text[:limit], f" … (+{len(text) - limit:,})")
