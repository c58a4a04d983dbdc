"""The page of inspect_data.py --html: rows as the model sees them and their lengths, in one file without references.

Path("rows.html").write_text(render_page("data/mixed", views, survey), encoding="utf-8")
"""

from collections.abc import Sequence
from html import escape

from sft.console import make_visible
from sft.inspection import (
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
    lengths, costs = length_rows(survey), cost_rows(survey)
    sections = [
        *(f"<p>{_text(fact)}</p>" for fact in facts),
        "<h2>Rows</h2>",
        "<p><span class=learned>learned</span> <span class=control>control token</span> context</p>",
        *(_render_view(view) for view in views),
        "<h2>Lengths</h2>",
        _table(LENGTH_HEADER, lengths),
        *(_bars(name, source.lengths) for name, source in survey.sources.items()),
        "<h2>What a length limit would cost</h2>",
        _table(COST_HEADER, costs),
    ]
    if survey.unusable:
        problems: list[list[object]] = [[name, reason] for name, reason in survey.unusable.items()]
        sections += ["<h2>Rows that cannot be used</h2>", _table(["row", "why"], problems)]
    return PAGE.format(title=_text(title), body="\n".join(sections))


def _render_view(view: View) -> str:
    spans = "".join(f"<span class={kind}>{_text(text)}</span>" for text, kind in merge_pieces(view.pieces))
    note = f"<p>Spelled out by the text itself, and ordinary text there: {_text(', '.join(view.look_alikes))}</p>"
    return f"<h3>{_text(view.title)}</h3>\n<pre>{spans}</pre>{note if view.look_alikes else ''}"


def _bars(name: str, lengths: Sequence[int]) -> str:
    """A histogram as bars of CSS: one per edge, as wide as its share of the fullest."""
    counts = histogram(lengths)
    labels = [*(f"≤ {edge:,}" for edge in EDGES), "more"]
    bars = "".join(
        f"<tr><td class=number>{label}</td><td class=number>{count:,}</td>"
        f'<td class=bar><i style="width:{100 * count / max(counts):.1f}%"></i></td></tr>'
        for label, count in zip(labels, counts, strict=True)
    )
    return f"<h3>{_text(name)}, tokens</h3>\n<table class=bars>{bars}</table>"


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in header)
    body = "\n".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><tr>{head}</tr>\n{body}</table></div>"


def _cell(value: object) -> str:
    return f"<td class=number>{value:,}</td>" if isinstance(value, int) else f"<td>{_text(str(value))}</td>"


def _text(text: str) -> str:
    """Text of a data file as harmless HTML."""
    return escape(make_visible(text))


# Doubled braces: the page is filled in with str.format.
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --line: #8884; --learned: #1a7f3733; --control: #0969da; }}
@media (prefers-color-scheme: dark) {{ :root {{ --learned: #3fb95044; --control: #58a6ff; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }}
pre {{ border: 1px solid var(--line); border-radius: .3rem; padding: .8rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }}
h3 {{ font-size: 1rem; margin: 1.2rem 0 .4rem; overflow-wrap: anywhere; }}
.learned {{ background: var(--learned); font-weight: 600; }}
.control {{ color: var(--control); }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-size: .9rem; }}
th, td {{ border-bottom: 1px solid var(--line); padding: .2rem .7rem; text-align: left; }}
td.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.bars {{ width: 100%; }} .bars td {{ border: 0; padding: .1rem .7rem; }} .bar {{ width: 100%; }}
.bar i {{ display: block; height: .8rem; background: var(--control); }}
</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
