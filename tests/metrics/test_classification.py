import random

import numpy as np
import pytest
from scipy.stats import binom, norm
from sklearn.metrics import classification_report, confusion_matrix, roc_auc_score

from sft.metrics.calibration import softmax, spread_over
from sft.metrics.classification import UNPARSEABLE, interval_of_area, summarise_labels, summarise_roc

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


def test_areas_equal_scikit_learn_on_200_generated_cases_of_two_to_five_classes():
    rng = np.random.default_rng(9)
    for _ in range(200):
        classes = [f"类{index}" for index in range(rng.integers(2, 6))]
        references = [*classes, *rng.choice(classes, rng.integers(0, 30))]
        # Rounded, so that there are ties, which count half.
        probabilities = rng.dirichlet(np.ones(len(classes)), len(references)).round(1) + 0.01
        probabilities /= probabilities.sum(1, keepdims=True)
        ours = summarise_roc(references, probabilities, classes)
        if len(classes) == 2:
            theirs = roc_auc_score([label == classes[1] for label in references], probabilities[:, 1])
            assert ours["per_class"] == pytest.approx(dict.fromkeys(classes, theirs), abs=1e-9)
        else:
            theirs = roc_auc_score(references, probabilities, multi_class="ovr", labels=classes)
        assert ours["macro"] == pytest.approx(theirs, abs=1e-9)


def test_a_class_that_no_row_has_has_no_area_and_is_left_out_of_the_mean():
    found = summarise_roc(["a", "b"], np.array([[0.7, 0.2, 0.1], [0.2, 0.7, 0.1]]), ["a", "b", "c"])
    assert found == {"macro": 1.0, "per_class": {"a": 1.0, "b": 1.0, "c": None}}
    assert summarise_roc(["a"], np.array([[0.9, 0.1]]), ["a", "b"])["macro"] is None


def test_probabilities_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"probabilities \(2, 2\) for 1 rows of 2 classes"):
        summarise_roc(["a"], np.ones((2, 2)), ["a", "b"])


def test_scored_labels_bring_their_area_and_generated_ones_have_none():
    references, predictions, labels = ["正面", "负面"], ["正面", "正面"], ["负面", "正面"]
    scored = summarise_labels(references, predictions, labels, np.array([[0.1, 0.9], [0.4, 0.6]]))
    assert scored["roc_auc"] == {"macro": 1.0, "per_class": {"负面": 1.0, "正面": 1.0}}
    assert "roc_auc" not in summarise_labels(references, predictions, labels)


def test_softmax_is_in_fp32_adds_up_to_one_and_flattens_with_temperature():
    found = softmax([-1000.0, -1000.0 + np.log(3.0)])
    assert found.dtype == np.float32
    assert found.tolist() == pytest.approx([0.25, 0.75], abs=1e-4)
    assert softmax([2.0, 0.0], temperature=2.0).tolist() == pytest.approx(softmax([1.0, 0.0]).tolist())


@pytest.mark.parametrize("scores", [[], [float("nan"), 0.0], [float("-inf"), 0.0]])
def test_scores_that_are_no_numbers_are_refused(scores):
    with pytest.raises(ValueError, match="scores must be finite"):
        softmax(scores)


def test_a_class_the_row_does_not_allow_has_probability_zero():
    assert spread_over(["体育", "经济", "娱乐"], ["经济", "体育"], [0.2, 0.8]).tolist() == [0.8, 0.2, 0.0]


@pytest.mark.parametrize(("area", "share"), [(0.75, 0.5), (0.99, 0.5), (0.9, 0.15)])
def test_the_interval_of_an_area_holds_the_true_one_at_least_93_times_in_100(area, share):
    rng, distance, held, num_trials = np.random.default_rng(3), norm.ppf(area) * 2**0.5, 0, 300
    for _ in range(num_trials):
        positive = rng.random(50) < share
        score = 1 / (1 + np.exp(-rng.normal(distance * positive, 1)))
        names = ["正面" if one else "负面" for one in positive]
        found = interval_of_area(names, np.stack([1 - score, score], 1), ["负面", "正面"], range(50))
        held += found is not None and found.low <= area <= found.high
    assert held >= binom.ppf(0.005, num_trials, 0.93)


def test_rows_that_belong_together_make_the_interval_of_an_area_wider_and_one_class_has_none():
    rng = np.random.default_rng(4)
    score = np.repeat(rng.random(20), 4)
    table = np.stack([1 - score, score], 1)
    names = [name for name in ["正面", "负面"] * 10 for _ in range(4)]
    alone = interval_of_area(names, table, ["负面", "正面"], range(80))
    together = interval_of_area(names, table, ["负面", "正面"], [row // 4 for row in range(80)])
    assert together.high - together.low > 1.4 * (alone.high - alone.low)
    assert interval_of_area(["正面"] * 80, table, ["负面", "正面"], range(80)) is None
