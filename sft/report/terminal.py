"""An evaluation as text for a terminal or a log: print(render_table(evaluation.metrics))."""

from sft.console import make_visible, table
from sft.console.terminal import show_figure
from sft.evaluation.flow import CleanFigures, Metrics
from sft.report.figures import (
    answers_table,
    calibration_table,
    chosen_sentence,
    hard_case_table,
    headline_table,
    improvement_tables,
    label_tables,
    leak_sentence,
    robustness_table,
    signatures,
    tool_table,
    yardstick_sentence,
    yardstick_table,
)


def render_table(metrics: Metrics) -> str:
    """Headline figures with their intervals, figures of the answers, signatures, leaks, the verdict."""
    parts = [_headline(metrics)]
    if chosen := chosen_sentence(metrics)[0]:
        parts.append(chosen)
    for task, improvements in improvement_tables(metrics).items():
        parts.append(f"{task}\n{_table(improvements)}")
    for task, (classes, matrix) in label_tables(metrics).items():
        parts.append(f"{task}, by class\n{_table(classes)}")
        parts += [_table(matrix)] if matrix[1] else []
    if (yardsticks := yardstick_table(metrics))[1]:
        parts.append(_table(yardsticks))
    parts += [
        _table(content)
        for content in (calibration_table(metrics), tool_table(metrics), answers_table(metrics))
        if content[1]
    ]
    parts += [_table(content) for content in (robustness_table(metrics), hard_case_table(metrics)) if content[1]]
    if "generation" in metrics:
        told = [make_visible(f"{name} {signature}") for name, signature in signatures(metrics).items()]
        if text := metrics["generation"].get("text"):
            told.insert(0, f"text metrics over {text['num_rows']:,} rows ({', '.join(text['tasks'])})")
        parts.append("\n".join(told))
    parts.append(leak_sentence(metrics)[0])
    if clean := metrics.get("without_overlaps"):
        parts.append(f"Without them, {clean['num_rows']:,} rows:\n{_headline(metrics, clean)}")
        if told_again := yardstick_sentence(metrics, clean)[0]:
            parts.append(make_visible(told_again))
    if comparison := metrics.get("comparison"):
        parts.append(make_visible(comparison["verdict"]))
    if against := yardstick_sentence(metrics)[0]:
        parts.append(make_visible(against))
    if forgetting := metrics.get("forgetting"):
        losses = [
            [part, figure["num_rows"], figure["base"], figure["tuned"]]
            for part, figure in forgetting["by_part"].items()
        ]
        parts += [_table((["loss of general text", "rows", "base", "tuned"], losses)), forgetting["verdict"]]
    return "\n\n".join(parts)


def _headline(metrics: Metrics, part: CleanFigures | None = None) -> str:
    """The headline table, and for what stayed unclear how large a difference had to be to show."""
    header, rows = headline_table(metrics, part)
    if header[-1] != "detectable":
        return _table((header, rows))
    shown = _table((header[:-1], [row[:-1] for row in rows]))
    unclear = [f"{row[0]} {show_figure(row[-1])}" for row in rows if "unclear" in row and row[-1] is not None]
    if not unclear:
        return shown
    return (
        f"{shown}\nunclear: only a difference of about this much would be detected (80 % power): {', '.join(unclear)}"
    )


def _table(content: tuple[list[str], list[list[object]]]) -> str:
    header, rows = content
    return table(rows, header=header)
