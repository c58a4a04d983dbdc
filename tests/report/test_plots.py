import re
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from sft.report.plots import HEIGHT, WIDTH, confusion_table, plot_lengths, plot_losses, plot_reliability, thin_out

LOSSES = st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 1e4)), min_size=2, max_size=30)


def coordinates(figure: str) -> list[float]:
    svg = ElementTree.fromstring(re.sub(r"^.*?(<svg.*</svg>).*$", r"\1", figure, flags=re.DOTALL))
    numbers = []
    for part in svg.iter():
        numbers += [float(number) for number in re.findall(r"-?[\d.]+", part.get("points", ""))]
        numbers += [float(part.get(name, 0)) for name in ("x", "y", "cx", "cy")]
    return numbers


@given(LOSSES, LOSSES)
def test_curves_are_drawn_inside_the_picture_whatever_the_figures(train, validation):
    assert all(-1 <= number <= max(WIDTH, HEIGHT) + 1 for number in coordinates(plot_losses(train, validation)))


def test_one_point_is_no_curve():
    assert plot_losses([(1, 2.0)], []) == ""
    assert plot_losses([], []) == ""


def test_the_validation_is_drawn_as_points_and_a_line():
    figure = plot_losses([(0, 4.0), (10, 2.0)], [(10, 1.0)])
    assert figure.count("<circle") == 1
    assert figure.count("<polyline") == 2
    assert 'class="line soft" points="46.0,12.0 470.0,113.0"' in figure  # loss 4 of 4 at the top, 2 in the middle


def test_a_long_curve_is_averaged_over_equal_stretches():
    points = [(float(step), float(step % 2)) for step in range(1000)]
    thin = thin_out(points, 100)
    assert len(thin) == 100
    assert thin[0] == (4.5, 0.5)
    assert thin_out(points[:50], 100) == points[:50]


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 5000)), min_size=1, max_size=50))
def test_every_answer_and_every_reference_is_in_one_bar(lengths):
    references, answers = ([pair[side] for pair in lengths] for side in (0, 1))
    counts = re.findall(r'<rect class="bar (\w+)".*?<title>([\d,]+)</title>', plot_lengths(references, answers))
    for kind in ("soft", "strong"):
        assert sum(int(count.replace(",", "")) for name, count in counts if name == kind) == len(lengths)


def test_reliability_shows_bins_that_hold_rows():
    figure = plot_reliability([(0.5, 0.4, 10), (0.7, 0.0, 0), (1.0, 1.0, 5)], "Reliability")
    assert re.findall(r'<circle class="dot" cx="([\d.]+)" cy="([\d.]+)"', figure) == [
        ("258.0", "133.2"),
        ("470.0", "12.0"),
    ]
    assert plot_reliability([(0.5, 0.4, 0)], "Reliability") == ""


def test_a_confusion_matrix_is_as_dark_as_the_share_of_its_row():
    table = confusion_table(["负面"], ["负面", "<none>"], [[3, 1]])
    assert re.findall(r"rgba\(9,105,218,([\d.]+)\)\">(\d+)<", table) == [("0.562", "3"), ("0.188", "1")]
    assert "&lt;none&gt;" in table
