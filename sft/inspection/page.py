"""The page of inspect_data.py --html: rows as the model sees them and their lengths, in one file without references.

Path("rows.html").write_text(render_page("data/mixed", facts, views, survey), encoding="utf-8")
"""

from collections.abc import Sequence

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
from sft.pages import render


def render_page(title: str, facts: Sequence[str], views: Sequence[View], survey: Survey) -> str:
    """The whole page as HTML text; facts are lines about how the rows were encoded."""
    return render(
        "rows.html",
        title=title,
        language="en",
        facts=facts,
        views=views,
        merge_pieces=merge_pieces,
        lengths=(LENGTH_HEADER, length_rows(survey)),
        costs=(COST_HEADER, cost_rows(survey)),
        histograms={name: _bars(source.lengths) for name, source in survey.sources.items()},
        problems=list(survey.unusable.items()),
    )


def _bars(lengths: Sequence[int]) -> list[tuple[str, int, float]]:
    """(edge, rows, percent of the fullest): [("≤ 64", 12, 100.0), ...]."""
    counts = histogram(lengths)
    labels = [*(f"≤ {edge:,}" for edge in EDGES), "more"]
    return [(label, count, 100 * count / max(counts)) for label, count in zip(labels, counts, strict=True)]
