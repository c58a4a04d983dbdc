import numpy as np
import pytest
from scipy.stats import permutation_test
from sklearn.metrics import f1_score

from sft.metrics.comparison import (
    PairedMetric,
    adjust_holm,
    bootstrap_interval,
    compare_metrics,
    fewer_errors,
    mcnemar_exact,
    micro_f1,
    permutation_p_value,
    ratio,
)


def _right_or_wrong(values: list[int]) -> np.ndarray:
    """(N,) of 0 and 1 -> (N, 2) summands (right, 1)."""
    return np.stack([np.array(values, float), np.ones(len(values))], axis=1)


def _accuracy(base: list[int], tuned: list[int]) -> PairedMetric:
    return PairedMetric("accuracy", _right_or_wrong(base), _right_or_wrong(tuned), ratio, True, is_right_or_wrong=True)


def test_accuracy_of_twenty_rows_of_which_ten_are_fixed_and_one_is_broken():
    base, tuned = [0] * 10 + [1] * 10, [1] * 10 + [1] * 9 + [0]
    figures = compare_metrics([_accuracy(base, tuned)], seed=1)["accuracy"]
    assert {name: value for name, value in figures.items() if name not in ("low", "high")} == {
        "base": 0.5,
        "tuned": 0.95,
        "difference": pytest.approx(0.45),
        "p_value": pytest.approx(2 * (1 + 11) / 2**11),
        "p_holm": pytest.approx(2 * (1 + 11) / 2**11),
        "test": "mcnemar",
        "higher_is_better": True,
        "finding": "better",
        "num_rows": 20,
        "rows_fixed": 10,
        "rows_broken": 1,
    }
    assert 0.1 < figures["low"] < 0.3 < 0.6 < figures["high"] < 0.8


def test_a_lower_loss_is_better_and_a_higher_one_worse():
    low, high = np.array([[10.0, 10]] * 20), np.array([[20.0, 10]] * 20)
    better = compare_metrics([PairedMetric("loss", high, low, ratio, higher_is_better=False)])["loss"]
    worse = compare_metrics([PairedMetric("loss", low, high, ratio, higher_is_better=False)])["loss"]
    assert (better["difference"], better["low"], better["high"]) == (-1.0, -1.0, -1.0)
    assert (better["finding"], better["rows_fixed"], better["rows_broken"]) == ("better", 20, 0)
    assert (worse["finding"], worse["rows_fixed"], worse["rows_broken"]) == ("worse", 0, 20)


def test_equal_models_differ_by_nothing():
    figures = compare_metrics([_accuracy([1, 0, 1], [1, 0, 1])])["accuracy"]
    assert (figures["low"], figures["high"], figures["p_value"], figures["finding"]) == (0.0, 0.0, 1.0, "unclear")


def test_the_same_seed_gives_the_same_figures_and_each_metric_draws_alone():
    rng = np.random.default_rng(0)
    loss = PairedMetric("loss", rng.uniform(1, 9, (50, 2)), rng.uniform(1, 9, (50, 2)), ratio, False)
    accuracy = _accuracy([0, 1] * 20, [1, 1] * 20)
    alone = compare_metrics([loss], seed=3)["loss"]
    together = compare_metrics([accuracy, loss], seed=3)["loss"]
    assert (alone["low"], alone["high"], alone["p_value"]) == (together["low"], together["high"], together["p_value"])


def test_a_row_that_loses_a_made_up_entity_is_fixed_though_its_f1_stays_zero():
    base, tuned = np.array([[0.0, 3, 0], [1, 1, 1]]), np.array([[0.0, 1, 0], [1, 1, 1]])
    metric = PairedMetric("ner f1", base, tuned, micro_f1, True, row_score=fewer_errors)
    figures = compare_metrics([metric])["ner f1"]
    assert (figures["base"], figures["tuned"]) == (0.4, pytest.approx(2 / 3))
    assert (figures["rows_fixed"], figures["rows_broken"]) == (1, 0)


def test_ratios_of_nothing_are_zero():
    assert ratio(np.zeros((3, 2))).tolist() == micro_f1(np.zeros((3, 3))).tolist() == [0.0, 0.0, 0.0]


def test_micro_f1_from_counts_equals_scikit_learn_on_200_generated_cases():
    rng = np.random.default_rng(1)
    for _ in range(200):
        gold, predicted = rng.integers(0, 2, (2, 12, 5))
        sums = np.array([(gold & predicted).sum(), predicted.sum(), gold.sum()], float)
        assert float(micro_f1(sums)) == pytest.approx(
            f1_score(gold, predicted, average="micro", zero_division=0), abs=1e-9
        )


def test_the_interval_equals_a_plain_loop_over_the_same_draws():
    rng = np.random.default_rng(2)
    base, tuned = rng.uniform(0, 5, (40, 2)), rng.uniform(0, 5, (40, 2))
    draws = np.random.default_rng(7).multinomial(40, np.full(40, 1 / 40), size=200)
    differences = []
    for draw in draws:
        rows = np.repeat(np.arange(40), draw)
        differences.append(tuned[rows, 0].sum() / tuned[rows, 1].sum() - base[rows, 0].sum() / base[rows, 1].sum())
    low, high = bootstrap_interval(base, tuned, ratio, np.random.default_rng(7), num_resamples=200)
    assert (low, high) == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])), abs=1e-9)


def test_many_rows_are_resampled_in_pieces_without_changing_the_interval(monkeypatch):
    rng = np.random.default_rng(3)
    base, tuned = rng.uniform(0, 5, (30, 2)), rng.uniform(0, 5, (30, 2))
    whole = bootstrap_interval(base, tuned, ratio, np.random.default_rng(7), num_resamples=100)
    monkeypatch.setattr("sft.metrics.comparison.CHUNK_ELEMENTS", 7 * 30)
    assert bootstrap_interval(base, tuned, ratio, np.random.default_rng(7), num_resamples=100) == whole


def test_the_permutation_p_value_agrees_with_scipy_over_all_arrangements():
    rng = np.random.default_rng(4)
    for shift in (0.0, 0.4, 1.0):
        base, tuned = rng.normal(5, 1, 10), rng.normal(5 + shift, 1, 10)
        exact = permutation_test(
            (tuned, base), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=np.inf
        )
        summands = [np.stack([values, np.ones(10)], axis=1) for values in (base, tuned)]
        ours = permutation_p_value(*summands, ratio, np.random.default_rng(0), num_resamples=20_000)
        assert ours == pytest.approx(exact.pvalue, abs=0.015)  # 3 standard errors of 20,000 draws at p = 0.5


def test_mcnemar_counts_only_the_rows_on_which_the_models_differ():
    assert mcnemar_exact(0, 0) == 1.0
    assert mcnemar_exact(5, 5) == 1.0
    assert mcnemar_exact(0, 10) == mcnemar_exact(10, 0) == pytest.approx(2 / 2**10)


def test_holm_adjusts_step_down_and_keeps_the_order_given():
    assert adjust_holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjust_holm([0.9, 0.8]) == [1.0, 1.0]
    assert adjust_holm([]) == []


def test_a_second_metric_can_make_a_weak_finding_unclear():
    weak, flat = _accuracy([0] * 6 + [1], [1] * 6 + [1]), _accuracy([0, 1], [1, 0])  # p = 0.031 and 1.0
    assert compare_metrics([weak])["accuracy"]["finding"] == "better"
    flat = PairedMetric("other", flat.base, flat.tuned, ratio, True, is_right_or_wrong=True)
    assert compare_metrics([weak, flat])["accuracy"]["finding"] == "unclear"


def test_sides_of_different_rows_are_refused():
    with pytest.raises(ValueError, match="loss: base and tuned must be the same rows"):
        compare_metrics([PairedMetric("loss", np.ones((3, 2)), np.ones((2, 2)), ratio, False)])


def test_a_95_percent_interval_holds_the_true_difference_about_95_times_in_100():
    rng, num_trials, held = np.random.default_rng(5), 300, 0
    for _ in range(num_trials):
        ability = rng.uniform(0.2, 0.9, 120)  # rows are easy or hard for both models, so the pairs are correlated
        base = (rng.random(120) < ability).astype(int)
        tuned = (rng.random(120) < np.minimum(ability + 0.1, 1.0)).astype(int)
        low, high = bootstrap_interval(_right_or_wrong(base), _right_or_wrong(tuned), ratio, rng, num_resamples=400)
        held += low <= 0.1 <= high
    assert 0.92 <= held / num_trials <= 0.98  # 0.95 +- 2.4 standard errors of 300 trials
