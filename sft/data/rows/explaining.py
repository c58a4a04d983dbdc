"""A record that fits no form: what it is, and the flag or the step that helps.

explain_unknown({"评论": "很好", "标签": "1"}, None, is_table=True)    # RowError: "... perhaps --columns text=评论,..."
"""

from prompts.task import BLANK, Task
from sft.data.rows.canonical import RowError
from sft.data.rows.fields import Record

COMMON = frozenset(("id", "group", "attribution"))  # columns that any row may have beside its form's
# Columns that people call otherwise, to be named where nothing fits.
HINTS = {
    **dict.fromkeys(("文本", "评论", "内容", "正文", "句子", "review", "comment", "content", "sentence"), "text"),
    **dict.fromkeys(("标签", "类别", "分类", "情感", "category", "class", "sentiment", "target", "labels"), "label"),
    **dict.fromkeys(("问题", "提问", "指令"), "instruction"),
    **dict.fromkeys(("回答", "答案", "输出", "回复"), "output"),
    "输入": "input",
}


def explain_unknown(record: Record, task: Task | None, *, is_table: bool) -> RowError:
    """What a row contains instead of a known format, and what to do about it.

    task: of the rows, where the user named one. is_table: the record is under a header line.
    """
    if task is not None and task.kind == "document":
        texts = {name: value for name, value in record.items() if isinstance(value, str) and name != "id"}
        longest = max(texts, key=lambda name: len(texts[name]), default="...")
        shown = ", ".join(sorted(record)[:8]) or "none"
        return RowError("unknown_dialect", f"no 'text' among the columns ({shown}); perhaps --columns text={longest}")
    if problem := _explain_shape(record):
        return RowError("unknown_dialect", problem)
    hints = _list_hints(record)
    if isinstance(record.get("text"), str) and not hints:
        others = sorted(name for name in record.keys() - COMMON - {"text"} if record[name])[:4]
        beside = f" (beside it: {', '.join(others)})" if others else ""
        return RowError(
            "unknown_dialect",
            f"'text' is there and nothing to answer{beside}: --task text learns whole documents; else give label, "
            "output or turns, or name their column with --columns",
        )
    shown = ", ".join(sorted(record)[:8]) or "none"
    if hints:
        remedy = f"perhaps --columns {','.join(hints)}"
    else:
        remedy = "name the columns: --columns instruction=...,output=... or text=...,label=..."
    if is_table and len(record) == 1 and not shown.replace("_", "").isalnum():
        remedy = "cells are separated by commas, semicolons, tabs or vertical bars"
    header = "; if the first line is a row and no header, write one above it" if is_table else ""
    forms = (
        "messages, conversations, instruction/output, question/answer, query/response, prompt/completion, text/label"
    )
    return RowError(
        "unknown_dialect",
        f"columns ({shown}) fit no known form ({forms}, ...); {remedy}{header} (in a preset: columns)",
    )


def _explain_shape(record: Record) -> str:
    """What a file is whose rows are not its rows: they lie in a list of its one object, or are turns, or columns."""
    held = {name: value for name, value in record.items() if isinstance(value, dict | list)}
    if record.keys() & {"role", "from"} and record.keys() & {"content", "value"}:
        return 'turns, each a row of its own: a conversation is one row, {"messages": [...]}'
    for name, value in held.items():
        if isinstance(value, list) and value and isinstance(value[0], dict) and not value[0].keys() & {"role", "from"}:
            return (
                f"rows lie in {name!r}, a list of {len(value):,}: save that list as the file (with jq: "
                f"jq .{name} a.json > b.json)"
            )
    if held and len(held) == len(record):
        kinds = {type(value) for value in held.values()}
        if kinds == {dict} and not any(name in HINTS for name in record):
            return "an object of objects: save their list as the file (with jq: jq '[.[]]' a.json > b.json)"
    return ""


def _list_hints(record: Record) -> list[str]:
    """The fields that columns are perhaps meant for: ["text=评论", "label=标签"]."""
    hints = []
    for name, value in record.items():
        bare = name.strip(BLANK).casefold().lstrip("#")
        if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].keys() & {"role", "from"}:
            hints.append(f"messages={name}")
        elif bare in HINTS and HINTS[bare] not in record:
            hints.append(f"{HINTS[bare]}={name}")
        elif bare != name and bare in ("text", "label", "instruction", "output"):
            hints.append(f"{bare}={name}")
    return hints
