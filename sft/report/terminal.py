"""An evaluation as text for a terminal or a log: print(render_table(evaluation.metrics))."""

from sft.console import make_visible, table
from sft.evaluation.flow import Metrics
from sft.report.figures import answers_table, headline_table, leak_sentence


def render_table(metrics: Metrics) -> str:
    """Headline figures with their intervals, what the answers look like, ROUGE's signature, leaks, the verdict."""
    parts = [_table(headline_table(metrics)), _table(answers_table(metrics))]
    if rouge := metrics["generation"].get("rouge"):
        parts.append(f"ROUGE {rouge['signature']}, {rouge['num_rows']:,} rows ({', '.join(rouge['tasks'])})")
    parts.append(leak_sentence(metrics)[0])
    if clean := metrics.get("without_overlaps"):
        parts.append(f"Without them, {clean['num_rows']:,} rows:\n{_table(headline_table(metrics, clean))}")
    if comparison := metrics.get("comparison"):
        parts.append(make_visible(comparison["verdict"]))
    return "\n\n".join(parts)


def _table(content: tuple[list[str], list[list[object]]]) -> str:
    header, rows = content
    return table(rows, header=header)
