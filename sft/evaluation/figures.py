"""One model's answers -> the groups of metrics.json. No model is needed any more, only its tokenizer's lengths.

Label scoring, free generation and the class of a classification head, whose logits are in answers.label_scores, all
come through summarise_labels. Every figure has an interval but the loss of answers: a few long ones carry it, and 50
rows with three of them do not determine it. The difference of two models has one (sft.evaluation.compare),
and so has the loss of documents.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from prompts import ChatFormat
from sft.config.evaluate import Turns
from sft.evaluation.model_answers import (
    Answers,
    Measured,
    Outcome,
    call_units,
    classes_of,
    cluster_of,
    places_by,
    text_places,
)
from sft.evaluation.other_metrics import OtherFigures, OtherMetric
from sft.evaluation.rows import EvalRow, EvalRows, Selection, count_by, places_in_slices, supervised_ids
from sft.evaluation.tool_calls import NAMES, ToolFigures, summarise_calls
from sft.metrics.calibration import CalibrationFigures, Judged, brier_of, softmax, spread_over, summarise_calibration
from sft.metrics.classification import ClassificationFigures, interval_of_area, summarise_labels
from sft.metrics.entities import NerFigures, summarise_entities
from sft.metrics.generations import (
    DISTINCT_SIGNATURE,
    GenerationFigures,
    TextFigures,
    is_exact,
    rouge_signature,
    summarise_generations,
    summarise_text,
)
from sft.metrics.loss import LARGEST_EXPONENT, LossFigures, summarise_loss
from sft.metrics.resampling import Interval, Sums, Values, bounded_interval, studentised_interval, sum_by_group

TEXT_SHOWN = 100  # characters of a row's text in a list of rows


class LabelTask(TypedDict):
    """One label task. label_scoring takes the label whose log-probability (label and end token, summed) is highest;
    accuracy_per_token divides that by the label's tokens first; generation reads the answer written freely.

    head: the most likely class of a classification head, instead of all three.
    """

    label_scoring: NotRequired[ClassificationFigures]
    accuracy_per_token: NotRequired[float]
    generation: NotRequired[ClassificationFigures]
    head: NotRequired[ClassificationFigures]


class ClassificationGroup(TypedDict):
    """accuracy is by label scoring, or by the head, over the rows of all label tasks."""

    accuracy: float
    num_rows: int
    by_task: dict[str, LabelTask]


@dataclass(frozen=True)
class FittedTemperature:
    """A task's temperature and the rows it was fitted on: FittedTemperature(1.7, "validation", 240)."""

    value: float
    split: str
    num_rows: int


class TemperatureFigures(TypedDict):
    """Effect of dividing the label scores of these rows by a temperature that was fitted on others."""

    temperature: float
    fitted_on: str
    num_rows_fitted: int
    ece: float
    ece_low: float
    ece_high: float
    ece_floor: float
    brier: float
    nll: float
    avg_confidence: float


class TaskCalibration(CalibrationFigures):
    """Calibration of one task by label scoring or head; temperature is present if one was fitted (--calibrate)."""

    temperature: NotRequired[TemperatureFigures]


class CalibrationGroup(TypedDict):
    """Calibration of every label task."""

    by_task: dict[str, TaskCalibration]


def summarise_label_tasks(
    rows: Sequence[EvalRow], answers: Answers, outcomes: Sequence[Outcome]
) -> ClassificationGroup:
    """Figures of every label task among the rows; there is at least one."""
    by_task: dict[str, LabelTask] = {}
    for task, places in label_places(rows).items():
        classes = classes_of([rows[place] for place in places])
        found = [outcomes[place] for place in places]
        references = [str(outcome.reference) for outcome in found]
        scored = [outcome.scored for outcome in found]
        table = np.array([spread_probabilities(rows[place], answers, place, classes) for place in places])
        chosen = summarise_labels(references, scored, classes, table)
        if answers.chosen_by is not None:
            by_task[task] = {"head": chosen} if answers.chosen_by == "head" else {"label_scoring": chosen}
            continue
        by_task[task] = {
            "label_scoring": chosen,
            "accuracy_per_token": sum(outcome.scored_per_token == outcome.reference for outcome in found) / len(found),
            "generation": summarise_labels(references, [outcome.generated for outcome in found], classes),
        }
    labelled = [outcome for outcome in outcomes if outcome.reference is not None]
    accuracy = sum(outcome.scored == outcome.reference for outcome in labelled) / len(labelled)
    return {"accuracy": accuracy, "num_rows": len(labelled), "by_task": by_task}


def chosen_figures(task: LabelTask) -> ClassificationFigures:
    """Figures of the class that a model gave the highest score: by its head, or by label scoring."""
    return task["head"] if "head" in task else task["label_scoring"]


def summarise_calibrations(
    rows: Sequence[EvalRow], answers: Answers, temperatures: Mapping[str, FittedTemperature] | None = None
) -> CalibrationGroup:
    """Calibration of every label task among the rows, and also with the task's temperature if it has one."""
    by_task: dict[str, TaskCalibration] = {}
    for task, places in label_places(rows).items():
        by_task[task] = {**summarise_calibration([judge(rows[place], answers, place) for place in places])}
        fitted = (temperatures or {}).get(task)
        if fitted is not None:
            cooled = summarise_calibration([judge(rows[place], answers, place, fitted.value) for place in places])
            by_task[task]["temperature"] = {
                "temperature": fitted.value,
                "fitted_on": fitted.split,
                "num_rows_fitted": fitted.num_rows,
                "ece": cooled["ece"],
                "ece_low": cooled["ece_low"],
                "ece_high": cooled["ece_high"],
                "ece_floor": cooled["ece_floor"],
                "brier": cooled["brier"],
                "nll": cooled["nll"],
                "avg_confidence": cooled["avg_confidence"],
            }
    return {"by_task": by_task}


def label_places(rows: Sequence[EvalRow]) -> dict[str, list[int]]:
    """Row numbers of each label task: {"sentiment": [0, 2]}."""
    groups = places_by(rows, lambda row: row.task.name)
    return {task: places for task, places in groups.items() if rows[places[0]].labels}


def judge(row: EvalRow, answers: Answers, place: int, temperature: float = 1.0) -> Judged:
    """A row with the probability of each of its classes; `place` is its index among the answers."""
    return Judged(
        row_id=row.row["id"],
        probabilities=softmax(answers.label_scores[place], temperature),
        labels=row.classes,
        right=row.labels.index(row.reference),
        text=str(row.row.get("text", row.question))[:TEXT_SHOWN],
    )


def spread_probabilities(row: EvalRow, answers: Answers, place: int, classes: Sequence[str]) -> NDArray[np.float64]:
    """A row's probabilities over all classes of its task, (C,); `place` is its index among the answers."""
    return spread_over(classes, row.classes, softmax(answers.label_scores[place]).tolist())


MOST_BRIER = 2.0  # of one row: sure of one label where another is right


class FigureInterval(TypedDict):
    """A 95 % interval over num_units different texts."""

    low: float
    high: float
    num_units: int


def measure_intervals(rows: Sequence[EvalRow], measured: Measured) -> dict[str, FigureInterval]:
    """{"sentiment accuracy": {"low": 0.61, "high": 0.73, "num_units": 240}, "sentiment macro f1": ..., "ner f1": ...}.

    Per label task accuracy, macro f1 and brier by label scoring or head, auc where both sides occur, and accuracy
    (generated); ner f1; those of calls (sft.evaluation.tool_calls); rouge1, rouge2, rougeL; exact match of free text;
    text loss and text perplexity of documents.
    """
    groups = [cluster_of(row) for row in rows]
    found: dict[str, FigureInterval] = {}

    def add(name: str, places: Sequence[int], units: Sums, weights: Values | None = None, scale: float = 1.0) -> None:
        """Units (N, M, 2), one per row; several ratios are averaged unless weights say otherwise."""
        totals = sum_by_group(units, [groups[place] for place in places])
        weights = np.full(units.shape[1], 1 / units.shape[1]) if weights is None else weights
        interval = bounded_interval(totals, weights)
        found[name] = _describe(Interval(scale * interval.low, scale * interval.high), len(totals))

    for task, places in label_places(rows).items():
        outcomes = [measured.outcomes[place] for place in places]
        references = [outcome.reference for outcome in outcomes]
        scored, classes = [outcome.scored for outcome in outcomes], classes_of([rows[place] for place in places])
        add(f"{task} accuracy", places, _means([outcome.scored == outcome.reference for outcome in outcomes]))
        if measured.answers.chosen_by is None:
            written = [outcome.generated == outcome.reference for outcome in outcomes]
            add(f"{task} accuracy (generated)", places, _means(written))
        add(f"{task} macro f1", places, _class_f1(references, scored, classes))
        briers = np.array([brier_of(judge(rows[place], measured.answers, place)) for place in places])
        add(f"{task} brier", places, _means(briers / MOST_BRIER), scale=MOST_BRIER)
        table = np.array([spread_probabilities(rows[place], measured.answers, place, classes) for place in places])
        clusters = [groups[place] for place in places]
        if area := interval_of_area([str(label) for label in references], table, classes, clusters):
            found[f"{task} auc"] = _describe(area, len(set(clusters)))
    with_entities = [place for place, outcome in enumerate(measured.outcomes) if outcome.entities]
    if with_entities:
        totals = [outcome.entities.totals for outcome in measured.outcomes if outcome.entities]
        sums = np.array([[[2 * right, predicted + gold]] for right, predicted, gold in totals], dtype=float)
        add("ner f1", with_entities, sums)
    for figure, name in NAMES.items():
        places, units, _ = call_units(figure, measured.outcomes)
        if places:
            add(name, places, units[:, None])
    for name, values in (measured.rouge or {}).items():
        places = [place for place, value in enumerate(values) if value is not None]
        add(name, places, _means([values[place] or 0.0 for place in places]))
    found |= _of_documents(rows, measured, groups)
    texts = measured.answers.texts
    if measured.answers.chosen_by is None and (places := text_places(rows)):
        add("exact match", places, _means([is_exact(rows[place].reference, texts[place]) for place in places]))
    return found


def _of_documents(rows: Sequence[EvalRow], measured: Measured, groups: Sequence[str]) -> dict[str, FigureInterval]:
    """Loss and perplexity per token of the documents among the rows."""
    places = [place for place, row in enumerate(rows) if row.is_document]
    sums = np.array([[[measured.answers.nll[place], measured.answers.num_tokens[place]]] for place in places], float)
    totals = sum_by_group(sums, [groups[place] for place in places]) if places else sums
    interval = studentised_interval(totals, np.ones(1), np.random.default_rng(0)) if len(totals) > 1 else None
    if interval is None:
        return {}
    perplexity = Interval(*(math.exp(min(end, LARGEST_EXPONENT)) for end in interval))
    return {"text loss": _describe(interval, len(totals)), "text perplexity": _describe(perplexity, len(totals))}


def _describe(interval: Interval, num_units: int) -> FigureInterval:
    return {"low": interval.low, "high": interval.high, "num_units": num_units}


def _means(values: Sequence[float] | Values) -> Sums:
    """(N,) values between 0 and 1 -> (N, 1, 2): value and 1."""
    return np.stack([np.asarray(values, float), np.ones(len(values))], axis=1)[:, None]


def _class_f1(references: Sequence[str | None], predicted: Sequence[str | None], classes: Sequence[str]) -> Sums:
    """(N, C, 2) of the classes that occur: the F1 of each is 2 right / (predicted + reference)."""
    is_reference, is_predicted = (
        np.array([[label == name for name in classes] for label in side], float) for side in (references, predicted)
    )
    sums: Sums = np.stack([2 * is_reference * is_predicted, is_reference + is_predicted], axis=-1)
    return sums[:, sums[..., 1].sum(0) > 0]


class LossGroup(LossFigures):
    """Loss over all rows, and by source, task, length in tokens and language."""

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
    """Generated answers; unparseable_rate covers label and entity rows only.

    text: if there are free-text rows. other: figures of --metric, by name.
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
    """The evaluated rows, and how many were shortened or left out."""
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
