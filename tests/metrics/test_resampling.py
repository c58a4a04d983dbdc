import numpy as np
import pytest
from scipy.stats import binom, norm, permutation_test, t

from sft.metrics.resampling import (
    bounded_interval,
    pair_sides,
    permutation_p_value,
    ratio,
    standard_error,
    studentised_interval,
    sum_by_group,
)


def _right_or_wrong(values) -> np.ndarray:
    """(N,) of 0 and 1 -> (N, 2) summands (right, 1)."""
    return np.stack([np.array(values, float), np.ones(len(values))], axis=1)


def _paired(base, tuned):
    return pair_sides(np.asarray(base, float), np.asarray(tuned, float))


def test_the_studentised_interval_equals_a_plain_loop_over_the_same_draws():
    rng = np.random.default_rng(2)
    base, tuned = rng.uniform(1, 5, (40, 2)), rng.uniform(1, 5, (40, 2))

    def ratios_of():
        return [side[:, 0].sum() / side[:, 1].sum() for side in (base, tuned)]

    def figure_and_error(rows):
        sides = [side[rows] for side in (base, tuned)]
        ratios = [side[:, 0].sum() / side[:, 1].sum() for side in sides]
        parts = [(side[:, 0] - r * side[:, 1]) / side[:, 1].mean() for side, r in zip(sides, ratios, strict=True)]
        return ratios[1] - ratios[0], np.sqrt(((parts[1] - parts[0]) ** 2).sum() / (40 * 39))

    found, error = figure_and_error(np.arange(40))
    misses = []
    for draw in np.random.default_rng(7).multinomial(40, np.full(40, 1 / 40), size=200):
        difference, its_error = figure_and_error(np.repeat(np.arange(40), draw))
        misses.append((difference - found) / its_error)
    parts = [
        (side[:, 0] - r * side[:, 1]) / side[:, 1].mean() for side, r in zip((base, tuned), ratios_of(), strict=True)
    ]
    squares = (parts[1] - parts[0]) ** 2
    units = np.sqrt(40 * squares.sum() ** 2 / (squares**2).sum())
    tail = norm.cdf(-np.sqrt(units / (units - 1)) * t.ppf(0.975, units - 1))
    assert 0.015 < tail < 0.025
    low, high = np.quantile(misses, [tail, 1 - tail])
    assert standard_error(*_paired(base, tuned)) == pytest.approx(error, abs=1e-12)
    assert studentised_interval(*_paired(base, tuned), np.random.default_rng(7), 200) == pytest.approx(
        (found - high * error, found - low * error), abs=1e-9
    )


def test_the_standard_error_is_that_of_the_jackknife_but_for_terms_of_higher_order():
    rng = np.random.default_rng(9)
    units, weights = rng.uniform(1, 5, (300, 3, 2)), np.array([0.5, 0.25, -1.0])
    figures = [(ratio(np.delete(units, i, axis=0).sum(0)) * weights).sum() for i in range(300)]
    jackknife = np.sqrt(299 / 300 * ((figures - np.mean(figures)) ** 2).sum())
    assert standard_error(units, weights) == pytest.approx(jackknife, rel=0.01)


def test_many_rows_are_resampled_in_pieces_without_changing_the_interval(monkeypatch):
    rng = np.random.default_rng(3)
    pair = _paired(rng.uniform(1, 5, (30, 2)), rng.uniform(1, 5, (30, 2)))
    whole = studentised_interval(*pair, np.random.default_rng(7), 100)
    monkeypatch.setattr("sft.metrics.resampling.CHUNK_ELEMENTS", 7 * 30)
    assert studentised_interval(*pair, np.random.default_rng(7), 100) == pytest.approx(whole, abs=1e-12)


def test_fifty_right_rows_of_fifty_leave_room_for_some_wrong_ones():
    all_right = _right_or_wrong([1] * 50)[:, None]
    low, high = bounded_interval(all_right, np.ones(1))
    assert (round(low, 2), high) == (0.91, 1.0)  # Clopper and Pearson: .93; the rule of three: .94
    low, high = bounded_interval(*_paired(_right_or_wrong([1] * 50), _right_or_wrong([1] * 50)))
    assert -0.08 < low == -high < -0.05
    low, high = bounded_interval(*_paired(_right_or_wrong([0] * 50), _right_or_wrong([1] * 50)))
    assert 0.85 < low < 0.95
    assert high == 1.0


def test_an_interval_holds_its_figure_on_300_generated_cases():
    rng = np.random.default_rng(10)
    for _ in range(300):
        num_units = int(rng.integers(1, 60))
        sums = rng.integers(1, 6, (num_units, 2, 1)).astype(float)
        units = np.concatenate([rng.binomial(sums.astype(int), rng.choice([0.0, 0.1, 0.5, 1.0])), sums], axis=-1)
        for weights in (np.array([-1.0, 1.0]), np.array([0.5, 0.5])):
            figure = float(ratio(units.sum(0)) @ weights)
            low, high = bounded_interval(units, weights)
            assert low <= figure <= high
            assert weights[weights < 0].sum() <= low
            assert high <= weights[weights > 0].sum()


def test_the_permutation_p_value_agrees_with_scipy_over_all_arrangements():
    rng = np.random.default_rng(4)
    for shift in (0.0, 0.4, 1.0):
        base, tuned = rng.normal(5, 1, 10), rng.normal(5 + shift, 1, 10)
        exact = permutation_test(
            (tuned, base), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=np.inf
        )
        summands = [np.stack([values, np.ones(10)], axis=1) for values in (base, tuned)]
        ours = permutation_p_value(*summands, np.random.default_rng(0), num_resamples=20_000)
        assert ours == pytest.approx(exact.pvalue, abs=0.015)  # 3 standard errors of 20,000 draws at p = 0.5


def test_groups_are_summed_in_the_order_of_their_first_mention():
    sums = np.array([[1.0, 1], [0, 1], [1, 1]])
    assert sum_by_group(sums, ["b", "a", "b"]).tolist() == [[2.0, 2.0], [0.0, 1.0]]


# (name, draw(rng, n) -> units and weights, the true figure, whether bounded): what a comparison holds, hard ones first.
def _draw_mixed_losses(rng, n):
    """Rows of three tasks as in the demo: 80 % short labels, 13 % entities, 7 % long answers that carry the loss."""
    task = rng.choice(3, n, p=[0.80, 0.13, 0.07])
    tokens = np.array([5, 27, 12])[task] * rng.uniform(0.7, 1.3, n)
    base = np.array([5.7, 2.4, 3.7])[task] * rng.lognormal(-0.08, 0.4, n)
    tuned = np.array([0.12, 0.21, 3.1])[task] * rng.lognormal(-0.08, 0.4, n)
    return _paired(np.stack([base * tokens, tokens], 1), np.stack([tuned * tokens, tokens], 1))


def _draw_accuracies(rng, n):
    base = rng.random(n) < 0.6
    return _paired(_right_or_wrong(base), _right_or_wrong(np.where(rng.random(n) < 0.4, rng.random(n) < 0.9, base)))


def _draw_rare_changes(rng, n):
    base = rng.random(n) < 0.95
    return _paired(_right_or_wrong(base), _right_or_wrong(base | (rng.random(n) < 0.4)))


def _draw_turns(rng, n):
    """Four turns of each of n / 2 conversations, alike within one."""
    level = np.repeat(rng.uniform(0.2, 0.6, n // 2), 4)
    gain = np.repeat(rng.choice([-0.1, 0.3], n // 2), 4)
    groups = np.repeat(np.arange(n // 2), 4).tolist()
    sides = [_right_or_wrong(rng.random(2 * n) < chance) for chance in (level, level + gain)]
    return _paired(*(sum_by_group(side, groups) for side in sides))


@pytest.mark.parametrize(
    ("draw", "truth", "is_bounded"),
    [
        (_draw_mixed_losses, None, False),
        (_draw_accuracies, 0.4 * 0.3, True),
        (_draw_rare_changes, 0.05 * 0.4, True),
        (_draw_turns, 0.1, True),
    ],
)
@pytest.mark.parametrize("num_rows", [50, 200])
def test_a_95_percent_interval_holds_the_true_difference_at_least_93_times_in_100(draw, truth, is_bounded, num_rows):
    # benchmarks/intervals.py has the table of every figure, on real rows and with more trials
    rng, num_trials, held = np.random.default_rng(5), 400, 0
    if truth is None:
        units, weights = draw(np.random.default_rng(1), 400_000)
        truth = float(ratio(units.sum(0)) @ weights)
    for _ in range(num_trials):
        units, weights = draw(rng, num_rows)
        interval = bounded_interval(units, weights) if is_bounded else studentised_interval(units, weights, rng, 300)
        held += interval.low <= truth <= interval.high
    assert held >= binom.ppf(0.005, num_trials, 0.93)  # fails 1 of 200 times of an interval that covers just 93 %
