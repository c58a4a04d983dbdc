import numpy as np
import pytest
from scipy.stats import norm, permutation_test, t

from sft.metrics.resampling import bootstrap_interval, interval_of, permutation_p_value, ratio, sum_by_group


def _right_or_wrong(values) -> np.ndarray:
    """(N,) of 0 and 1 -> (N, 2) summands (right, 1)."""
    return np.stack([np.array(values, float), np.ones(len(values))], axis=1)


def test_the_interval_equals_a_plain_loop_over_the_same_draws():
    rng = np.random.default_rng(2)
    base, tuned = rng.uniform(0, 5, (40, 2)), rng.uniform(0, 5, (40, 2))
    draws = np.random.default_rng(7).multinomial(40, np.full(40, 1 / 40), size=200)
    differences = []
    for draw in draws:
        rows = np.repeat(np.arange(40), draw)
        differences.append(tuned[rows, 0].sum() / tuned[rows, 1].sum() - base[rows, 0].sum() / base[rows, 1].sum())
    tail = norm.cdf(-np.sqrt(40 / 39) * t.ppf(0.975, 39))
    low, high = bootstrap_interval(base, tuned, ratio, np.random.default_rng(7), num_resamples=200)
    assert (low, high) == pytest.approx(tuple(np.quantile(differences, [tail, 1 - tail])), abs=1e-9)


def test_many_rows_are_resampled_in_pieces_without_changing_the_interval(monkeypatch):
    rng = np.random.default_rng(3)
    base, tuned = rng.uniform(0, 5, (30, 2)), rng.uniform(0, 5, (30, 2))
    whole = bootstrap_interval(base, tuned, ratio, np.random.default_rng(7), num_resamples=100)
    monkeypatch.setattr("sft.metrics.resampling.CHUNK_ELEMENTS", 7 * 30)
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


def test_groups_are_summed_in_the_order_of_their_first_mention():
    sums = np.array([[1.0, 1], [0, 1], [1, 1]])
    assert sum_by_group(sums, ["b", "a", "b"]).tolist() == [[2.0, 2.0], [0.0, 1.0]]


def test_drawing_groups_is_drawing_rows_of_their_sums():
    rng = np.random.default_rng(8)
    base, tuned, groups = rng.uniform(0, 5, (30, 2)), rng.uniform(0, 5, (30, 2)), [i // 3 for i in range(30)]
    by_group = bootstrap_interval(base, tuned, ratio, np.random.default_rng(1), 300, groups=groups)
    sums = [side.reshape(10, 3, 2).sum(1) for side in (base, tuned)]
    assert by_group == pytest.approx(bootstrap_interval(*sums, ratio, np.random.default_rng(1), 300))


def test_few_units_get_wider_tails_than_the_plain_percentiles_and_many_the_same():
    differences = np.random.default_rng(0).normal(0, 1, 200_000)
    low, high = interval_of(differences, 10)
    assert (low, high) == pytest.approx(
        (-np.sqrt(10 / 9) * t.ppf(0.975, 9), np.sqrt(10 / 9) * t.ppf(0.975, 9)), abs=0.05
    )
    assert interval_of(differences, 100_000)[1] == pytest.approx(1.96, abs=0.02)


@pytest.mark.parametrize("rows_per_group", [1, 4])
def test_a_95_percent_interval_holds_the_true_difference_about_95_times_in_100(rows_per_group):
    # 300 trials here; benchmarks/intervals.py runs 2,000 of seven kinds
    rng, num_trials, held, num_groups = np.random.default_rng(5), 300, 0, 120 // rows_per_group
    groups = np.repeat(np.arange(num_groups), rows_per_group).tolist()
    for _ in range(num_trials):
        # Rows are easy or hard for both models, so the pairs are correlated, and so are the rows of a group.
        ability = np.repeat(rng.uniform(0.2, 0.6, num_groups), rows_per_group)
        gain = np.repeat(rng.choice([-0.1, 0.3], num_groups), rows_per_group)
        base = rng.random(120) < ability
        tuned = rng.random(120) < ability + gain
        sides = (_right_or_wrong(base), _right_or_wrong(tuned))
        low, high = bootstrap_interval(*sides, ratio, rng, num_resamples=400, groups=groups)
        held += low <= 0.1 <= high
    assert 0.92 <= held / num_trials <= 0.98  # 0.95 +- 2.4 standard errors of 300 trials
