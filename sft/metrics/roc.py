"""Area under the ROC curve of label probabilities, two classes or many (one against the rest), by scikit-learn."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score


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
