import random

import pytest
from sklearn.metrics import classification_report, confusion_matrix

from sft.metrics.classification import UNPARSEABLE, summarise_labels

LABELS = ("正面", "负面")


def test_all_figures_of_four_rows_with_one_answer_that_is_no_label():
    assert summarise_labels(["正面", "正面", "负面", "负面"], ["正面", None, "负面", "正面"], LABELS) == {
        "accuracy": 0.5,
        "macro_precision": 0.75,
        "macro_recall": 0.5,
        "macro_f1": pytest.approx((0.5 + 2 / 3) / 2),
        "unparseable_rate": 0.25,
        "num_rows": 4,
        "per_class": {
            "正面": {"precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2},
            "负面": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2},
        },
        "confusion_matrix": {
            "references": ["正面", "负面"],
            "predictions": ["正面", "负面", UNPARSEABLE],
            "counts": [[1, 0, 1], [1, 1, 0]],
        },
    }


def test_answers_that_are_no_label_never_count_as_negative():
    figures = summarise_labels(["负面"] * 4, [None] * 4, LABELS)
    assert (figures["accuracy"], figures["unparseable_rate"], figures["macro_f1"]) == (0.0, 1.0, 0.0)


def test_figures_equal_scikit_learn_on_250_generated_cases():
    rng = random.Random(4)
    for _ in range(250):
        labels = [f"类{index}" for index in range(rng.randrange(2, 7))]
        num_rows = rng.randrange(1, 40)
        references = rng.choices(labels, k=num_rows)
        predictions = rng.choices([*labels, None], k=num_rows)
        ours = summarise_labels(references, predictions, labels)
        # An answer that is no label is a class of its own for scikit-learn, left out of the mean over the classes.
        answers = [label or "none" for label in predictions]
        used = sorted({*references, *answers} - {"none"})
        theirs = classification_report(references, answers, labels=used, output_dict=True, zero_division=0)
        assert ours["accuracy"] == pytest.approx(
            sum(a == b for a, b in zip(references, answers, strict=True)) / num_rows, abs=1e-9
        )
        for name, key in (("macro_precision", "precision"), ("macro_recall", "recall"), ("macro_f1", "f1-score")):
            assert ours[name] == pytest.approx(theirs["macro avg"][key], abs=1e-9)
        assert ours["per_class"] == {
            label: {
                "precision": pytest.approx(theirs[label]["precision"], abs=1e-9),
                "recall": pytest.approx(theirs[label]["recall"], abs=1e-9),
                "f1": pytest.approx(theirs[label]["f1-score"], abs=1e-9),
                "support": theirs[label]["support"],
            }
            for label in used
        }
        assert ours["confusion_matrix"]["references"] == used
        counts = confusion_matrix(references, answers, labels=[*used, "none"])[:-1]
        assert ours["confusion_matrix"]["counts"] == counts.tolist()


def test_a_label_outside_the_allowed_ones_is_refused():
    with pytest.raises(ValueError, match="中性"):
        summarise_labels(["正面"], ["中性"], LABELS)


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="one prediction per reference"):
        summarise_labels([], [], LABELS)
