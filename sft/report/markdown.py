"""report.md, short enough for a comment in a pull request: verdict, figures, leaks, broken rows."""

import re
from collections.abc import Sequence
from html import escape

from sft.console import make_visible, table
from sft.console.terminal import show_figure
from sft.evaluation.flow import CleanFigures, Evaluation, Metrics
from sft.evaluation.predictions import Prediction
from sft.pages import show_number
from sft.report.figures import (
    Table,
    answers_table,
    calibration_table,
    changed_rows,
    chosen_sentence,
    hard_case_table,
    headline_table,
    improvement_tables,
    label_tables,
    leak_sentence,
    robustness_table,
    shorten,
    signatures,
    tool_table,
    yardstick_sentence,
    yardstick_table,
)
from sft.report.words import Language, say

MARKS = {"helped": "🟢", "hurt": "🔴", "mixed": "🟡", "loss_only": "🟡", "unclear": "⚪", "too_few": "⚪"}
NUM_BROKEN = 5
MAX_CHARACTERS = 120
# Markup of GitHub's Markdown within a line: emphasis, code, links, tables, tags and entities, strikethrough.
WITHIN = re.compile(r"[\\`*|~<]|\](?=[(:\[])|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")
LINKS = re.compile(r"@|(?<=\w):(?=//)|(?<=www)\.", re.IGNORECASE)  # mentions, addresses: as entities they are text
AT_START = re.compile(r"^(?:[-+=>#]|\d+(?=[.)]))")  # headings, lists, quotes


def render_markdown(evaluation: Evaluation, language: Language = "en") -> str:
    """The summary as Markdown; text of models and files is escaped, nothing of it becomes a link or a mention."""
    metrics = evaluation.metrics
    run, stats = metrics["run"], metrics["data_stats"]
    count = f"{stats['eval_size']:,}"
    facts = (
        f"{count} 条，数据 {_text(stats['data'])} 的 {stats['split']} 部分；种子 {run['seed']}。"
        if language == "zh"
        else f"{count} rows of the {stats['split']} split of {_text(stats['data'])}; seed {run['seed']}."
    )
    leaks, chosen = (sentence(metrics)[language == "zh"] for sentence in (leak_sentence, chosen_sentence))
    parts = [
        f"## {_text(run['name'])}",
        _verdict(metrics, language),
        *([_sentence(against)] if (against := yardstick_sentence(metrics)[language == "zh"]) else []),
        _table(headline_table(metrics), language),
        " ".join(part for part in (facts, leaks, chosen) if part),
    ]
    if clean := metrics.get("without_overlaps"):
        parts += [
            f"**{say('Without these rows', language)}** ({clean['num_rows']:,})",
            *([_sentence(told)] if (told := yardstick_sentence(metrics, clean)[language == "zh"]) else []),
            _table(headline_table(metrics, clean), language),
        ]
    for task, tables in label_tables(metrics).items():
        shown = "\n\n".join(_table(content, language) for content in tables if content[1])
        parts.append(_folded(f"{task}: {say('by class', language)}", shown))
    if (yardsticks := yardstick_table(metrics))[1]:
        parts.append(_folded(say("Yardsticks", language), _table(yardsticks, language)))
    if (calls := tool_table(metrics))[1]:
        parts.append(_folded(say("Tool calls", language), _table(calls, language)))
    if (answers := answers_table(metrics))[1]:
        parts.append(_folded(say("Answers", language), _table(answers, language)))
    if broken := changed_rows(evaluation.predictions, "broken"):
        title = f"{say('Rows that got worse', language)} ({min(NUM_BROKEN, len(broken))} / {len(broken):,})"
        parts.append(_folded(title, _rows_table(broken[:NUM_BROKEN], language)))
    return "\n\n".join(parts) + "\n"


def _verdict(metrics: Metrics, language: Language) -> str:
    comparison = metrics.get("comparison")
    if comparison is None:
        return "没有与其他模型比较。" if language == "zh" else "Measured without a baseline."
    words = comparison["verdict_zh"] if language == "zh" else comparison["verdict"]
    return f"{MARKS[comparison['outcome']]} **{_text(words)}**"


def _rows_table(rows: Sequence[Prediction], language: Language) -> str:
    names = ["question", "reference", "base", "tuned"]
    lines: list[list[object]] = [
        ["".join(shorten(text, MAX_CHARACTERS)) for text in
         (row["input"] or row["instruction"], row["reference"], row.get("base_prediction", ""), row["prediction"])]
        for row in rows
    ]  # fmt: skip
    return _table((["id", *names], [[row["id"], *line] for row, line in zip(rows, lines, strict=True)]), language)


def _table(content: Table, language: Language) -> str:
    header, rows = content
    aligned = [
        "---:" if all(isinstance(row[place], int | float) for row in rows) and rows else "---"
        for place in range(len(header))
    ]
    lines = [[_text(say(name, language)) for name in header], aligned]  # a label of the data may be a name
    lines += [[_cell(value, language) for value in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: object, language: Language) -> str:
    if value is None:
        return "-"
    return show_number(value) if isinstance(value, int | float) else _text(say(str(value), language))


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{escape(title)}</summary>\n\n{content}\n\n</details>"


def _text(text: str) -> str:
    """Any text as itself, on one line: what Markdown would read has a backslash or is an entity."""
    plain = WITHIN.sub(lambda found: _entity(found[0]) if found[0] in "<&" else f"\\{found[0]}", _one_line(text))
    return LINKS.sub(lambda found: _entity(found[0]), plain)


def _sentence(text: str) -> str:
    """Escape a text at the start of a line, where more is markup: "1. x" would become a list."""
    return AT_START.sub(lambda found: _entity(found[0][0]) + found[0][1:], _text(text))


def _one_line(text: str) -> str:
    return make_visible(" ".join(text.split()))


def _entity(character: str) -> str:
    return f"&#{ord(character)};"


# An evaluation as text for a terminal or a log: print(render_table(evaluation.metrics))


def render_table(metrics: Metrics) -> str:
    """Headline figures with their intervals, figures of the answers, signatures, leaks, the verdict."""
    parts = [_headline(metrics)]
    if chosen := chosen_sentence(metrics)[0]:
        parts.append(chosen)
    for task, improvements in improvement_tables(metrics).items():
        parts.append(f"{task}\n{_terminal_table(improvements)}")
    for task, (classes, matrix) in label_tables(metrics).items():
        parts.append(f"{task}, by class\n{_terminal_table(classes)}")
        parts += [_terminal_table(matrix)] if matrix[1] else []
    if (yardsticks := yardstick_table(metrics))[1]:
        parts.append(_terminal_table(yardsticks))
    parts += [
        _terminal_table(content)
        for content in (calibration_table(metrics), tool_table(metrics), answers_table(metrics))
        if content[1]
    ]
    parts += [
        _terminal_table(content) for content in (robustness_table(metrics), hard_case_table(metrics)) if content[1]
    ]
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
        parts += [_terminal_table((["loss of general text", "rows", "base", "tuned"], losses)), forgetting["verdict"]]
    return "\n\n".join(parts)


def _headline(metrics: Metrics, part: CleanFigures | None = None) -> str:
    """The headline table, and for what stayed unclear how large a difference had to be to show."""
    header, rows = headline_table(metrics, part)
    if header[-1] != "detectable":
        return _terminal_table((header, rows))
    shown = _terminal_table((header[:-1], [row[:-1] for row in rows]))
    unclear = [f"{row[0]} {show_figure(row[-1])}" for row in rows if "unclear" in row and row[-1] is not None]
    if not unclear:
        return shown
    return (
        f"{shown}\nunclear: only a difference of about this much would be detected (80 % power): {', '.join(unclear)}"
    )


def _terminal_table(content: tuple[list[str], list[list[object]]]) -> str:
    header, rows = content
    return table(rows, header=header)
