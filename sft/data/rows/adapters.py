"""Adapters: functions for data sets whose rows need more than other names for their columns.

An adapter turns a record as its data set has it into one in a form that the reader knows, or raises RowError. A new one
is a function here and a line in ADAPTERS; most data sets need none, `columns` and `templates` in datasets.yaml are
enough.

stack_exchange reads HuggingFaceH4/stack-exchange-preferences: the question with its best answer, as text, with who
wrote them. Best is the highest pm_score (log2(1 + votes), rounded, and 1 more where the asker accepted it), then the
accepted one, then the one that stands first. The licence, cc-by-sa, asks that authors and sources stay named:
`attribution`.
"""

from collections.abc import Callable

from sft.data.rows.canonical import Json, RowError
from sft.data.rows.fields import Record

__all__ = ["ADAPTERS"]


def adapt_stack_exchange(record: Record) -> Record:
    """{"question": "<p>Why?</p>", "answers": [{"text", "pm_score", ...}], "metadata": [...]} -> instruction, output."""
    from sft.text.html_text import read_html  # a third of a second, which other data sets need not wait for

    question, answers = record.get("question"), record.get("answers")
    if not isinstance(question, str) or not isinstance(answers, list):
        raise RowError("wrong_type", "expected 'question' as text and 'answers' as a list")
    given = [answer for answer in answers if isinstance(answer, dict) and isinstance(answer.get("text"), str)]
    if not given:
        raise RowError("empty_answer", "no answer")
    best = max(given, key=_rank)
    return {
        "instruction": read_html(question),
        "output": read_html(str(best["text"])),
        "attribution": _attribute(record.get("metadata"), best),
    }


ADAPTERS: dict[str, Callable[[Record], Record]] = {"stack_exchange": adapt_stack_exchange}
LICENCE = "CC BY-SA 4.0"


def _rank(answer: dict[str, Json]) -> tuple[float, bool]:
    score = answer.get("pm_score")
    return (float(score) if isinstance(score, int | float) else float("-inf"), answer.get("selected") is True)


def _attribute(metadata: Json, answer: dict[str, Json]) -> str:
    """`https://ai.stackexchange.com/questions/7; answer by Ada, https://ai.stackexchange.com/users/3; CC BY-SA 4.0`."""
    places = [place for place in metadata if isinstance(place, str)] if isinstance(metadata, list) else []
    question = next((place for place in places if "/questions/" in place), places[0] if places else "Stack Exchange")
    author = ", ".join(str(answer[key]) for key in ("author", "author_profile") if answer.get(key))
    return "; ".join(part for part in (question, f"answer by {author}" if author else "", LICENCE) if part)
