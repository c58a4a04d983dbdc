"""Chooses the rows that a report shows, and marks where an answer differs from its reference."""

import random
import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from markupsafe import Markup

from sft.evaluation.predictions import Prediction
from sft.pages import text as as_text
from sft.text.words import HAN, KANA

SHOWN = 20
MAX_CHARACTERS = 700  # of a text on the page; predictions.jsonl has all of it
MAX_PIECES = 1_500  # beyond it two texts are not compared piece by piece: the time grows with the square
PIECE = re.compile(rf"[{HAN}{KANA}]|[^\W_{HAN}{KANA}]+|\s+|.", re.DOTALL)


def worst_rows(predictions: Sequence[Prediction], count: int = SHOWN) -> list[Prediction]:
    """Rows the tuned model answers worse than the baseline: broken ones first, then by the loss in
    log-probability per token of the reference. Without a baseline those whose references it finds least probable.
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


def answers_of(row: Prediction) -> list[tuple[str, Markup]]:
    """The shown parts of a row: question, reference, scored answer, and generated text.

    The answer of a label row is the label that each model chose; generated text is added if it says something else.
    """
    asked = row["instruction"] + (f"\n{row['input']}" if row["input"] else "")
    lines = [("question", as_text("".join(shorten(asked)))), ("reference", as_text("".join(shorten(row["reference"]))))]
    for side, label in (("base", row.get("base_label")), ("tuned", row.get("label"))):
        written = row.get("base_prediction") if side == "base" else row["prediction"]
        if label is not None:
            lines.append((f"label, {side}", as_text(label)))
        if written is not None and (label is None or written.strip() != label):
            name = side if label is None else f"written, {side}"
            plain = side == "base" or label is not None  # marks help where an answer is near its reference
            content = as_text("".join(shorten(written))) if plain else mark_differences(row["reference"], written)
            lines.append((name, content))
    return lines


def histories_of(predictions: Sequence[Prediction]) -> dict[tuple[str, int | None], list[tuple[str, str]]]:
    """The turns before the question of each answer of a conversation: {("chat-1", 2): [("user", "Hi"), ...]}."""
    histories: dict[tuple[str, int | None], list[tuple[str, str]]] = {}
    so_far: dict[str, list[tuple[str, str]]] = {}
    for row in predictions:
        said = so_far.setdefault(row["id"], [])
        said += [(turn["role"], turn["content"]) for turn in row.get("history", [])]
        histories[row["id"], row.get("turn")] = [*said]
        said += [("user", row["instruction"]), ("assistant", row["reference"])]
    return histories


def mark_differences(reference: str, answer: str) -> Markup:
    """The answer with additions to the reference marked, and omissions struck through."""
    answer, rest = shorten(answer)
    pieces = [PIECE.findall(text) for text in (shorten(reference)[0], answer)]
    if max(map(len, pieces)) > MAX_PIECES:
        return as_text(answer + rest)
    shown: list[Markup] = []
    wanted, written = pieces
    for kind, start, end, other_start, other_end in SequenceMatcher(
        None, wanted, written, autojunk=False
    ).get_opcodes():
        if kind == "equal":
            shown.append(as_text("".join(written[other_start:other_end])))
            continue
        if lacking := "".join(wanted[start:end]):
            shown.append(Markup("<del>{}</del>").format(as_text(lacking)))
        if extra := "".join(written[other_start:other_end]):
            shown.append(Markup("<ins>{}</ins>").format(as_text(extra)))
    return Markup("").join([*shown, as_text(rest)])


def shorten(text: str, limit: int = MAX_CHARACTERS) -> tuple[str, str]:
    """A text's first characters, and how many are left out: ("abc", " … (+2)") for "abcde" and 3."""
    return (text, "") if len(text) <= limit else (text[:limit], f" … (+{len(text) - limit:,})")
