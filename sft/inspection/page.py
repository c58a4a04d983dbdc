"""The page of inspect_data.py --html: rows as the model sees them and their lengths, in one file without references.

Path("rows.html").write_text(render_page("data/mixed", views, survey), encoding="utf-8")
"""

from collections.abc import Sequence

from sft.html import Markup, element, heading, join, page, table, text
from sft.inspection.views import (
    COST_HEADER,
    EDGES,
    LENGTH_HEADER,
    Survey,
    View,
    cost_rows,
    histogram,
    length_rows,
    merge_pieces,
)


def render_page(title: str, facts: Sequence[str], views: Sequence[View], survey: Survey) -> str:
    """The whole page as HTML text; facts are lines about how the rows were encoded."""
    learned, control = (element("span", name, attributes=f"class={name.split()[0]}") for name in KINDS)
    problems: list[list[object]] = [[name, reason] for name, reason in survey.unusable.items()]
    body = join(
        *(element("p", fact) for fact in facts),
        heading("Rows"),
        element("p", learned, " ", control, " context"),
        *(_render_view(view) for view in views),
        heading("Lengths"),
        table(LENGTH_HEADER, length_rows(survey)),
        *(_bars(name, source.lengths) for name, source in survey.sources.items()),
        heading("What a length limit would cost"),
        table(COST_HEADER, cost_rows(survey)),
        heading("Rows that cannot be used") if problems else "",
        table(["row", "why"], problems),
    )
    return page(title, body, style=STYLE)


def _render_view(view: View) -> Markup:
    spans = [element("span", content, attributes=f"class={kind}") for content, kind in merge_pieces(view.pieces)]
    note = element("p", f"Spelled out by the text itself, and ordinary text there: {', '.join(view.look_alikes)}")
    label = element("p", "label: ", element("span", view.label, attributes="class=learned")) if view.label else ""
    return join(heading(view.title, 3), element("pre", *spans), label, note if view.look_alikes else "")


def _bars(name: str, lengths: Sequence[int]) -> Markup:
    """A histogram as bars of CSS: one per edge, as wide as its share of the fullest."""
    counts = histogram(lengths)
    labels = [*(f"≤ {edge:,}" for edge in EDGES), "more"]
    bars = "".join(
        f"<tr><td class=number>{text(label)}</td><td class=number>{count:,}</td>"
        f'<td class=bar><i style="width:{100 * count / max(counts):.1f}%"></i></td></tr>'
        for label, count in zip(labels, counts, strict=True)
    )
    return join(heading(f"{name}, tokens", 3), Markup(f"<table class=bars>{bars}</table>"))


KINDS = ("learned", "control token")
STYLE = """:root { --learned: #1a7f3733; }
@media (prefers-color-scheme: dark) { :root { --learned: #3fb95044; } }
pre { border: 1px solid var(--line); border-radius: .3rem; padding: .8rem; white-space: pre-wrap; }
.learned { background: var(--learned); font-weight: 600; }
.control { color: var(--accent); }
.bars { width: 100%; } .bars td { border: 0; padding: .1rem .7rem; } .bar { width: 100%; }
.bar i { display: block; height: .8rem; background: var(--accent); }
"""
