"""Geometry of the report's pictures: figures become positions in a view box; templates/plots.html draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

WIDTH, HEIGHT = 560, 290  # units of the view box; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 50, 14, 12, 40
MAX_POINTS = 400  # of a curve; a longer one is averaged over equal stretches
SMOOTHING = 0.05  # share of a curve's points that a smoothed value looks back on
Point = tuple[float, float]


@dataclass(frozen=True)
class Axes:
    """The frame: values up the left side, positions along the bottom, what runs along it."""

    name: str
    ticks: list[tuple[float, str]]
    marks: list[tuple[float, str]] = field(default_factory=list)
    width, height, left, right, top, bottom = WIDTH, HEIGHT, LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM


@dataclass(frozen=True)
class Line:
    """One line; kind is its look: "raw", "soft", "strong" or "second"; dots: every point is shown, with its value."""

    points: list[Point]
    kind: str
    values: list[str] = field(default_factory=list)

    @property
    def dots(self) -> bool:
        """Whether every point is shown."""
        return bool(self.values)


@dataclass(frozen=True)
class Plot:
    """A picture of lines."""

    title: str
    axes: Axes
    lines: list[Line]
    keys: list[tuple[str, str]]  # look and name, for the legend


@dataclass(frozen=True)
class Bar:
    """One bar of a histogram."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    count: int


@dataclass(frozen=True)
class BarPlot:
    """A histogram of two series."""

    title: str
    axes: Axes
    bars: list[Bar]
    keys: list[tuple[str, str]]


@dataclass(frozen=True)
class ReliabilityPlot:
    """Confidence against accuracy, a circle for each bin."""

    title: str
    task: str
    axes: Axes
    points: list[Point]
    radii: list[float]
    counts: list[int]
    keys: list[tuple[str, str]]


def plot_losses(train: Sequence[Point], validation: Sequence[Point]) -> Plot | None:
    """(step, loss) of training and validation: raw values faint, a running mean over them; None below two points."""
    if len(train) + len(validation) < 2:
        return None
    raw, smooth = thin_out(train), thin_out(smooth_out(train))
    place, axes = _fit([*raw, *validation], from_zero=True)
    lines = [
        Line([place(point) for point in raw], "raw"),
        Line([place(point) for point in smooth], "soft"),
        _with_dots(validation, "strong", place),
    ]
    return Plot(
        "Loss while training", axes, lines, [("soft", "training loss, smoothed"), ("strong", "validation loss")]
    )


def plot_figures(curves: Mapping[str, Sequence[Point]]) -> Plot | None:
    """Validation metrics for which higher is better: {"eval_accuracy": [(50, 0.7), ...]}."""
    shown = {name: points for name, points in list(curves.items())[:2] if len(points) > 1}
    if not shown:
        return None
    place, axes = _fit([point for points in shown.values() for point in points], from_zero=False)
    kinds = dict(zip(shown, ("strong", "second"), strict=False))
    lines = [_with_dots(points, kinds[name], place) for name, points in shown.items()]
    keys = [(kind, name.removeprefix("eval_").replace("_", " ")) for name, kind in kinds.items()]
    return Plot("Validation while training", axes, lines, keys)


def plot_lengths(
    references: Sequence[int], answers: Sequence[int], edges: Sequence[int] = (8, 16, 32, 64, 128, 256, 512)
) -> BarPlot | None:
    """How many references and answers have how many tokens, in buckets up to each edge."""
    if not references:
        return None
    used = [edge for edge in edges if edge < 2 * max((*references, *answers, 1))] or [edges[0]]
    buckets = [(low, high) for low, high in pairwise((-1, *used, max(*references, *answers, used[-1] + 1)))]
    counts = [[sum(low < value <= high for value in side) for low, high in buckets] for side in (references, answers)]
    while len(buckets) > 1 and not any(side[-1] for side in counts):
        buckets, counts = buckets[:-1], [side[:-1] for side in counts]
    most = max(max(side) for side in counts) or 1
    slot = (WIDTH - LEFT - RIGHT) / len(buckets)
    bars, marks = [], []
    for number, (low, high) in enumerate(buckets):
        marks.append((LEFT + slot * (number + 0.5), f"≤{high}" if high in used else f">{low}"))
        for shift, (kind, side) in enumerate(zip(("soft", "strong"), counts, strict=True)):
            top, width = _y(side[number] / most), slot * 0.36
            left = LEFT + slot * (number + 0.12) + shift * width
            bars.append(Bar(kind, left, top, width, HEIGHT - BOTTOM - top, side[number]))
    axes = Axes("tokens", _ticks(0, most), marks)
    return BarPlot("Answer lengths", axes, bars, [("soft", "reference"), ("strong", "answer")])


def plot_reliability(bins: Sequence[tuple[float, float, int]], task: str) -> ReliabilityPlot | None:
    """Mean confidence, accuracy and rows of each bin: a calibrated model is on the diagonal."""
    shown = [(confidence, accuracy, count) for confidence, accuracy, count in bins if count]
    if not shown:
        return None
    most = max(count for *_, count in shown)
    return ReliabilityPlot(
        "Reliability",
        task,
        Axes("confidence", _ticks(0, 1), [(_x(share), f"{share:g}") for share in (0.0, 0.5, 1.0)]),
        [(_x(confidence), _y(accuracy)) for confidence, accuracy, _ in shown],
        [2.5 + 4 * (count / most) ** 0.5 for *_, count in shown],
        [count for *_, count in shown],
        [("strong", "accuracy of the bin")],
    )


def smooth_out(points: Sequence[Point], share: float = SMOOTHING) -> list[Point]:
    """An exponential running mean without the pull of its first value, over about that share of the points."""
    weight = 1 - 1 / max(1.0, share * len(points))
    smooth: list[Point] = []
    total = norm = 0.0
    for x, y in points:
        total, norm = weight * total + y, weight * norm + 1
        smooth.append((x, total / norm))
    return smooth


def thin_out(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` points, each the mean of an equal stretch, so that a long training makes no heavy page."""
    if len(points) <= limit:
        return list(points)
    bounds = [len(points) * number // limit for number in range(limit + 1)]
    parts = [points[start:end] for start, end in pairwise(bounds)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


class _Scale:
    """From (step, value) to a position in the view box."""

    def __init__(self, right: float, low: float, high: float) -> None:
        self.right, self.low, self.high = right or 1.0, low, high if high > low else low + 1.0

    def __call__(self, point: Point) -> Point:
        return _x(point[0] / self.right), _y((point[1] - self.low) / (self.high - self.low))


def _fit(points: Sequence[Point], *, from_zero: bool) -> tuple[_Scale, Axes]:
    """The scale that contains all points, and its axes."""
    low, high = min(y for _, y in points), max(y for _, y in points)
    if from_zero:
        low = min(0.0, low)
    else:  # shares: at least a fifth of 0 to 1 is shown, so that a flat curve looks flat
        room = max(0.1 * (high - low), 0.1 - (high - low) / 2)
        low, high = max(low - room, min(low, 0.0)), min(high + room, max(high, 1.0))
    scale = _Scale(max(x for x, _ in points), low, high)
    marks = [(_x(share), f"{share * scale.right:,.0f}") for share in (0.0, 0.5, 1.0)]
    return scale, Axes("step", _ticks(scale.low, scale.high), marks)


def _with_dots(points: Sequence[Point], kind: str, place: _Scale) -> Line:
    return Line([place(point) for point in points], kind, [f"{x:,.0f}: {y:.4f}" for x, y in points])


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    values = [low + share * (high - low) for share in (0.0, 0.5, 1.0)]
    return [
        (
            _y(share),
            f"{value:,.0f}" if high - low >= 10 or float(value).is_integer() else f"{value:.2f}",
        )
        for share, value in zip((0.0, 0.5, 1.0), values, strict=True)
    ]


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
