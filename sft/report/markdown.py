"""report.md, short enough for a comment in a pull request: verdict, figures, leaks, broken rows."""

import re
from collections.abc import Sequence
from html import escape

from sft.console import make_visible
from sft.evaluation.flow import Evaluation, Metrics
from sft.evaluation.predictions import Prediction
from sft.pages import show_number
from sft.report.examples import changed_rows, shorten
from sft.report.figures import (
    Table,
    answers_table,
    chosen_sentence,
    headline_table,
    label_tables,
    leak_sentence,
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
