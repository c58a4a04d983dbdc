"""The report's pictures as inline SVG: they take the page's colours, scale with its width and carry no script."""

from collections.abc import Sequence
from itertools import pairwise

from sft.html import Markup, element, join, text
from sft.report.words import both, translate

WIDTH, HEIGHT = 480, 250  # units of the view box; the page scales it
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 12, 36
MAX_POINTS = 400  # of a curve; a longer one is averaged over equal stretches
Point = tuple[float, float]


def plot_losses(train: Sequence[Point], validation: Sequence[Point]) -> Markup:
    """(step, loss) of the training and of the validation; nothing where there are fewer than two points."""
    curve = thin_out(train)
    points = [*curve, *validation]
    if len(points) < 2:
        return Markup("")
    right = max(x for x, _ in points)
    low, high = min(0.0, *(y for _, y in points)), max(y for _, y in points) or 1.0

    def place(point: Point) -> tuple[float, float]:
        x, y = point
        return _x(x / right if right else 0.0), _y((y - low) / (high - low))

    drawn = [_axes(low, high, f"0 … {right:,.0f}", "step")]
    drawn.append(f'<polyline class="line soft" points="{_points(map(place, curve))}"/>' if curve else "")
    drawn.append(f'<polyline class="line strong" points="{_points(map(place, validation))}"/>')
    drawn += [f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in map(place, validation)]
    return _figure(both("Loss while training"), drawn, [("soft", "training loss"), ("strong", "validation loss")])


def plot_lengths(
    references: Sequence[int], answers: Sequence[int], edges: Sequence[int] = (8, 16, 32, 64, 128, 256, 512)
) -> Markup:
    """How many references and answers have how many tokens, in buckets up to each edge."""
    if not references:
        return Markup("")
    used = [edge for edge in edges if edge < 2 * max((*references, *answers, 1))] or [edges[0]]
    buckets = [(low, high) for low, high in pairwise((-1, *used, max(*references, *answers, used[-1] + 1)))]
    counts = [[sum(low < value <= high for value in side) for low, high in buckets] for side in (references, answers)]
    while len(buckets) > 1 and not any(side[-1] for side in counts):
        buckets, counts = buckets[:-1], [side[:-1] for side in counts]
    most = max(max(side) for side in counts) or 1
    drawn = [_axes(0, most, "", "tokens")]
    slot = (WIDTH - LEFT - RIGHT) / len(buckets)
    for number, (low, high) in enumerate(buckets):
        for shift, (kind, side) in enumerate(zip(("soft", "strong"), counts, strict=True)):
            top, width = _y(side[number] / most), slot * 0.36
            left = LEFT + slot * (number + 0.12) + shift * width
            drawn.append(
                f'<rect class="bar {kind}" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
                f'height="{HEIGHT - BOTTOM - top:.1f}"><title>{side[number]:,}</title></rect>'
            )
        name = f"≤{high}" if high in used else f">{low}"
        drawn.append(
            f'<text x="{LEFT + slot * (number + 0.5):.1f}" y="{HEIGHT - 19}" class="middle">{text(name)}</text>'
        )
    return _figure(both("Answer lengths"), drawn, [("soft", "reference"), ("strong", "answer")])


def plot_reliability(bins: Sequence[tuple[float, float, int]], title: str) -> Markup:
    """Mean confidence, accuracy and rows of each bin: a model that knows what it knows lies on the diagonal."""
    shown = [(confidence, accuracy, count) for confidence, accuracy, count in bins if count]
    if not shown:
        return Markup("")
    most = max(count for *_, count in shown)
    drawn = [
        _axes(0, 1, "0 … 1", "confidence"),
        f'<line class="guide" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>',
    ]
    points = [(_x(confidence), _y(accuracy)) for confidence, accuracy, _ in shown]
    drawn.append(f'<polyline class="line strong" points="{_points(points)}"/>')
    for (x, y), (*_, count) in zip(points, shown, strict=True):
        radius = 2.5 + 4 * (count / most) ** 0.5
        drawn.append(
            f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{count:,}</title></circle>'
        )
    return _figure(join(both("Reliability"), f": {title}", by=""), drawn, [("strong", "accuracy of the bin")])


def confusion_table(references: Sequence[str], predictions: Sequence[str], counts: Sequence[Sequence[int]]) -> Markup:
    """A confusion matrix as a table whose cells are as dark as their share of the row; it fits any width."""
    head = element(
        "tr", element("th", both("reference ↓ answer →")), *(element("th", both(name)) for name in predictions)
    )
    lines = []
    for name, row in zip(references, counts, strict=True):
        total = sum(row) or 1
        cells = [
            element("td", f"{count:,}", attributes=f'style="background:rgba(9,105,218,{0.75 * count / total:.3f})"')
            for count in row
        ]
        lines.append(element("tr", element("th", name), *cells))
    body = element("table", element("thead", head), element("tbody", *lines), attributes="class=confusion")
    return element("div", body, attributes="class=wide")


def thin_out(points: Sequence[Point], limit: int = MAX_POINTS) -> list[Point]:
    """At most `limit` points, each the mean of an equal stretch, so that a long training makes no heavy page."""
    if len(points) <= limit:
        return list(points)
    bounds = [len(points) * number // limit for number in range(limit + 1)]
    parts = [points[start:end] for start, end in pairwise(bounds)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def _figure(title: Markup, drawn: Sequence[str], legend: Sequence[tuple[str, str]]) -> Markup:
    svg = Markup(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(drawn)}</svg>')
    keys = [element("span", both(name), attributes=f'class="key {kind}"') for kind, name in legend]
    caption = element("figcaption", element("b", title), " ", Markup(" ".join(keys)))
    return element("figure", caption, svg)


def _axes(low: float, high: float, across: str, name: str) -> str:
    """Frame, three values beside it, and what runs along the bottom."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>']
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        shown = f"{value:,.0f}" if high - low >= 10 or float(value).is_integer() else f"{value:.2f}"
        parts.append(f'<text x="{LEFT - 6}" y="{_y(share) + 4:.1f}" class="end">{shown}</text>')
    label = f"{across} " if across else ""
    parts.append(f'<text x="{right}" y="{HEIGHT - 4}" class="end">{text(label)}{both_svg(name)}</text>')
    return "".join(parts)


def both_svg(english: str) -> Markup:
    """A label in both languages inside SVG text."""
    return Markup(f'<tspan class="en">{text(english)}</tspan><tspan class="zh">{text(translate(english))}</tspan>')


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _points(points: object) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)  # type: ignore[attr-defined]


STYLE = """figure { margin: 1rem 0; max-width: 36rem; }
figcaption { font-size: .9rem; margin-bottom: .2rem; }
svg { display: block; width: 100%; height: auto; font: 13px system-ui, "Noto Sans CJK SC", sans-serif;
  fill: currentColor; }
.axis, .guide { fill: none; stroke: var(--line); } .guide { stroke: currentColor; opacity: .5; stroke-dasharray: 4 4; }
.line { fill: none; stroke-width: 2; stroke: var(--accent); }
.line.soft { stroke: currentColor; stroke-width: 1; opacity: .45; }
.dot { fill: var(--accent); } .bar { fill: var(--accent); } .bar.soft { fill: currentColor; opacity: .35; }
text.middle { text-anchor: middle; } text.end { text-anchor: end; }
.key { white-space: nowrap; margin-right: .8rem; }
.key::before { content: ""; display: inline-block; width: .8rem; height: .8rem; border-radius: .15rem;
  margin-right: .3rem; background: var(--accent); vertical-align: -.1rem; }
.key.soft::before { background: currentColor; opacity: .4; }
.plots { display: flex; flex-wrap: wrap; gap: 0 2rem; } .plots figure { flex: 1 1 20rem; }
.confusion { table-layout: fixed; margin-bottom: .6rem; }
.confusion th, .confusion td { max-width: 6rem; min-width: 2.6rem;
  padding: .25rem .4rem; overflow-wrap: anywhere; } .confusion td { text-align: right; }
"""
