"""Base against tuned on the same rows: the difference, how sure it is, and which rows it fixed or broke.

Every figure here is a function of sums over rows: loss is (nll, tokens) -> nll / tokens, accuracy (right, 1) ->
right / rows, micro-F1 (found, predicted, gold).

Interval: paired bootstrap over rows, or over groups where rows belong together (sft.metrics.resampling). p-value: exact
McNemar for right/wrong figures of rows that stand alone, else a paired permutation test that swaps the two models'
answers unit by unit (Yeh 2000). Holm (1979) adjusts the p-values over the family, and only what stays below ALPHA
then is called better or worse.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from scipy.stats import binomtest, norm

from sft.metrics.resampling import (
    CONFIDENCE,
    NUM_RESAMPLES,
    Sums,
    bootstrap_differences,
    interval_of,
    micro_f1,
    permutation_p_value,
    ratio,
    sum_by_group,
)

__all__ = [  # what a comparison is written with, in one place
    "ALPHA", "CONFIDENCE", "NUM_RESAMPLES", "PairedFigures", "PairedMetric", "Sums", "adjust_holm", "compare_metrics",
    "fewer_errors", "mcnemar_exact", "micro_f1", "ratio", "smallest_detectable",
]  # fmt: skip

ALPHA = 0.05
POWER = 0.8  # of the smallest difference shown: four samples of five would show it

Finding = Literal["better", "worse", "unclear"]


def fewer_errors(sums: Sums) -> Sums:
    """Minus the number of wrong and missed entities: tells rows apart where F1 is 0 on both sides."""
    return 2 * sums[..., 0] - sums[..., 1] - sums[..., 2]


@dataclass(frozen=True)
class PairedMetric:
    """One figure of two models on the same N rows.

    base, tuned: (N, K) summands of each row, e.g. K = 2 for (nll, tokens). combine: their sums -> the figure.
    row_score: a row's summands -> what decides whether the row got better; the default is combine. groups: which rows
    belong together, one key each; the default is that each stands alone.
    """

    name: str
    base: Sums
    tuned: Sums
    combine: Callable[[Sums], Sums]
    higher_is_better: bool
    is_right_or_wrong: bool = False  # summands are (0 or 1, 1): the exact McNemar test applies
    row_score: Callable[[Sums], Sums] | None = None
    groups: Sequence[Hashable] | None = None


class PairedFigures(TypedDict):
    """difference = tuned - base, with its interval low..high; p_holm is adjusted over the whole family.

    num_groups: how many units were resampled, num_rows where rows stand alone. smallest_detectable: the size of a
    difference that four of five such samples would show (power .8); a smaller one may be there and stay unclear. None
    where so few units can show none, whatever its size, or where no resample differed and it cannot be told.
    """

    base: float
    tuned: float
    difference: float
    low: float
    high: float
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

    The same seed gives the same figures. rows_fixed and rows_broken count rows that the tuned model answers better
    and worse. Raises ValueError where the two sides differ in shape or hold no row.
    """
    alpha = ALPHA / max(1, len(metrics))  # what a single true difference must pass at Holm's first step
    figures = {metric.name: _compare(metric, np.random.default_rng(seed), num_resamples, alpha) for metric in metrics}
    adjusted = adjust_holm([figure["p_value"] for figure in figures.values()])
    for figure, p_holm in zip(figures.values(), adjusted, strict=True):
        figure["p_holm"] = p_holm
        gained = (figure["difference"] > 0) == figure["higher_is_better"]
        figure["finding"] = "unclear" if p_holm >= ALPHA else "better" if gained else "worse"
    return figures


def _compare(metric: PairedMetric, rng: np.random.Generator, num_resamples: int, alpha: float) -> PairedFigures:
    base, tuned = np.asarray(metric.base, np.float64), np.asarray(metric.tuned, np.float64)
    if base.shape != tuned.shape or base.ndim != 2 or len(base) == 0:
        raise ValueError(f"{metric.name}: base and tuned must be the same rows, not {base.shape} and {tuned.shape}")
    groups = range(len(base)) if metric.groups is None else metric.groups
    if len(groups) != len(base):
        raise ValueError(f"{metric.name}: one group per row, not {len(groups)} for {len(base)}")
    units = (sum_by_group(base, groups), sum_by_group(tuned, groups))
    num_groups = len(units[0])
    differences = bootstrap_differences(*units, metric.combine, rng, num_resamples)
    low, high = interval_of(differences, num_groups)
    score = metric.row_score or metric.combine
    gain = (score(tuned) - score(base)) * (1 if metric.higher_is_better else -1)
    fixed, broken = int((gain > 0).sum()), int((gain < 0).sum())
    exact = metric.is_right_or_wrong and num_groups == len(base)  # McNemar counts rows as independent
    p_value = mcnemar_exact(fixed, broken) if exact else permutation_p_value(*units, metric.combine, rng, num_resamples)
    detectable: float | None = smallest_detectable(float(differences.std()), alpha)
    if metric.is_right_or_wrong:
        detectable = max(detectable or 0.0, _fewest_units(alpha) / len(base))
    if num_groups < _fewest_units(alpha) or detectable == 0.0:
        detectable = None
    base_figure, tuned_figure = float(metric.combine(base.sum(0))), float(metric.combine(tuned.sum(0)))
    return {
        "base": base_figure,
        "tuned": tuned_figure,
        "difference": tuned_figure - base_figure,
        "low": low,
        "high": high,
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


def smallest_detectable(standard_error: float, alpha: float = ALPHA, power: float = POWER) -> float:
    """The difference that a two-sided test at alpha shows with this power: (z_(1 - alpha/2) + z_power) standard errors.

    smallest_detectable(0.02) -> 0.056. standard_error: of the difference, as the bootstrap found it.
    """
    return float(norm.ppf(1 - alpha / 2) + norm.ppf(power)) * standard_error


def _fewest_units(alpha: float) -> int:
    """Units that must get better, none worse, for a p-value below alpha by either test: 6 at .05, 2 / 2^6 = .031."""
    return next(count for count in range(1, 64) if mcnemar_exact(count, 0) < alpha)


def mcnemar_exact(num_fixed: int, num_broken: int) -> float:
    """Exact McNemar test: two-sided binomial over the rows on which the models differ; 1.0 where there is none."""
    differing = num_fixed + num_broken
    return float(binomtest(num_fixed, differing, 0.5).pvalue) if differing else 1.0


def adjust_holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, in the order given: [0.01, 0.04, 0.03] -> [0.03, 0.06, 0.06]."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted
