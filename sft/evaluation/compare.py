"""Base against tuned: the headline figures of both, how sure each difference is, and what it comes to in words."""

from collections.abc import Sequence
from typing import Literal, TypedDict

import numpy as np

from sft.evaluation.outcomes import Measured, Outcome, places_by
from sft.evaluation.rows import EvalRow
from sft.metrics.comparison import (
    CONFIDENCE,
    NUM_RESAMPLES,
    PairedFigures,
    PairedMetric,
    Sums,
    compare_metrics,
    fewer_errors,
    micro_f1,
    ratio,
)

Conclusion = Literal["helped", "hurt", "mixed", "unclear"]


class Comparison(TypedDict):
    """The family of headline figures, with what was found over all of them."""

    outcome: Conclusion
    verdict: str
    metrics: dict[str, PairedFigures]
    confidence: float
    num_resamples: int
    seed: int
    adjustment: Literal["holm"]


def compare_models(rows: Sequence[EvalRow], base: Measured, tuned: Measured, *, seed: int) -> Comparison:
    """Compare the two on every headline figure the rows allow.

    eval_loss over all rows; per label task `<task> accuracy` by label scoring, the fair headline (no model can lose it
    by talking around), and `<task> accuracy (generated)` by free generation; `ner f1`; `rougeL`.
    """
    found = compare_metrics(_headline_metrics(rows, base, tuned), seed=seed)
    outcome, verdict = judge(found, len(rows))
    return {
        "outcome": outcome,
        "verdict": verdict,
        "metrics": found,
        "confidence": CONFIDENCE,
        "num_resamples": NUM_RESAMPLES,
        "seed": seed,
        "adjustment": "holm",
    }


def judge(metrics: dict[str, PairedFigures], num_rows: int) -> tuple[Conclusion, str]:
    """The verdict in words, from the findings that hold after Holm's adjustment.

    ("helped", "Tuning helped: sentiment accuracy 0.520 -> 0.910; nothing got worse (240 rows).")
    """
    better, worse, unclear = (_list_changes(metrics, finding) for finding in ("better", "worse", "unclear"))
    undecided = f"; no clear difference in {unclear}" if unclear else ""
    rows = f"({num_rows:,} rows)"
    if better and worse:
        return "mixed", f"Tuning helped in part: better {better}; worse {worse}{undecided} {rows}."
    if better:
        return "helped", f"Tuning helped: {better}{undecided or '; nothing got worse'} {rows}."
    if worse:
        return "hurt", f"Tuning hurt: {worse}{undecided} {rows}."
    return "unclear", f"No clear difference between base and tuned: {unclear} {rows}."


def _list_changes(metrics: dict[str, PairedFigures], finding: str) -> str:
    """`ner f1 0.010 -> 0.450, eval_loss 1.200 -> 0.800` of those with the finding, "" where there is none."""
    found = {name: figure for name, figure in metrics.items() if figure["finding"] == finding}
    return ", ".join(f"{name} {figure['base']:.3f} -> {figure['tuned']:.3f}" for name, figure in found.items())


def _headline_metrics(rows: Sequence[EvalRow], base: Measured, tuned: Measured) -> list[PairedMetric]:
    metrics = [PairedMetric("eval_loss", _losses(base), _losses(tuned), ratio, higher_is_better=False)]
    for task, places in places_by(rows, lambda row: row.task.name).items():
        if rows[places[0]].labels:
            metrics += [_pair_labels(task, places, base, tuned, way) for way in ("scored", "generated")]
    if any(outcome.entities for outcome in tuned.outcomes):
        counts = (_entity_counts(base), _entity_counts(tuned))
        metrics.append(PairedMetric("ner f1", *counts, micro_f1, higher_is_better=True, row_score=fewer_errors))
    if tuned.rouge is not None and base.rouge is not None:
        scores = (_values(base.rouge["rougeL"]), _values(tuned.rouge["rougeL"]))
        metrics.append(PairedMetric("rougeL", *scores, ratio, higher_is_better=True))
    return metrics


def _pair_labels(task: str, places: Sequence[int], base: Measured, tuned: Measured, way: str) -> PairedMetric:
    name = f"{task} accuracy" if way == "scored" else f"{task} accuracy (generated)"
    hits = [_hits([side.outcomes[place] for place in places], way) for side in (base, tuned)]
    return PairedMetric(name, hits[0], hits[1], ratio, higher_is_better=True, is_right_or_wrong=True)


def _losses(side: Measured) -> Sums:
    """(N, 2): nll, tokens."""
    return np.array([side.answers.nll, side.answers.num_tokens], dtype=np.float64).T


def _hits(outcomes: Sequence[Outcome], way: str) -> Sums:
    """(N, 2): 1 where the class is right, 1."""
    classes = [outcome.scored if way == "scored" else outcome.generated for outcome in outcomes]
    return np.array(
        [[float(found == outcome.reference), 1.0] for found, outcome in zip(classes, outcomes, strict=True)]
    )


def _entity_counts(side: Measured) -> Sums:
    """(N, 3): found, predicted, gold."""
    return np.array([outcome.entities.totals for outcome in side.outcomes if outcome.entities], dtype=np.float64)


def _values(values: Sequence[float | None]) -> Sums:
    """(N, 2): value, 1; rows without one are left out, the same rows on both sides."""
    return np.array([[value, 1.0] for value in values if value is not None])
