from hypothesis import given
from hypothesis import strategies as st

from sft.report.plots import (
    HEIGHT,
    LEFT,
    WIDTH,
    plot_figures,
    plot_lengths,
    plot_losses,
    plot_reliability,
    smooth_out,
    thin_out,
)  # fmt: skip

LOSSES = st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1e4)), min_size=2, max_size=30)


def inside(points) -> bool:
    return all(LEFT - 1 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


@given(LOSSES, LOSSES)
def test_curves_are_drawn_inside_the_picture_whatever_the_figures(train, validation):
    plot = plot_losses(train, validation)
    assert all(inside(line.points) for line in plot.lines)
    figures = plot_figures({"eval_accuracy": validation})
    assert all(inside(line.points) for line in figures.lines)


def test_one_point_is_no_curve():
    assert plot_losses([(1, 2.0)], []) is None
    assert plot_losses([], []) is None
    assert plot_figures({"eval_accuracy": [(1, 0.5)]}) is None


def test_the_raw_losses_lie_under_their_running_mean_and_the_validation_has_points():
    raw, smooth, validation = plot_losses([(0, 4.0), (10, 2.0)], [(10, 1.0)]).lines
    assert (raw.kind, smooth.kind, validation.kind) == ("raw", "soft", "strong")
    assert raw.points == [(50.0, 12.0), (546.0, 131.0)]  # loss 4 of 4 at the top, 2 in the middle
    assert validation.values == ["10: 1.0000"]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=200))
def test_a_running_mean_starts_at_the_first_value_and_stays_between_the_extremes(values):
    smooth = [y for _, y in smooth_out(list(enumerate(values)))]
    assert smooth[0] == values[0]
    assert min(values) - 1e-9 <= min(smooth) <= max(smooth) <= max(values) + 1e-9


def test_a_long_curve_is_averaged_over_equal_stretches():
    points = [(float(step), float(step % 2)) for step in range(1000)]
    thin = thin_out(points, 100)
    assert len(thin) == 100
    assert thin[0] == (4.5, 0.5)
    assert thin_out(points[:50], 100) == points[:50]


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), min_size=1, max_size=50))
def test_every_answer_and_every_reference_is_in_one_bar(lengths):
    references, answers = ([pair[side] for pair in lengths] for side in (0, 1))
    bars = plot_lengths(references, answers).bars
    assert {kind: sum(bar.count for bar in bars if bar.kind == kind) for kind in ("soft", "strong")} == {
        "soft": len(lengths),
        "strong": len(lengths),
    }


def test_reliability_shows_bins_that_hold_rows():
    plot = plot_reliability([(0.5, 0.4, 10), (0.7, 0.0, 0), (1.0, 1.0, 5)], "sentiment")
    assert [(round(x, 1), round(y, 1)) for x, y in plot.points] == [(298.0, 154.8), (546.0, 12.0)]
    assert plot.counts == [10, 5]
    assert plot_reliability([(0.5, 0.4, 0)], "sentiment") is None
