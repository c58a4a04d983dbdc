"""One number that makes a model's probabilities honest: the temperature its label scores are divided by.

Fitted on validation rows and then used on others: fitted on the rows it is judged by it would flatter itself. It moves
no answer, for it keeps the order of the labels (Guo et al. 2017, arXiv:1706.04599).
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.optimize import minimize_scalar

LOWEST, HIGHEST = 0.05, 20.0  # beyond them nothing is gained but certainty, or indifference


def fit_temperature(scores: Sequence[Sequence[float]], right: Sequence[int]) -> float:
    """The temperature of the lowest mean nll. scores[i] are those of row i's labels, right[i] the right label's place.

    fit_temperature([[2.0, 0.0]] * 3, [0, 0, 1]) -> 2.885: as sure as it is often right, softmax([0.693, 0]) = 2/3

    Raises ValueError for no rows.
    """
    if not scores or len(scores) != len(right):
        raise ValueError(f"one right label per row of scores: {len(scores)} rows, {len(right)} labels")
    width = max(map(len, scores))
    # Rows may allow fewer labels than others: the missing ones get a score that no temperature brings back.
    table = np.full((len(scores), width), -np.inf)  # (N, L)
    for place, row in enumerate(scores):
        table[place, : len(row)] = row
    wanted = table[np.arange(len(right)), right]  # (N,)

    def mean_nll(log_temperature: float) -> float:
        scaled = table / math.exp(log_temperature)
        top = scaled.max(1)
        normaliser = top + np.log(np.exp(scaled - top[:, None]).sum(1))
        return float((normaliser - wanted / math.exp(log_temperature)).mean())

    found = minimize_scalar(mean_nll, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return round(math.exp(float(found.x)), 6)
