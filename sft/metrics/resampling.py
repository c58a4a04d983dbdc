"""Intervals and tests of figures that are ratios of sums: how far a figure of these rows may be from the true one.

Every figure here is a ratio of two sums over rows, or a weighted sum of such ratios: loss is nll / tokens, accuracy
right / rows, micro-F1 2 found / (predicted + gold), macro-F1 the mean of the classes' ratios, and a difference of two
models the ratio of one minus that of the other. So one set of functions serves all of them. Rows that belong together
(the same text asked twice, turns of one conversation) are added up first, and the groups are the units from then on.

Two intervals, for two kinds of figure (benchmarks/intervals.py has their coverage on real rows):

    bounded_interval      figures between 0 and 1: few units differ, or none, and resampling those seen would find
                          no doubt at all where 50 of 50 rows are right
    studentised_interval  losses: a few long rows carry most of the sum, and the plain bootstrap does not know it
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

NUM_RESAMPLES = 5_000
CONFIDENCE = 0.95
CHUNK_ELEMENTS = 4_000_000  # resamples are drawn this many row weights at a time: always 32 MB
SMALLEST = 1e-12  # a standard error below it is a rounding of 0

Sums = NDArray[np.float64]  # (..., 2): numerator and denominator of a ratio; (..., M, 2) of the M ratios of a figure
Values = NDArray[np.float64]


class Interval(NamedTuple):
    """Lowest and highest value that the rows leave plausible: Interval(0.31, 0.47)."""

    low: float
    high: float


def ratio(sums: Sums) -> Values:
    """First sum over second, (..., 2) -> (...); 0 if there is nothing to divide by."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] != 0)


def sum_by_group(sums: Sums, groups: Sequence[Hashable]) -> Sums:
    """(N, ...) summands of rows -> (G, ...) of their groups, in the order of first mention.

    sum_by_group([[1, 1], [0, 1], [1, 1]], ["a", "b", "a"]) -> [[2, 2], [0, 1]]
    """
    numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    totals = np.zeros((len(numbers), *sums.shape[1:]))
    np.add.at(totals, [numbers[group] for group in groups], sums)
    return totals


def pair_sides(base: Sums, tuned: Sums) -> tuple[Sums, Values]:
    """Two models' (N, 2) as one figure, tuned minus base: units (N, 2, 2) and the weights of the two ratios."""
    return np.stack([base, tuned], axis=1), np.array([-1.0, 1.0])


def standard_error(units: Sums, weights: Values) -> float:
    """Standard error of sum of weights times ratios, linearised in the sums (delta method). units: (N, M, 2), N > 1."""
    return float(_error_of(_influences(units, weights, units.sum(0)), len(units)))


def bounded_interval(units: Sums, weights: Values, confidence: float = CONFIDENCE) -> Interval:
    """Interval of a figure whose ratios lie between 0 and 1. units: (N, M, 2), weights: (M,).

    A t interval with made-up units of average size added: two right and two wrong ones to a single figure (Agresti &
    Coull 1998), one gained and one lost to a difference (Bonett & Price 2012). Without them the interval of 50 right
    rows of 50 would be 1.0 to 1.0.
    """
    size = units.mean(0)[:, 1]  # (M,): denominator of an average unit
    is_paired = bool((weights < 0).any())
    shares = [weights > 0, weights < 0] if is_paired else [np.zeros(len(weights)), np.ones(len(weights))] * 2
    made_up = np.stack([np.stack([size * share, size], axis=-1) for share in shares])  # (2 or 4, M, 2)
    extended = np.concatenate([units, made_up])
    centre = float(_figure_of(extended.sum(0), weights))
    reach = _t_of(len(units), confidence) * standard_error(extended, weights)
    lowest, highest = float(weights[weights < 0].sum()), float(weights[weights > 0].sum())
    found = float(_figure_of(units.sum(0), weights))
    return Interval(max(lowest, min(found, centre - reach)), min(highest, max(found, centre + reach)))


def studentised_interval(
    units: Sums,
    weights: Values,
    rng: np.random.Generator,
    num_resamples: int = NUM_RESAMPLES,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Bootstrap-t interval (Efron & Tibshirani 1993, chapter 12.5) of a figure without bounds; None of one unit.

    Each resample shows by how many of its own standard errors it misses the figure. Where a few units carry the sum,
    a resample without them is both too low and too sure of itself, which makes the interval as wide as it has to be,
    but for a little that _expanded_tail adds.
    """
    num_units = len(units)
    if num_units < 2:
        return None
    found, influences = float(_figure_of(units.sum(0), weights)), _influences(units, weights, units.sum(0))
    error = float(_error_of(influences, num_units))
    flat = units.reshape(num_units, -1)
    misses: list[Values] = []
    for size in _chunks(num_units, num_resamples):
        drawn = rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=size).astype(float)  # (R, N)
        sums = (drawn @ flat).reshape(size, *units.shape[1:])  # (R, M, 2)
        errors = _error_of(_influences(units, weights, sums), num_units, drawn)  # (R,)
        usable = errors > SMALLEST
        misses.append((_figure_of(sums, weights)[usable] - found) / errors[usable])
    if error <= SMALLEST or not any(len(part) for part in misses):
        return Interval(found, found)
    tail = _expanded_tail(influences, confidence)
    low, high = np.quantile(np.concatenate(misses), [tail, 1 - tail])
    return Interval(found - float(high) * error, found - float(low) * error)


def permutation_p_value(base: Sums, tuned: Sums, rng: np.random.Generator, num_resamples: int = NUM_RESAMPLES) -> float:
    """Two-sided p-value of the difference of two ratios, (N, 2) each, if it did not matter which model answered which
    unit.

    Each resample swaps the two answers of every unit with chance 1/2. The observed arrangement counts as one of them
    (Phipson & Smyth 2010), so the smallest value is 1 / (num_resamples + 1).
    """
    num_units = len(base)
    base_sums, tuned_sums, gap = base.sum(0), tuned.sum(0), tuned - base
    observed = abs(float(ratio(tuned_sums) - ratio(base_sums)))
    at_least = 0
    for size in _chunks(num_units, num_resamples):
        moved = rng.integers(0, 2, size=(size, num_units)) @ gap  # (R, N) @ (N, 2): what the swapped carry over
        differences = ratio(tuned_sums - moved) - ratio(base_sums + moved)
        at_least += int((np.abs(differences) >= observed - 1e-12).sum())  # equal up to the rounding of the sums
    return (1 + at_least) / (1 + num_resamples)


def _figure_of(sums: Sums, weights: Values) -> Values:
    """(..., M, 2) -> (...): the weighted sum of the ratios."""
    figures: Values = ratio(sums) @ weights
    return figures


def _influences(units: Sums, weights: Values, sums: Sums) -> Values:
    """What each unit adds to the figure of these sums, times the number of units: (N, M, 2), (.., M, 2) -> (.., N)."""
    num_units, totals = len(units), sums[..., 1]
    scale = np.divide(num_units * weights, totals, out=np.zeros(totals.shape), where=totals != 0)  # (..., M)
    slopes = np.stack([scale, -scale * ratio(sums)], axis=-1)  # (..., M, 2)
    influences: Values = slopes.reshape(*slopes.shape[:-2], -1) @ units.reshape(num_units, -1).T
    return influences


def _error_of(influences: Values, num_units: int, drawn: Values | None = None) -> Values:
    """Standard errors from influences, (..., N) -> (...); drawn: how often each unit was drawn."""
    squares = influences**2 if drawn is None else drawn * influences**2
    errors: Values = np.sqrt(squares.sum(-1) / (num_units * (num_units - 1)))
    return errors


def _expanded_tail(influences: Values, confidence: float) -> float:
    """The share of resamples left out at each end: that of a t interval (Hesterberg 2015, arXiv:1411.5279, 4.1.1).

    Its degrees of freedom are those of the geometric mean of all units and of those that carry the variance: .0155 in
    place of .025 where 50 rows hold a handful of long ones. A rule of thumb, kept for the coverage it gives.
    """
    squares = influences**2
    carrying = float(squares.sum() ** 2 / (squares**2).sum())
    units = max(2.0, math.sqrt(len(influences) * carrying))
    stretch = math.sqrt(units / (units - 1)) * float(t.ppf((1 + confidence) / 2, units - 1))
    return float(norm.cdf(-stretch))


def _t_of(num_units: int, confidence: float) -> float:
    return float(t.ppf((1 + confidence) / 2, max(1, num_units - 1)))


def _chunks(num_units: int, num_resamples: int) -> list[int]:
    size = max(1, CHUNK_ELEMENTS // num_units)
    return [min(size, num_resamples - start) for start in range(0, num_resamples, size)]
