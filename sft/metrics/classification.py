"""Label tasks: accuracy, precision, recall, F1 and the confusion matrix, counted by scikit-learn.

One interface for every way to an answer: generated text, the label scored highest, the class of a classification
head. Each gives one label a row, or None, and the latter two a probability for each class besides.

An answer that is none of the allowed labels is wrong: it takes recall from the true class and lends precision to
none. It is never read as one of the labels.
"""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from sft.metrics.roc import RocFigures, summarise_roc

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
    """Figures of predicted labels; None stands for an answer that is none of the allowed ones.

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
