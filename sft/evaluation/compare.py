"""Base against tuned: the headline figures of both, how sure each difference is, and what it comes to in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypedDict

import numpy as np

from sft.evaluation.outcomes import Measured, Outcome, cluster_of, places_by
from sft.evaluation.rows import EvalRow
from sft.evaluation.slices import places_in_slices
from sft.evaluation.verdict import LOSSES, Conclusion, judge
from sft.metrics.comparison import (
    CONFIDENCE,
    NUM_RESAMPLES,
    PairedFigures,
    PairedMetric,
    Sums,
    Values,
    compare_metrics,
    ratio,
)

Change = Literal["fixed", "broken"]


class SliceFigures(TypedDict):
    """One headline figure on part of the rows; no test is made there, so many comparisons would find one by chance."""

    base: float
    tuned: float
    difference: float
    num_rows: int
    rows_fixed: int
    rows_broken: int


class Comparison(TypedDict):
    """The family of headline figures, with what was found over all of them.

    slices: kind -> slice -> figure: {"language": {"zh": {"sentiment accuracy": {...}}}}; kinds with one slice are left
    out.
    """

    outcome: Conclusion
    verdict: str
    verdict_zh: str
    metrics: dict[str, PairedFigures]
    slices: dict[str, dict[str, dict[str, SliceFigures]]]
    confidence: float
    num_resamples: int
    seed: int
    adjustment: Literal["holm"]


@dataclass(frozen=True)
class Headline:
    """One figure of the family and the rows it is taken over: `metric` has a line for each of `places`."""

    metric: PairedMetric
    places: list[int]


def compare_models(
    rows: Sequence[EvalRow],
    base: Measured,
    tuned: Measured,
    *,
    seed: int,
    num_bytes: Sequence[int] | None = None,
    against: tuple[str, str] | None = None,
) -> Comparison:
    """Compare the two on every headline figure the rows allow.

    eval_loss over all rows (where classes are chosen, of the right one among the row's); per label task
    `<task> accuracy` by label scoring or head, the fair headline (no model can lose it by talking around), and where
    answers were written `<task> accuracy (generated)`; `ner f1`; `rougeL`. num_bytes: of each row's supervised text,
    where the two have different tokenizers; bits per byte then takes the place of eval_loss, since a token of one is
    not one of the other. against: see judge.
    """
    headlines = headline_metrics(rows, base, tuned, num_bytes)
    found = compare_metrics([headline.metric for headline in headlines], seed=seed)
    outcome, verdict = judge(found, len(rows), against)
    return {
        "outcome": outcome,
        "verdict": verdict["en"],
        "verdict_zh": verdict["zh"],
        "metrics": found,
        "slices": _compare_slices(rows, headlines),
        "confidence": CONFIDENCE,
        "num_resamples": NUM_RESAMPLES,
        "seed": seed,
        "adjustment": "holm",
    }


def changes_of_rows(headlines: Sequence[Headline], num_rows: int) -> list[dict[str, Change]]:
    """What the tuned model answers better or worse, row by row: [{"sentiment accuracy": "fixed"}, {}]; losses aside."""
    changes: list[dict[str, Change]] = [{} for _ in range(num_rows)]
    for headline in headlines:
        if headline.metric.name in LOSSES:
            continue
        for place, gain in zip(headline.places, headline.metric.row_gains(), strict=True):
            if gain:
                changes[place][headline.metric.name] = "fixed" if gain > 0 else "broken"
    return changes


def _compare_slices(
    rows: Sequence[EvalRow], headlines: Sequence[Headline]
) -> dict[str, dict[str, dict[str, SliceFigures]]]:
    found: dict[str, dict[str, dict[str, SliceFigures]]] = {}
    for kind, slices in places_in_slices(rows).items():
        if len(slices) < 2:
            continue
        found[kind] = {name: {} for name in slices}
        for name, places in slices.items():
            inside = set(places)
            for headline in headlines:
                lines = [line for line, place in enumerate(headline.places) if place in inside]
                if lines:
                    found[kind][name][headline.metric.name] = _summarise_slice(headline.metric, lines)
    return found


def _summarise_slice(metric: PairedMetric, lines: list[int]) -> SliceFigures:
    base, tuned = (float(ratio(side[lines].sum(0))) for side in (metric.base, metric.tuned))
    gains = metric.row_gains()[lines]
    return {
        "base": base,
        "tuned": tuned,
        "difference": tuned - base,
        "num_rows": len(lines),
        "rows_fixed": int((gains > 0).sum()),
        "rows_broken": int((gains < 0).sum()),
    }


def headline_metrics(
    rows: Sequence[EvalRow], base: Measured, tuned: Measured, num_bytes: Sequence[int] | None = None
) -> list[Headline]:
    """The family: every figure that decides whether one model is better than the other, see compare_models."""
    headlines = [Headline(_pair_losses(base, tuned, num_bytes), list(range(len(rows))))]
    for task, places in places_by(rows, lambda row: row.task.name).items():
        if rows[places[0]].labels:
            ways = ("scored", "generated") if tuned.answers.chosen_by is None else ("scored",)
            pairs = [_pair_labels(task, places, base, tuned, way) for way in ways]
            headlines += [Headline(pair, places) for pair in pairs]
    with_entities = [place for place, outcome in enumerate(tuned.outcomes) if outcome.entities]
    if with_entities:
        sums, scores = zip(_entity_sums(base), _entity_sums(tuned), strict=True)
        pair = PairedMetric("ner f1", *sums, higher_is_better=True, row_scores=scores)
        headlines.append(Headline(pair, with_entities))
    if tuned.rouge is not None and base.rouge is not None:
        with_rouge = [place for place, value in enumerate(tuned.rouge["rougeL"]) if value is not None]
        values = (_values(base.rouge["rougeL"]), _values(tuned.rouge["rougeL"]))
        headlines.append(Headline(PairedMetric("rougeL", *values, higher_is_better=True), with_rouge))
    clusters = [cluster_of(row) for row in rows]  # the same text asked twice tells no more than asked once
    return [
        replace(headline, metric=replace(headline.metric, groups=[clusters[place] for place in headline.places]))
        for headline in headlines
    ]


def _pair_labels(task: str, places: Sequence[int], base: Measured, tuned: Measured, way: str) -> PairedMetric:
    name = f"{task} accuracy" if way == "scored" else f"{task} accuracy (generated)"
    hits = [_hits([side.outcomes[place] for place in places], way) for side in (base, tuned)]
    return PairedMetric(name, hits[0], hits[1], higher_is_better=True, is_right_or_wrong=True)


def _pair_losses(base: Measured, tuned: Measured, num_bytes: Sequence[int] | None) -> PairedMetric:
    """(N, 2): nll in nats and tokens; or bits and bytes."""
    sides = []
    for side in (base, tuned):
        nll = np.array(side.answers.nll, dtype=np.float64)
        scale, sizes = (1.0, side.answers.num_tokens) if num_bytes is None else (math.log(2), num_bytes)
        sides.append(np.stack([nll / scale, np.array(sizes, dtype=np.float64)], axis=1))
    return PairedMetric(LOSSES[num_bytes is not None], sides[0], sides[1], higher_is_better=False, is_bounded=False)


def _hits(outcomes: Sequence[Outcome], way: str) -> Sums:
    """(N, 2): 1 where the class is right, 1."""
    classes = [outcome.scored if way == "scored" else outcome.generated for outcome in outcomes]
    return np.array(
        [[float(found == outcome.reference), 1.0] for found, outcome in zip(classes, outcomes, strict=True)]
    )


def _entity_sums(side: Measured) -> tuple[Sums, Values]:
    """(N, 2): twice the found, and predicted plus gold, whose ratio is F1; (N,): what a reader would judge a row by."""
    counts = [outcome.entities for outcome in side.outcomes if outcome.entities]
    totals = np.array([count.totals for count in counts], dtype=np.float64)  # (N, 3): found, predicted, gold
    sums = np.stack([2 * totals[:, 0], totals[:, 1] + totals[:, 2]], axis=1)
    return sums, np.array([count.row_f1 for count in counts])


def _values(values: Sequence[float | None]) -> Sums:
    """(N, 2): value, 1; rows without one are left out, the same rows on both sides."""
    return np.array([[value, 1.0] for value in values if value is not None])
