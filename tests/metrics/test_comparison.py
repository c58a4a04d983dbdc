import numpy as np
import pytest
from sklearn.metrics import f1_score

from sft.metrics.comparison import (
    PairedMetric,
    adjust_holm,
    compare_metrics,
    mcnemar_exact,
    ratio,
    smallest_detectable,
)


def _right_or_wrong(values: list[int]) -> np.ndarray:
    """(N,) of 0 and 1 -> (N, 2) summands (right, 1)."""
    return np.stack([np.array(values, float), np.ones(len(values))], axis=1)


def _accuracy(base: list[int], tuned: list[int]) -> PairedMetric:
    return PairedMetric("accuracy", _right_or_wrong(base), _right_or_wrong(tuned), True, is_right_or_wrong=True)


def test_accuracy_of_forty_rows_of_which_ten_are_fixed_and_one_is_broken():
    base, tuned = [0] * 10 + [1] * 10 + [0, 1] * 10, [1] * 10 + [1] * 9 + [0] + [0, 1] * 10
    figures = compare_metrics([_accuracy(base, tuned)], seed=1)["accuracy"]
    assert {name: value for name, value in figures.items() if name not in ("low", "high")} == {
        "base": 0.5,
        "tuned": 0.725,
        "difference": pytest.approx(0.225),
        "p_value": pytest.approx(2 * (1 + 11) / 2**11),
        "p_holm": pytest.approx(2 * (1 + 11) / 2**11),
        "test": "mcnemar",
        "higher_is_better": True,
        "finding": "better",
        "num_rows": 40,
        "num_groups": 40,
        "rows_fixed": 10,
        "rows_broken": 1,
        "smallest_detectable": pytest.approx(2.8 * 0.076, rel=0.05),  # 0.076: the standard error of 11 in 40
    }
    # Bonett & Price: (10 + 1) / 42 - (1 + 1) / 42, give or take 2.02 standard errors of 42 rows
    error = np.sqrt((13 / 42 - (9 / 42) ** 2) / 41)
    assert (figures["low"], figures["high"]) == pytest.approx(
        (9 / 42 - 2.0227 * error, 9 / 42 + 2.0227 * error), abs=1e-4
    )


def test_a_lower_loss_is_better_and_a_higher_one_worse():
    low, high = np.array([[10.0, 10]] * 30), np.array([[20.0, 10]] * 30)
    better = compare_metrics([PairedMetric("loss", high, low, higher_is_better=False, is_bounded=False)])["loss"]
    worse = compare_metrics([PairedMetric("loss", low, high, higher_is_better=False, is_bounded=False)])["loss"]
    assert (better["difference"], better["low"], better["high"]) == (-1.0, -1.0, -1.0)
    assert (better["finding"], better["rows_fixed"], better["rows_broken"]) == ("better", 30, 0)
    assert (worse["finding"], worse["rows_fixed"], worse["rows_broken"]) == ("worse", 0, 30)


def test_equal_models_differ_by_nothing():
    figures = compare_metrics([_accuracy([1, 0] * 25, [1, 0] * 25)])["accuracy"]
    assert (figures["difference"], figures["p_value"], figures["finding"]) == (0.0, 1.0, "unclear")
    assert -0.08 < figures["low"] == -figures["high"] < -0.05  # as good as 3 of 50, which such rows may well not show


def test_the_same_seed_gives_the_same_figures_and_each_metric_draws_alone():
    rng = np.random.default_rng(0)
    loss = PairedMetric("loss", rng.uniform(1, 9, (50, 2)), rng.uniform(1, 9, (50, 2)), False, is_bounded=False)
    accuracy = _accuracy([0, 1] * 20, [1, 1] * 20)
    alone = compare_metrics([loss], seed=3)["loss"]
    together = compare_metrics([accuracy, loss], seed=3)["loss"]
    assert (alone["low"], alone["high"], alone["p_value"]) == (together["low"], together["high"], together["p_value"])


def test_rows_are_better_or_worse_by_what_a_reader_would_judge_them_by():
    sums = np.array([[0.0, 3], [2, 2], [0, 4]])
    metric = PairedMetric("ner f1", sums, sums, True, row_scores=(np.array([0.0, 1, 0]), np.array([1.0, 0.5, 0])))
    figures = compare_metrics([metric])["ner f1"]
    assert (figures["difference"], figures["rows_fixed"], figures["rows_broken"]) == (0.0, 1, 1)


def test_ratios_of_nothing_are_zero():
    assert ratio(np.zeros((3, 2))).tolist() == [0.0, 0.0, 0.0]


def test_micro_f1_as_a_ratio_of_counts_equals_scikit_learn_on_200_generated_cases():
    rng = np.random.default_rng(1)
    for _ in range(200):
        gold, predicted = rng.integers(0, 2, (2, 12, 5))
        sums = np.array([2 * (gold & predicted).sum(), predicted.sum() + gold.sum()], float)
        assert float(ratio(sums)) == pytest.approx(
            f1_score(gold, predicted, average="micro", zero_division=0), abs=1e-9
        )


def test_mcnemar_counts_only_the_rows_on_which_the_models_differ():
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(5, 5) == 1.0
    assert mcnemar_exact(0, 10) == mcnemar_exact(10, 0) == pytest.approx(2 / 2**10)


def test_holm_adjusts_step_down_and_keeps_the_order_given():
    assert adjust_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjust_holm([0.9, 0.8]) == [1.0, 1.0]
    assert adjust_holm([]) == []


def test_a_second_metric_can_make_a_weak_finding_unclear():
    weak, flat = _accuracy([0] * 6 + [1] * 30, [1] * 36), _accuracy([0, 1] * 20, [1, 0] * 20)  # p = 0.031 and 1.0
    assert compare_metrics([weak])["accuracy"]["finding"] == "better"
    flat = PairedMetric("other", flat.base, flat.tuned, True, is_right_or_wrong=True)
    assert compare_metrics([weak, flat])["accuracy"]["finding"] == "unclear"


def test_sides_of_different_rows_are_refused():
    with pytest.raises(ValueError, match="loss: base and tuned must be the same rows"):
        compare_metrics([PairedMetric("loss", np.ones((3, 2)), np.ones((2, 2)), False, is_bounded=False)])


def test_rows_of_a_group_count_as_one_and_mcnemar_gives_way_to_the_permutation_test():
    base, tuned = [0] * 60 + [1] * 60, [1] * 60 + [1] * 60
    alone = _accuracy(base, tuned)
    grouped = PairedMetric(
        "accuracy", alone.base, alone.tuned, True, is_right_or_wrong=True, groups=[i // 60 for i in range(120)]
    )
    figures = [compare_metrics([metric])["accuracy"] for metric in (alone, grouped)]
    assert [(f["test"], f["num_groups"], f["finding"]) for f in figures] == [
        ("mcnemar", 120, "better"),
        ("permutation", 2, "too_few"),  # one text fixed sixty times over is one text
    ]
    assert figures[0]["difference"] == figures[1]["difference"] == 0.5


def test_groups_of_one_row_each_change_nothing():
    metric = _accuracy([0, 1, 0, 1], [1, 1, 0, 0])
    single = PairedMetric(
        "accuracy", metric.base, metric.tuned, True, is_right_or_wrong=True, groups=["a", "b", "c", "d"]
    )
    assert compare_metrics([single]) == compare_metrics([metric])


def test_a_group_missing_for_a_row_is_refused():
    metric = _accuracy([0, 1], [1, 1])
    with pytest.raises(ValueError, match="accuracy: one group per row, not 1 for 2"):
        compare_metrics([PairedMetric("accuracy", metric.base, metric.tuned, True, groups=["a"])])


def test_the_smallest_detectable_difference_is_shown_by_four_samples_of_five():
    rng, shown, num_trials = np.random.default_rng(6), 0, 400
    effect = smallest_detectable(np.sqrt(0.3 / 500))  # 30 % of 500 rows differ
    for _ in range(num_trials):
        fixed = rng.binomial(rng.binomial(500, 0.3), 0.5 + effect / 0.3 / 2)
        shown += mcnemar_exact(fixed, rng.binomial(500, 0.3 * (0.5 - effect / 0.3 / 2))) < 0.05
    assert 0.70 < shown / num_trials < 0.86  # .8, a little less by the exact test, +- 2.4 standard errors


def test_two_models_with_equal_answers_could_still_not_have_shown_less_than_six_rows():
    figures = compare_metrics([_accuracy([1, 0] * 50, [1, 0] * 50)])["accuracy"]
    assert figures["smallest_detectable"] == 0.06


def test_below_thirty_units_nothing_is_called_better_however_large_the_difference():
    few, enough = _accuracy([0] * 20 + [1] * 9, [1] * 29), _accuracy([0] * 20 + [1] * 10, [1] * 30)
    figures = [compare_metrics([metric])["accuracy"] for metric in (few, enough)]
    assert [figure["finding"] for figure in figures] == ["too_few", "better"]
    assert [figure["smallest_detectable"] is None for figure in figures] == [True, False]


def test_a_difference_whose_interval_holds_0_is_not_called_better_whatever_the_permutation_test_says():
    rng = np.random.default_rng(4)
    for _ in range(200):
        base = np.stack([rng.lognormal(0, 2, 30), np.ones(30)], axis=1)
        tuned = base * [[rng.uniform(0.6, 1), 1]] + np.stack([rng.normal(0, 0.3, 30), np.zeros(30)], axis=1)
        figure = compare_metrics([PairedMetric("loss", base, tuned, False, is_bounded=False)], num_resamples=200)[
            "loss"
        ]
        if figure["finding"] != "unclear":
            assert not figure["low"] <= 0 <= figure["high"]
            assert figure["p_holm"] < 0.05


def test_no_unit_that_differs_shows_no_detectable_difference_and_one_unit_has_no_interval_of_its_loss():
    zeros = PairedMetric("ner f1", np.array([[0.0, 1]] * 50), np.array([[0.0, 1]] * 50), True)
    assert compare_metrics([zeros])["ner f1"]["smallest_detectable"] is None
    single = PairedMetric("loss", np.array([[2.0, 1]]), np.array([[1.0, 1]]), False, is_bounded=False)
    figure = compare_metrics([single])["loss"]
    assert (figure["low"], figure["high"], figure["finding"]) == (None, None, "too_few")
