"""Base against tuned on the same rows: the difference, how sure it is, and which rows it fixed or broke.

Every figure here is a function of sums over rows: loss is (nll, tokens) -> nll / tokens, accuracy (right, 1) ->
right / rows, micro-F1 (found, predicted, gold). So one resampling serves them all: draw rows with both models'
answers attached, sum again, recompute.

Interval: paired percentile bootstrap (Efron & Tibshirani 1993, chapter 13). p-value: exact McNemar for right/wrong
figures, else a paired permutation test that swaps the two models' answers row by row (Yeh 2000). Holm (1979)
adjusts the p-values over the family, and only what stays below ALPHA then is called better or worse.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

ALPHA = 0.05
CONFIDENCE = 1 - ALPHA
NUM_RESAMPLES = 5_000
CHUNK_ELEMENTS = 4_000_000  # resamples are drawn so many row weights at a time: 32 MB, whatever the number of rows

Sums = NDArray[np.float64]  # (..., K): K sums per model
Finding = Literal["better", "worse", "unclear"]


def ratio(sums: Sums) -> Sums:
    """First sum over second, (..., 2) -> (...): loss from (nll, tokens), accuracy from (right, rows)."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] != 0)


def micro_f1(sums: Sums) -> Sums:
    """(found, predicted, gold) -> F1 = 2 found / (predicted + gold), (..., 3) -> (...)."""
    claimed = sums[..., 1] + sums[..., 2]
    return np.divide(2 * sums[..., 0], claimed, out=np.zeros(sums.shape[:-1]), where=claimed != 0)


def fewer_errors(sums: Sums) -> Sums:
    """Minus the number of wrong and missed entities: tells rows apart where F1 is 0 on both sides."""
    return 2 * sums[..., 0] - sums[..., 1] - sums[..., 2]


@dataclass(frozen=True)
class PairedMetric:
    """One figure of two models on the same N rows.

    base, tuned: (N, K) summands of each row, e.g. K = 2 for (nll, tokens). combine: their sums -> the figure.
    row_score: a row's summands -> what decides whether the row got better; the default is combine.
    """

    name: str
    base: Sums
    tuned: Sums
    combine: Callable[[Sums], Sums]
    higher_is_better: bool
    is_right_or_wrong: bool = False  # summands are (0 or 1, 1): the exact McNemar test applies
    row_score: Callable[[Sums], Sums] | None = None


class PairedFigures(TypedDict):
    """difference = tuned - base, with its interval low..high; p_holm is adjusted over the whole family."""

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
    rows_fixed: int
    rows_broken: int


def compare_metrics(
    metrics: Sequence[PairedMetric], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> dict[str, PairedFigures]:
    """Compare every metric of a family: {"sentiment accuracy": {"base": .52, "tuned": .91, "low": .28, ...}}.

    The same seed gives the same figures. rows_fixed and rows_broken count rows that the tuned model answers better
    and worse. Raises ValueError where the two sides differ in shape or hold no row.
    """
    figures = {metric.name: _compare(metric, np.random.default_rng(seed), num_resamples) for metric in metrics}
    adjusted = adjust_holm([figure["p_value"] for figure in figures.values()])
    for figure, p_holm in zip(figures.values(), adjusted, strict=True):
        figure["p_holm"] = p_holm
        gained = (figure["difference"] > 0) == figure["higher_is_better"]
        figure["finding"] = "unclear" if p_holm >= ALPHA else "better" if gained else "worse"
    return figures


def _compare(metric: PairedMetric, rng: np.random.Generator, num_resamples: int) -> PairedFigures:
    base, tuned = np.asarray(metric.base, np.float64), np.asarray(metric.tuned, np.float64)
    if base.shape != tuned.shape or base.ndim != 2 or len(base) == 0:
        raise ValueError(f"{metric.name}: base and tuned must be the same rows, not {base.shape} and {tuned.shape}")
    low, high = bootstrap_interval(base, tuned, metric.combine, rng, num_resamples)
    score = metric.row_score or metric.combine
    gain = (score(tuned) - score(base)) * (1 if metric.higher_is_better else -1)
    fixed, broken = int((gain > 0).sum()), int((gain < 0).sum())
    if metric.is_right_or_wrong:
        p_value = mcnemar_exact(fixed, broken)
    else:
        p_value = permutation_p_value(base, tuned, metric.combine, rng, num_resamples)
    base_figure, tuned_figure = float(metric.combine(base.sum(0))), float(metric.combine(tuned.sum(0)))
    return {
        "base": base_figure,
        "tuned": tuned_figure,
        "difference": tuned_figure - base_figure,
        "low": low,
        "high": high,
        "p_value": p_value,
        "p_holm": p_value,
        "test": "mcnemar" if metric.is_right_or_wrong else "permutation",
        "higher_is_better": metric.higher_is_better,
        "finding": "unclear",
        "num_rows": len(base),
        "rows_fixed": fixed,
        "rows_broken": broken,
    }


def bootstrap_interval(
    base: Sums,
    tuned: Sums,
    combine: Callable[[Sums], Sums],
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """Percentile interval of combine(tuned) - combine(base) over rows drawn with replacement, in pairs."""
    num_rows, num_sums = base.shape
    both = np.concatenate([base, tuned], axis=1)  # (N, 2K): one draw weighs both models' answers to a row
    differences = []
    for size in _chunks(num_rows, num_resamples):
        weights = rng.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=size)  # (size, N), times drawn
        sums = weights @ both  # (size, N) @ (N, 2K) -> (size, 2K)
        differences.append(combine(sums[:, num_sums:]) - combine(sums[:, :num_sums]))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(differences), [tail, 1 - tail])
    return float(low), float(high)


def permutation_p_value(
    base: Sums,
    tuned: Sums,
    combine: Callable[[Sums], Sums],
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> float:
    """Two-sided p-value of the difference if it did not matter which model answered which row.

    Each resample swaps the two answers of every row with chance 1/2. The observed arrangement counts as one of them
    (Phipson & Smyth 2010), so the smallest value is 1 / (num_resamples + 1).
    """
    num_rows = len(base)
    base_sums, tuned_sums, gap = base.sum(0), tuned.sum(0), tuned - base
    observed = abs(float(combine(tuned_sums) - combine(base_sums)))
    at_least = 0
    for size in _chunks(num_rows, num_resamples):
        moved = rng.integers(0, 2, size=(size, num_rows)) @ gap  # (size, N) @ (N, K): what the swapped rows carry over
        differences = combine(tuned_sums - moved) - combine(base_sums + moved)
        at_least += int((np.abs(differences) >= observed - 1e-12).sum())  # equal up to the rounding of the sums
    return (1 + at_least) / (1 + num_resamples)


def _chunks(num_rows: int, num_resamples: int) -> list[int]:
    size = max(1, CHUNK_ELEMENTS // num_rows)
    return [min(size, num_resamples - start) for start in range(0, num_resamples, size)]


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
