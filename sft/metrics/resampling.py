"""Resampling of paired rows, or of whole groups of rows: the bootstrap interval and the permutation test.

Every figure compared here is a function of sums over rows, so one resampling serves all of them: draw rows with both
models' answers attached, sum again, recompute. Rows that belong together (the same text asked twice, sentences of one
document) are drawn together: their summands are added up first, and the groups are then what is drawn.

    interval = bootstrap_interval(base, tuned, ratio, np.random.default_rng(0))      # (0.31, 0.47)
"""

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

NUM_RESAMPLES = 5_000
CONFIDENCE = 0.95
CHUNK_ELEMENTS = 4_000_000  # resamples are drawn so many row weights at a time: 32 MB, whatever the number of rows

Sums = NDArray[np.float64]  # (..., K): K sums per model


def ratio(sums: Sums) -> Sums:
    """First sum over second, (..., 2) -> (...): loss from (nll, tokens), accuracy from (right, rows)."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] != 0)


def micro_f1(sums: Sums) -> Sums:
    """(found, predicted, gold) -> F1 = 2 found / (predicted + gold), (..., 3) -> (...)."""
    claimed = sums[..., 1] + sums[..., 2]
    return np.divide(2 * sums[..., 0], claimed, out=np.zeros(sums.shape[:-1]), where=claimed != 0)


def sum_by_group(sums: Sums, groups: Sequence[Hashable]) -> Sums:
    """(N, K) summands of rows -> (G, K) of their groups, in the order of first mention.

    sum_by_group([[1, 1], [0, 1], [1, 1]], ["a", "b", "a"]) -> [[2, 2], [0, 1]]
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    totals = np.zeros((len(numbers), sums.shape[1]))
    np.add.at(totals, [numbers[group] for group in groups], sums)
    return totals


def bootstrap_differences(
    base: Sums,
    tuned: Sums,
    combine: Callable[[Sums], Sums],
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> NDArray[np.float64]:
    """combine(tuned) - combine(base) of each resample: units drawn with replacement, in pairs. (N, K) twice -> (R,)."""
    num_units, num_sums = base.shape
    both = np.concatenate([base, tuned], axis=1)  # (N, 2K): one draw weighs both models' answers to a unit
    differences = []
    for size in _chunks(num_units, num_resamples):
        weights = rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=size)  # (size, N), times drawn
        sums = weights @ both  # (size, N) @ (N, 2K) -> (size, 2K)
        differences.append(combine(sums[:, num_sums:]) - combine(sums[:, :num_sums]))
    return np.concatenate(differences)


def interval_of(
    differences: NDArray[np.float64], num_units: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The expanded percentile interval of resampled differences (Hesterberg 2015, arXiv:1411.5279, section 4.1.1).

    The plain percentiles are too narrow for few units, as a z interval with variance / n would be. So the tails are
    those of a t distribution with variance / (n - 1): 2.5 % becomes 1.8 % for 20 units, 2.4 % for 200.
    """
    tail = (1 - confidence) / 2
    if num_units > 1:
        stretch = math.sqrt(num_units / (num_units - 1)) * float(t.ppf(1 - tail, num_units - 1))
        tail = float(norm.cdf(-stretch))
    low, high = np.quantile(differences, [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_interval(
    base: Sums,
    tuned: Sums,
    combine: Callable[[Sums], Sums],
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """Interval of combine(tuned) - combine(base) over rows drawn with replacement, or over whole groups of them."""
    if groups is not None:
        base, tuned = sum_by_group(base, groups), sum_by_group(tuned, groups)
    return interval_of(bootstrap_differences(base, tuned, combine, rng, num_resamples), len(base), confidence)


def permutation_p_value(
    base: Sums,
    tuned: Sums,
    combine: Callable[[Sums], Sums],
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
) -> float:
    """Two-sided p-value of the difference if it did not matter which model answered which unit.

    Each resample swaps the two answers of every unit with chance 1/2. The observed arrangement counts as one of them
    (Phipson & Smyth 2010), so the smallest value is 1 / (num_resamples + 1).
    """
    num_units = len(base)
    base_sums, tuned_sums, gap = base.sum(0), tuned.sum(0), tuned - base
    observed = abs(float(combine(tuned_sums) - combine(base_sums)))
    at_least = 0
    for size in _chunks(num_units, num_resamples):
        moved = rng.integers(0, 2, size=(size, num_units)) @ gap  # (size, N) @ (N, K): what the swapped carry over
        differences = combine(tuned_sums - moved) - combine(base_sums + moved)
        at_least += int((np.abs(differences) >= observed - 1e-12).sum())  # equal up to the rounding of the sums
    return (1 + at_least) / (1 + num_resamples)


def _chunks(num_units: int, num_resamples: int) -> list[int]:
    size = max(1, CHUNK_ELEMENTS // num_units)
    return [min(size, num_resamples - start) for start in range(0, num_resamples, size)]
