"""Area under the ROC curve of label probabilities, two classes or many (one against the rest), by scikit-learn."""

from collections.abc import Hashable, Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t
from sklearn.metrics import roc_auc_score

from sft.metrics.resampling import CONFIDENCE, Interval, Values, sum_by_group


class RocFigures(TypedDict):
    """macro: the mean of per_class; None where every row is of one class, for then there is nothing to tell apart.

    per_class: each class against all others; None for a class that no row, or every row, belongs to.
    """

    macro: float | None
    per_class: dict[str, float | None]


def summarise_roc(references: Sequence[str], probabilities: NDArray[np.float64], classes: Sequence[str]) -> RocFigures:
    """Areas of N rows; probabilities (N, C) in the order of the classes, 0 for a class the row does not allow.

    With two classes both areas, and so their mean, are the usual area. summarise_roc(["正面", "负面"], [[.1, .9],
    [.8, .2]], ["负面", "正面"]) -> {"macro": 1.0, "per_class": {"负面": 1.0, "正面": 1.0}}

    Raises ValueError where the shapes do not fit.
    """
    if probabilities.shape != (len(references), len(classes)):
        raise ValueError(f"probabilities {probabilities.shape} for {len(references)} rows of {len(classes)} classes")
    per_class: dict[str, float | None] = {}
    for column, label in enumerate(classes):
        belongs = np.array([reference == label for reference in references])
        tells_apart = bool(belongs.any() and not belongs.all())
        per_class[label] = float(roc_auc_score(belongs, probabilities[:, column])) if tells_apart else None
    known = [area for area in per_class.values() if area is not None]
    return {"macro": sum(known) / len(known) if known else None, "per_class": per_class}


def interval_of_area(
    references: Sequence[str],
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
    groups: Sequence[Hashable],
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Interval of the macro area over units of rows; None where every row is of one class, or there is one unit.

    DeLong, DeLong & Clarke-Pearson 1988 (each row's share of the pairs it is ranked right in), on the log odds of the
    area, so that it ends within 0 and 1. Two made-up rows ranked at random keep 50 perfectly ranked rows from being
    taken for a proof of 1.0.
    """
    shares = []  # of each class that tells apart, (N + 2,): what each row, and each made-up one, adds to the area
    areas = []
    for column, label in enumerate(classes):
        belongs = np.array([reference == label for reference in references])
        if not belongs.any() or belongs.all():
            continue
        placed = _place(probabilities[:, column], belongs)
        means = [(placed[side].sum() + 0.5) / (side.sum() + 1) for side in (belongs, ~belongs)]
        areas.append(sum(means) / 2)
        scale = np.where(belongs, 1 / (belongs.sum() + 1), 1 / ((~belongs).sum() + 1))
        made_up = [(0.5 - mean) / (side.sum() + 1) for side, mean in zip((belongs, ~belongs), means, strict=True)]
        shares.append(np.concatenate([scale * (placed - np.where(belongs, *means)), made_up]))
    totals = (
        sum_by_group(np.mean(shares, axis=0)[:, None], [*groups, object(), object()]) if shares else np.zeros((0, 1))
    )
    num_units = len(set(groups))
    if not areas or num_units < 2:
        return None
    area = float(np.mean(areas))
    error = float(np.sqrt((totals**2).sum() * num_units / (num_units - 1)))
    reach = error * float(t.ppf((1 + confidence) / 2, num_units - 1))
    found = summarise_roc(references, probabilities, classes)["macro"] or 0.0
    # The made-up rows move the area towards 1/2: an end that they would move inwards is taken from the area found.
    low, high = min(area, found), max(area, found)
    return Interval(min(found, _move(low, -reach)), max(found, _move(high, reach)))


def _move(area: float, distance: float) -> float:
    """The area moved on the scale of its log odds by a distance told on its own scale; 0 and 1 stay."""
    if not 0 < area < 1:
        return area
    odds = np.log(area / (1 - area)) + distance / (area * (1 - area))
    return float(1 / (1 + np.exp(-odds)))


def _place(scores: Values, belongs: NDArray[np.bool_]) -> Values:
    """Share of the other side that each row is ranked right against, ties half: (N,)."""
    ranks, placed = rankdata(scores), np.zeros(len(scores))
    for side in (belongs, ~belongs):
        below = (ranks[side] - rankdata(scores[side])) / (~side).sum()
        placed[side] = below if side is belongs else 1 - below
    return placed
