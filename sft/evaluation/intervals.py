"""How far each figure of one model may lie from the true one: the group `intervals` of metrics.json.

The loss of answers has none: a few long ones carry it, and 50 rows that hold three of them cannot tell how large it is.
The difference of two models has one (sft.evaluation.compare), since the same rows are on both sides; and so has the
loss of documents, which is all that is measured of them.
"""

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np

from sft.evaluation.label_figures import judge, label_places, spread_probabilities
from sft.evaluation.outcomes import Measured, call_units, classes_of, cluster_of, text_places
from sft.evaluation.rows import EvalRow
from sft.evaluation.tool_calls import NAMES
from sft.metrics.calibration import brier_of
from sft.metrics.classification import interval_of_area
from sft.metrics.generations import is_exact
from sft.metrics.loss import LARGEST_EXPONENT
from sft.metrics.resampling import Interval, Sums, Values, bounded_interval, studentised_interval, sum_by_group

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
        """Units (N, M, 2), one for each place; several ratios are averaged unless weights say otherwise."""
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
