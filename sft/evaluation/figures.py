"""One model's answers -> the groups of metrics.json. No model is needed any more, only its tokenizer's lengths."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np

from prompts import ChatFormat
from sft.config.evaluate import Turns
from sft.evaluation.intervals import FigureInterval, measure_intervals
from sft.evaluation.label_figures import (
    CalibrationGroup,
    ClassificationGroup,
    FittedTemperature,
    summarise_calibrations,
    summarise_label_tasks,
)
from sft.evaluation.model_answers import Answers
from sft.evaluation.other_metrics import OtherFigures, OtherMetric
from sft.evaluation.outcomes import Measured, places_by, text_places
from sft.evaluation.rows import EvalRow, EvalRows, Selection, count_by, places_in_slices, supervised_ids
from sft.evaluation.tool_calls import ToolFigures, summarise_calls
from sft.metrics.entities import NerFigures, summarise_entities
from sft.metrics.generations import (
    DISTINCT_SIGNATURE,
    GenerationFigures,
    TextFigures,
    summarise_generations,
    summarise_text,
)
from sft.metrics.loss import LossFigures, summarise_loss
from sft.metrics.rouge import rouge_signature


class LossGroup(LossFigures):
    """Loss over all rows, and by where they come from, what they ask, how long they are (tokens) and their script."""

    by_source: dict[str, LossFigures]
    by_task: dict[str, LossFigures]
    by_length: dict[str, LossFigures]
    by_language: dict[str, LossFigures]


class RougeFigures(TypedDict):
    """Mean F-measures over the rows of the tasks named."""

    rouge1: float
    rouge2: float
    rougeL: float
    num_rows: int
    tasks: list[str]
    signature: str


class TextGroup(TextFigures):
    """BLEU, chrF and exact match over the free-text rows, of the tasks named."""

    tasks: list[str]


class GenerationGroup(GenerationFigures):
    """Generated answers; unparseable_rate is over the label and entity rows, which alone have a form to miss.

    text: where there are free-text rows. other: what --metric asked for, by its name.
    """

    unparseable_rate: float
    distinct_signature: str
    rouge: NotRequired[RougeFigures]
    text: NotRequired[TextGroup]
    other: NotRequired[dict[str, OtherFigures]]
    by_task: dict[str, GenerationFigures]


class ModelFigures(TypedDict):
    """What is measured of each model; the groups whose tasks the rows do not hold are missing, and generation where
    classes are chosen and nothing is written.
    """

    teacher_forcing: LossGroup
    generation: NotRequired[GenerationGroup]
    classification: NotRequired[ClassificationGroup]
    calibration: NotRequired[CalibrationGroup]
    ner: NotRequired[NerFigures]
    tool_calls: NotRequired[ToolFigures]
    intervals: dict[str, FigureInterval]


class DataStats(TypedDict):
    """The rows; lengths are of whole rows in tokens, before anything was cut.

    num_answers: more than eval_size where each turn of a conversation is answered (turns "all").
    """

    eval_size: int
    num_answers: int
    turns: Turns
    available: int
    dropped_too_long: int
    truncation_rate: float
    tokens_cut: int
    max_seq_length: int
    avg_len_tokens: float
    p50_len_tokens: float
    p95_len_tokens: float
    max_len_tokens: int
    split: str
    data: str
    sha256: str
    by_source: dict[str, int]
    by_task: dict[str, int]


def summarise_model(
    rows: Sequence[EvalRow],
    measured: Measured,
    chat: ChatFormat,
    *,
    num_bytes: Sequence[int] | None = None,
    temperatures: Mapping[str, FittedTemperature] | None = None,
    other_metrics: Sequence[OtherMetric] = (),
) -> ModelFigures:
    """All groups of one model, whose tokens are those of `chat`.

    num_bytes: of each row's supervised text, where the rows were encoded by another tokenizer than the model's own.
    temperatures: of its label tasks, fitted on other rows.
    """
    sizes = [count_supervised_bytes(row, chat) for row in rows] if num_bytes is None else num_bytes
    figures: ModelFigures = {
        "teacher_forcing": _summarise_losses(rows, measured.answers, sizes),
        "intervals": measure_intervals(rows, measured),
    }
    if measured.answers.chosen_by is None and not all(row.is_document for row in rows):
        figures["generation"] = _summarise_answers(rows, measured, chat)
    if other_metrics and "generation" in figures:
        texts, outcomes = measured.answers.texts, measured.outcomes
        figures["generation"]["other"] = {
            metric.name: metric.summarise(rows, texts, outcomes) for metric in other_metrics
        }
    if any(row.labels for row in rows):
        figures["classification"] = summarise_label_tasks(rows, measured.answers, measured.outcomes)
        figures["calibration"] = summarise_calibrations(rows, measured.answers, temperatures)
    counts = [outcome.entities for outcome in measured.outcomes if outcome.entities is not None]
    if counts:
        figures["ner"] = summarise_entities(counts)
    if calls := [outcome.calls for outcome in measured.outcomes if outcome.calls is not None]:
        figures["tool_calls"] = summarise_calls(calls)
    return figures


def describe_data(selection: Selection, prepared: EvalRows, max_length: int, turns: Turns) -> DataStats:
    """What was evaluated on, and what of it was cut or left out."""
    rows = prepared.last_turns
    lengths = [row.num_tokens for row in rows]
    return {
        "eval_size": len(rows),
        "num_answers": len(prepared.rows),
        "turns": turns,
        "available": selection.available,
        "dropped_too_long": len(prepared.too_long),
        "truncation_rate": sum(row.num_cut > 0 for row in rows) / len(rows),
        "tokens_cut": sum(row.num_cut for row in rows),
        "max_seq_length": max_length,
        "avg_len_tokens": sum(lengths) / len(lengths),
        "p50_len_tokens": float(np.quantile(lengths, 0.5)),
        "p95_len_tokens": float(np.quantile(lengths, 0.95)),
        "max_len_tokens": max(lengths),
        "split": selection.split,
        "data": selection.path.name,
        "sha256": selection.sha256,
        "by_source": count_by(rows, "source"),
        "by_task": count_by(rows, "task"),
    }


def _summarise_losses(rows: Sequence[EvalRow], answers: Answers, num_bytes: Sequence[int]) -> LossGroup:
    is_written = answers.chosen_by is None

    def summarise(places: Sequence[int]) -> LossFigures:
        columns = (answers.nll, answers.num_tokens, num_bytes)
        nll, num_tokens, sizes = ([column[place] for place in places] for column in columns)
        counts = [int(count) for count in num_tokens]
        return summarise_loss(nll, counts, [int(size) for size in sizes] if is_written else None)

    parts = {
        kind: {name: summarise(places) for name, places in slices.items()}
        for kind, slices in places_in_slices(rows).items()
    }
    return {
        **summarise(range(len(rows))),
        "by_source": parts["source"],
        "by_task": parts["task"],
        "by_length": parts["length"],
        "by_language": parts["language"],
    }


def count_supervised_bytes(row: EvalRow, chat: ChatFormat) -> int:
    """UTF-8 length of the text that the supervised tokens spell; chat: of the tokenizer that the row was encoded by."""
    if row.is_document:  # a window may end within a character
        return len(chat.decode(token for window in row.encoded for token in supervised_ids(window)).encode())
    return sum(len(chat.decode(supervised_ids(piece)).encode()) for piece in row.encoded)


def _summarise_answers(rows: Sequence[EvalRow], measured: Measured, chat: ChatFormat) -> GenerationGroup:
    answers = measured.answers
    predicted_lengths = [len(chat.encode_text(text)) for text in answers.texts]
    reference_lengths = [len(chat.encode_text(row.reference)) for row in rows]

    def summarise(places: Sequence[int]) -> GenerationFigures:
        return summarise_generations(
            [answers.texts[place] for place in places],
            [answers.finished[place] for place in places],
            [predicted_lengths[place] for place in places],
            [reference_lengths[place] for place in places],
        )

    with_form = [
        outcome.unparseable
        for row, outcome in zip(rows, measured.outcomes, strict=True)
        if row.task.has_form  # only labels and entities have a form to miss
    ]
    written = [place for place, row in enumerate(rows) if not row.is_document]
    tasks = places_by([rows[place] for place in written], lambda row: row.task.name)
    group: GenerationGroup = {
        **summarise(written),
        "unparseable_rate": sum(with_form) / len(with_form) if with_form else 0.0,
        "distinct_signature": DISTINCT_SIGNATURE,
        "by_task": {task: summarise([written[place] for place in places]) for task, places in tasks.items()},
    }
    if text := text_places(rows):
        group["text"] = _summarise_text(rows, answers.texts, text)
    if measured.rouge is not None:
        group["rouge"] = _summarise_rouge(rows, measured.rouge)
    return group


def _summarise_text(rows: Sequence[EvalRow], texts: Sequence[str], places: Sequence[int]) -> TextGroup:
    figures = summarise_text([rows[place].reference for place in places], [texts[place] for place in places])
    return {**figures, "tasks": sorted({rows[place].task.name for place in places})}


def _summarise_rouge(rows: Sequence[EvalRow], rouge: dict[str, list[float | None]]) -> RougeFigures:
    places = [place for place, value in enumerate(rouge["rouge1"]) if value is not None]
    means = {name: sum(values[place] or 0.0 for place in places) / len(places) for name, values in rouge.items()}
    return {
        "rouge1": means["rouge1"],
        "rouge2": means["rouge2"],
        "rougeL": means["rougeL"],
        "num_rows": len(places),
        "tasks": sorted({rows[place].task.name for place in places}),
        "signature": rouge_signature(),
    }
