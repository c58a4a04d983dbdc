"""Outcomes: what each answer amounts to (a class, entities, a text, or nothing that can be read), with its scores.

`Measured` holds one model's outcomes and losses for all rows; take_rows gives the same for some of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import numpy as np

from prompts import ChatFormat
from prompts.tasks import Unparseable
from prompts.tools import CALL
from sft.data.rows.canonical import question_of
from sft.evaluation.model_answers import Answers
from sft.evaluation.rows import EvalRow
from sft.evaluation.tool_calls import CallOutcome, row_score, score_calls, units_of
from sft.metrics.entities import EntityCounts, Span, count_entities, place_mentions
from sft.metrics.resampling import Sums, Values
from sft.text.normalise import normalise_text


@dataclass(frozen=True)
class Outcome:
    """One row's outcome; the classes are None for rows without labels, entities for rows without entities.

    reference: the right class. scored: the class of the label with the highest log-probability, summed over label and
    end token. scored_per_token: the same with the sum divided by the number of tokens. generated: the class that the
    written answer names; None, too, where it names none.
    """

    reference: str | None = None
    scored: str | None = None
    scored_per_token: str | None = None
    generated: str | None = None
    entities: EntityCounts | None = None
    calls: CallOutcome | None = None  # of rows with tools
    unparseable: bool = False


@dataclass(frozen=True)
class Measured:
    """Everything known of one model's N rows; rouge holds a list per type, None for rows that have no ROUGE."""

    answers: Answers
    outcomes: list[Outcome]
    rouge: dict[str, list[float | None]] | None = None  # {"rouge1": [0.8, None], "rouge2": ..., "rougeL": ...}


def read_outcomes(rows: Sequence[EvalRow], answers: Answers, chat: ChatFormat) -> list[Outcome]:
    """Parse every answer and pick every row's best label."""
    if answers.chosen_by is not None:
        return [_read_choice(row, scores) for row, scores in zip(rows, answers.label_scores, strict=True)]
    readers = {"label": _read_label, "entities": _read_entities, "text": _read_text, "document": _read_text}
    return [
        readers[row.task.kind](row, scores, text, chat)
        for row, scores, text in zip(rows, answers.label_scores, answers.texts, strict=True)
    ]


def classes_of(rows: Sequence[EvalRow]) -> list[str]:
    """Every class the rows allow, in the order of their first mention: ["负面", "正面"]."""
    return list(dict.fromkeys(name for row in rows for name in row.classes))


def _read_choice(row: EvalRow, scores: list[float]) -> Outcome:
    return Outcome(reference=class_of(row, row.reference), scored=row.classes[scores.index(max(scores))])


def _read_label(row: EvalRow, scores: list[float], text: str, chat: ChatFormat) -> Outcome:
    parsed = row.task.parse_answer(text, row.row)
    means = [score / len(chat.encode_answer(label)) for label, score in zip(row.labels, scores, strict=True)]
    return Outcome(
        reference=class_of(row, row.reference),
        scored=class_of(row, row.labels[scores.index(max(scores))]),
        scored_per_token=class_of(row, row.labels[means.index(max(means))]),
        generated=parsed if isinstance(parsed, str) else None,
        unparseable=isinstance(parsed, Unparseable),
    )


def _read_entities(row: EvalRow, scores: list[float], text: str, chat: ChatFormat) -> Outcome:
    gold = [Span(found["start_idx"], found["end_idx"], found["entity_label"]) for found in row.row["entities"]]
    parsed = row.task.parse_answer(text, row.row)
    if isinstance(parsed, str | Unparseable):
        return Outcome(entities=count_entities(gold, None), unparseable=True)
    return Outcome(entities=count_entities(gold, place_mentions(row.row["text"], parsed, gold)))


def _read_text(row: EvalRow, scores: list[float], text: str, chat: ChatFormat) -> Outcome:
    """A free answer has no form to miss but its calls'; that it is empty is counted elsewhere.

    A document has no answer.
    """
    if not row.tools and CALL not in row.reference:
        return Outcome()
    return Outcome(calls=score_calls(row.reference, text, row.tools))


def class_of(row: EvalRow, answer: str) -> str:
    """The class of an allowed answer: '{"sentiment": 1}' -> "正面"."""
    return row.task.class_of(answer, row.row)


def call_units(figure: str, outcomes: Sequence[Outcome]) -> tuple[list[int], Sums, Values]:
    """The rows that a figure of calls is taken over, (N, 2) what each adds to it, and (N,) its own score.

    Which rows these are depends on their references alone. None if no row says anything of the figure.
    """
    calls = {place: outcome.calls for place, outcome in enumerate(outcomes) if outcome.calls is not None}
    units = {place: unit for place, call in calls.items() if (unit := units_of(figure, call)) is not None}
    if not any(size for _, size in units.values()):
        units = {}
    scores = np.array([row_score(figure, calls[place]) for place in units])
    return list(units), np.array(list(units.values())), scores


def text_places(rows: Sequence[EvalRow], *, asked: bool = False) -> list[int]:
    """Row numbers that text metrics are taken over: the free-text rows, for a label has no summary to overlap with.

    asked: if there is none, all rows, because the user named the metric.
    """
    written = [place for place, row in enumerate(rows) if not row.is_document]
    return [place for place in written if rows[place].task.kind == "text"] or written[: len(written) * asked]


def cluster_of(row: EvalRow) -> str:
    """What rows must share to count as one in a comparison: the text they ask about, normalised."""
    return normalise_text(question_of(row.row))


def places_by(rows: Sequence[EvalRow], key: Callable[[EvalRow], str]) -> dict[str, list[int]]:
    """Row numbers of each group: {"sentiment": [0, 2], "ner": [1]}."""
    groups: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        groups.setdefault(key(row), []).append(place)
    return groups


def take_rows(measured: Measured, places: Sequence[int]) -> Measured:
    """The same measurements for the rows at these places, in their order: every list in it is one value per row."""
    return _take(measured, places)


def _take(value: Any, places: Sequence[int]) -> Any:
    if isinstance(value, list):
        return [value[place] for place in places]
    if isinstance(value, dict):
        return {name: _take(part, places) for name, part in value.items()}
    if not is_dataclass(value) or isinstance(value, type):
        return value
    return replace(value, **{part.name: _take(getattr(value, part.name), places) for part in fields(value)})
