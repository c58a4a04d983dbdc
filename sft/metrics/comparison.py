"""Base against tuned on the same rows: the difference, how sure it is, and which rows got better or worse.

Every figure here is a ratio of two sums over rows: loss is nll / tokens, accuracy right / rows, micro-F1
2 found / (predicted + gold). Rows that belong together count as one unit (sft.metrics.resampling).

Interval: bounded or studentised, by the kind of figure. p-value: exact McNemar for right/wrong figures of rows that
stand alone, else a paired permutation test that swaps the two models' answers unit by unit (Yeh 2000). Holm (1979)
adjusts the p-values over the family. A figure is called better or worse only where what is left stays below ALPHA, the
interval excludes 0, and there are at least FEWEST_UNITS units.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from scipy.stats import binomtest, norm

from sft.metrics.resampling import (
    CONFIDENCE,
    NUM_RESAMPLES,
    Sums,
    Values,
    bounded_interval,
    pair_sides,
    permutation_p_value,
    ratio,
    standard_error,
    studentised_interval,
    sum_by_group,
)

__all__ = [  # everything that a comparison needs, in one place
    "ALPHA", "CONFIDENCE", "FEWEST_UNITS", "NUM_RESAMPLES", "Finding", "PairedFigures", "PairedMetric", "Sums",
    "Values", "adjust_holm", "compare_metrics", "mcnemar_exact", "ratio", "smallest_detectable",
]  # fmt: skip

ALPHA = 0.05
POWER = 0.8  # of the smallest difference shown: four samples of five would show it
FEWEST_UNITS = (
    30  # below it no difference is called anything: tests and intervals of so few units are not to be trusted
)

Finding = Literal["better", "worse", "unclear", "too_few"]


@dataclass(frozen=True)
class PairedMetric:
    """One figure of two models on the same N rows.

    base, tuned: (N, 2) numerator and denominator of each row, e.g. (nll, tokens). row_scores: what a reader would judge
    each row by, (N,) of both models, the higher the better; the default is the row's own ratio. is_bounded: every
    ratio lies between 0 and 1. groups: one key per row; rows with the same key belong together. Default: each row is
    its own unit.
    """

    name: str
    base: Sums
    tuned: Sums
    higher_is_better: bool
    is_bounded: bool = True
    is_right_or_wrong: bool = False  # summands are (0 or 1, 1): the exact McNemar test applies
    row_scores: tuple[Values, Values] | None = None
    groups: Sequence[Hashable] | None = None

    def row_gains(self) -> Values:
        """By how much each row got better, (N,): above 0 it is better to a reader, below 0 worse."""
        if self.row_scores is not None:
            return self.row_scores[1] - self.row_scores[0]
        return (ratio(self.tuned) - ratio(self.base)) * (1 if self.higher_is_better else -1)


class PairedFigures(TypedDict):
    """difference = tuned - base, with its interval low..high; p_holm is adjusted over the whole family.

    low, high: None where a figure without bounds is of a single unit. num_groups: how many units there are, num_rows
    where rows stand alone. rows_fixed, rows_broken: rows whose own score is better or worse, see PairedMetric.
    smallest_detectable: the size of a difference that four of five such samples would show (power .8); a smaller one
    may exist and stay unclear. None if there are too few units to show any difference, or if no unit differs.
    """

    base: float
    tuned: float
    difference: float
    low: float | None
    high: float | None
    p_value: float
    p_holm: float
    test: Literal["mcnemar", "permutation"]
    higher_is_better: bool
    finding: Finding
    num_rows: int
    num_groups: int
    rows_fixed: int
    rows_broken: int
    smallest_detectable: float | None


def compare_metrics(
    metrics: Sequence[PairedMetric], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> dict[str, PairedFigures]:
    """Compare every metric of a family: {"sentiment accuracy": {"base": .52, "tuned": .91, "low": .28, ...}}.

    The same seed gives the same figures. Raises ValueError if the two sides differ in shape or have no row.
    """
    alpha = ALPHA / max(1, len(metrics))  # the limit for a single true difference at Holm's first step
    figures = {metric.name: _compare(metric, np.random.default_rng(seed), num_resamples, alpha) for metric in metrics}
    adjusted = adjust_holm([figure["p_value"] for figure in figures.values()])
    for figure, p_holm in zip(figures.values(), adjusted, strict=True):
        figure["p_holm"] = p_holm
        figure["finding"] = _find(figure)
    return figures


def _find(figure: PairedFigures) -> Finding:
    """The finding for a difference with a known p_holm."""
    low, high = figure["low"], figure["high"]
    if figure["num_groups"] < FEWEST_UNITS:
        return "too_few"
    if figure["p_holm"] >= ALPHA or low is None or high is None or low <= 0 <= high:
        return "unclear"
    return "better" if (figure["difference"] > 0) == figure["higher_is_better"] else "worse"


def _compare(metric: PairedMetric, rng: np.random.Generator, num_resamples: int, alpha: float) -> PairedFigures:
    base, tuned = np.asarray(metric.base, np.float64), np.asarray(metric.tuned, np.float64)
    if base.shape != tuned.shape or base.ndim != 2 or base.shape[1] != 2 or len(base) == 0:
        raise ValueError(f"{metric.name}: base and tuned must be the same rows, not {base.shape} and {tuned.shape}")
    groups = range(len(base)) if metric.groups is None else metric.groups
    if len(groups) != len(base):
        raise ValueError(f"{metric.name}: one group per row, not {len(groups)} for {len(base)}")
    sides = (sum_by_group(base, groups), sum_by_group(tuned, groups))
    units, weights = pair_sides(*sides)
    num_groups = len(units)
    interval = (
        bounded_interval(units, weights)
        if metric.is_bounded
        else studentised_interval(units, weights, rng, num_resamples)
    )
    gains = metric.row_gains()
    fixed, broken = int((gains > 0).sum()), int((gains < 0).sum())
    exact = metric.is_right_or_wrong and num_groups == len(base)  # McNemar counts rows as independent
    p_value = mcnemar_exact(fixed, broken) if exact else permutation_p_value(*sides, rng, num_resamples)
    detectable: float | None = smallest_detectable(standard_error(units, weights) if num_groups > 1 else 0.0, alpha)
    if metric.is_right_or_wrong:
        detectable = max(detectable or 0.0, _fewest_units(alpha) / len(base))
    if num_groups < max(FEWEST_UNITS, _fewest_units(alpha)) or detectable == 0.0:
        detectable = None
    base_figure, tuned_figure = float(ratio(base.sum(0))), float(ratio(tuned.sum(0)))
    return {
        "base": base_figure,
        "tuned": tuned_figure,
        "difference": tuned_figure - base_figure,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "p_value": p_value,
        "p_holm": p_value,
        "test": "mcnemar" if exact else "permutation",
        "higher_is_better": metric.higher_is_better,
        "finding": "unclear",
        "num_rows": len(base),
        "num_groups": num_groups,
        "rows_fixed": fixed,
        "rows_broken": broken,
        "smallest_detectable": detectable,
    }


def smallest_detectable(error: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The difference that a two-sided test at alpha shows with this power: (z_(1 - alpha/2) + z_power) standard errors.

    smallest_detectable(0.02) -> 0.056. error: the standard error of the difference.
    """
    return float(norm.ppf(1 - alpha / 2) + norm.ppf(power)) * error


def _fewest_units(alpha: float) -> int:
    """Units that must get better, none worse, for a p-value below alpha by either test: 6 at .05, 2 / 2^6 = .031."""
    return next(count for count in range(1, 64) if mcnemar_exact(count, 0) < alpha)


def mcnemar_exact(num_fixed: int, num_broken: int) -> float:
    """Exact McNemar test: two-sided binomial over the rows on which the models differ; 1.0 if there is none."""
    differing = num_fixed + num_broken
    return float(binomtest(num_fixed, differing, 0.5).pvalue) if differing else 1.0


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given: [0.01, 0.04, 0.03] -> [0.03, 0.06, 0.06]."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
