import numpy as np
import pytest
from scipy.stats import binom, norm
from sklearn.metrics import roc_auc_score

from sft.metrics.classification import summarise_labels
from sft.metrics.probabilities import softmax, spread_over
from sft.metrics.roc import interval_of_area, summarise_roc


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
