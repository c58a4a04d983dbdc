"""Label tasks: accuracy, precision, recall, F1, the confusion matrix and ROC areas, counted by scikit-learn.

One interface for every way to an answer: generated text, the label scored highest, the class of a classification
head. Each gives one label per row, or None, and the latter two also a probability for each class.

An answer that is no allowed label is wrong: it lowers the recall of the true class and the precision of none.
It is never read as one of the labels. The area under the ROC curve of more than two classes is that of each against the
rest.
"""

from collections.abc import Hashable, Sequence
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, t
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support, roc_auc_score

from sft.metrics.resampling import CONFIDENCE, Interval, Values, sum_by_group

UNPARSEABLE = "(none of the labels)"


class ClassFigures(TypedDict):
    """One class; support = its rows among the references."""

    precision: float
    recall: float
    f1: float
    support: int


class ConfusionMatrix(TypedDict):
    """counts[i][j] = rows whose reference is references[i] and whose prediction is predictions[j]."""

    references: list[str]
    predictions: list[str]
    counts: list[list[int]]


class RocFigures(TypedDict):
    """macro: the mean of per_class; None if all rows have the same class.

    per_class: each class against all others; None for a class that no row, or every row, belongs to.
    """

    macro: float | None
    per_class: dict[str, float | None]


class ClassificationFigures(TypedDict):
    """Macro figures are unweighted means over the classes that occur among references or valid predictions.

    roc_auc is there where probabilities were given.
    """

    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    unparseable_rate: float
    num_rows: int
    per_class: dict[str, ClassFigures]
    confusion_matrix: ConfusionMatrix
    roc_auc: NotRequired[RocFigures]


def summarise_labels(
    references: Sequence[str],
    predictions: Sequence[str | None],
    labels: Sequence[str],
    probabilities: NDArray[np.float64] | None = None,
) -> ClassificationFigures:
    """Figures of predicted labels; None is an answer that is no allowed label.

    labels: every allowed label, in the order the tables show them. probabilities: (N, C) of label scoring or a
    classification head, columns in the order of labels; None for generated answers, which have none.
    summarise_labels(["正面", "负面"], ["正面", None], ["正面", "负面"]) -> accuracy 0.5, unparseable_rate 0.5

    Raises ValueError for no rows, for lists of different lengths and for a label that is not among `labels`.
    """
    if len(references) != len(predictions) or not references:
        raise ValueError(f"one prediction per reference: {len(references)} references, {len(predictions)} predictions")
    unknown = {*references, *(label for label in predictions if label is not None)} - set(labels)
    if unknown:
        raise ValueError(f"labels {sorted(unknown)} are not among the allowed {list(labels)}")
    answers = [UNPARSEABLE if prediction is None else prediction for prediction in predictions]
    used = [label for label in dict.fromkeys(labels) if label in references or label in answers]
    precision, recall, f1, support = precision_recall_fscore_support(references, answers, labels=used, zero_division=0)
    counts = confusion_matrix(references, answers, labels=[*used, UNPARSEABLE])
    figures: ClassificationFigures = {
        "accuracy": float(accuracy_score(references, answers)),
        "macro_precision": float(precision.mean()),
        "macro_recall": float(recall.mean()),
        "macro_f1": float(f1.mean()),
        "unparseable_rate": answers.count(UNPARSEABLE) / len(answers),
        "num_rows": len(references),
        "per_class": {
            label: {
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "f1": float(f1[index]),
                "support": int(support[index]),
            }
            for index, label in enumerate(used)
        },
        "confusion_matrix": {
            "references": used,
            "predictions": [*used, UNPARSEABLE],
            "counts": [[int(count) for count in row] for row in counts[:-1]],  # no reference is unparseable
        },
    }
    if probabilities is not None:
        figures["roc_auc"] = summarise_roc(references, probabilities, labels)
    return figures


def summarise_roc(references: Sequence[str], probabilities: NDArray[np.float64], classes: Sequence[str]) -> RocFigures:
    """Areas of N rows; probabilities (N, C) in the order of the classes, 0 for a class the row does not allow.

    With two classes both areas, and so their mean, are the usual area. summarise_roc(["正面", "负面"], [[.1, .9],
    [.8, .2]], ["负面", "正面"]) -> {"macro": 1.0, "per_class": {"负面": 1.0, "正面": 1.0}}

    Raises ValueError if the shapes do not fit.
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
    """Interval of the macro area over units of rows; None if every row is of one class, or there is one unit.

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
