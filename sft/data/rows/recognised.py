"""The line about a recognised file, and what can be reported only after all of it was read.

recognised.describe("a.csv")      # "a.csv: 9 rows, recognised as text/label; labels read (sentiment): 1 as 正面"

explain_unknown describes a record that fits no form, and names the flag that helps.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from prompts.task import BLANK, Task, label_key
from sft.data.rows.canonical import Record, RowError
from sft.data.rows.mapping import MAY_BE_MISSING
from sft.errors import DataError

LABELS_KEPT = 30  # different labels of a file that are named in messages


@dataclass
class Recognised:
    """What was recognised in a file: rows of each form, how they were read, and what was ignored."""

    dialects: Counter[str] = field(default_factory=Counter)  # {"text/label": 9600}
    ignored_columns: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)  # "question is read as instruction, answer as output"
    notes: Counter[str] = field(default_factory=Counter)  # {"turns whose 'name' is not read": 12}
    labels: dict[str, str] = field(default_factory=dict)  # of other spellings: {"1": "正面"}
    label_tasks: set[str] = field(default_factory=set)  # whose labels those are
    unknown_labels: Counter[str] = field(default_factory=Counter)
    fields: set[str] = field(default_factory=set)  # every column in which something was in any row

    def add(self, other: "Recognised") -> None:
        """Add what was recognised in another part of the file."""
        self.dialects += other.dialects
        self.ignored_columns |= other.ignored_columns
        self.told |= other.told
        self.notes += other.notes
        self.labels |= other.labels
        self.label_tasks |= other.label_tasks
        self.unknown_labels += other.unknown_labels
        self.fields |= other.fields

    def describe(self, shown_as: str) -> str:
        """One line: `a.csv: 9 rows, recognised as text/label; label 1 is read as 正面; ignored columns: qid`."""
        forms = ", ".join(
            name if len(self.dialects) == 1 else f"{name} ({count:,})" for name, count in self.dialects.most_common()
        )
        parts = [f"{shown_as}: {self.dialects.total():,} rows, recognised as {forms or 'nothing'}", *sorted(self.told)]
        if self.labels:
            spelled = ", ".join(f"{word} as {label}" for word, label in sorted(self.labels.items()))
            parts.append(f"labels read ({', '.join(sorted(self.label_tasks))}): {spelled}")
        parts += [f"{note}: {count:,}" for note, count in sorted(self.notes.items()) if count]
        if self.ignored_columns:
            parts.append(f"ignored columns: {', '.join(sorted(self.ignored_columns))}")
        return "; ".join(parts)


def check_columns(shown_as: str, columns: Mapping[str, str], recognised: Recognised) -> None:
    """Raise DataError if an optional column that the user named occurs in no row: probably a typo."""
    if not recognised.dialects:
        return
    for name in columns:
        if name in MAY_BE_MISSING and name not in recognised.fields:
            raise DataError(f"{shown_as}: no row has anything in the column {columns[name]!r} ({name}); name another")


def check_numbers(shown_as: str, recognised: Recognised) -> None:
    """Raise DataError if class numbers were read as a task's, and many others are none of it: 1 to 5 stars, say."""
    others = {label: count for label, count in recognised.unknown_labels.items() if label_key(label).isdigit()}
    read = [word for word in recognised.labels if word.isdigit()]
    if read and sum(others.values()) * 100 > recognised.dialects.total():
        numbers = ", ".join(sorted([*read, *others]))
        raise DataError(
            f"{shown_as}: the labels are {numbers}, more than {', '.join(sorted(recognised.label_tasks))} has; say "
            "what they mean with --labels and --label_map (in a preset: labels, label_map)"
        )


COMMON = frozenset(("id", "group", "attribution"))  # columns that any row may have beside its form's
# Columns that people call otherwise, to be named where nothing fits.
HINTS = {
    **dict.fromkeys(("文本", "评论", "内容", "正文", "句子", "review", "comment", "content", "sentence"), "text"),
    **dict.fromkeys(
        (
            "标签",
            "类别",
            "分类",
            "情感",
            "评分",
            "星级",
            "category",
            "class",
            "sentiment",
            "target",
            "labels",
            "rating",
            "stars",
            "score",
        ),
        "label",
    ),
    **dict.fromkeys(("问题", "提问", "指令", "问", "q", "source", "src", "document", "article"), "instruction"),
    **dict.fromkeys(
        ("回答", "答案", "输出", "回复", "答", "a", "tgt", "summary", "translation", "highlights"), "output"
    ),
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
    record = _name_inside(record)
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
    """Describe a file whose rows are wrapped: in a list of its one object, as turns, or as columns."""
    held = {name: value for name, value in record.items() if isinstance(value, dict | list)}
    if record.keys() & {"role", "from"} and record.keys() & {"content", "value"}:
        return 'turns, each a row of its own: a conversation is one row, {"messages": [...]}'
    if {"annotations", "data"} <= record.keys():
        return "Label Studio's full export; export it as JSON-MIN, whose rows are read"
    for name, value in held.items():
        if isinstance(value, list) and value and isinstance(value[0], dict) and not value[0].keys() & {"role", "from"}:
            return (
                f"rows lie in {name!r}, a list of {len(value):,}: save that list as the file (with jq: "
                f"jq .{name} a.json > b.json)"
            )
    if len(held) == len(record) > 1:
        keys = {frozenset(value) if isinstance(value, dict) else None for value in held.values()}
        if len(keys) == 1 and None not in keys and not any(name in HINTS for name in record):
            return "an object of objects: save their list as the file (with jq: jq '[.[]]' a.json > b.json)"
    return ""


def _name_inside(record: Record) -> Record:
    """A record whose objects are taken apart, by the names that --columns takes: {"data.text": "..."}."""
    return {
        f"{name}.{key}" if key else name: inner
        for name, value in record.items()
        for key, inner in (value.items() if isinstance(value, dict) and value else (("", value),))
    }


def _list_hints(record: Record) -> list[str]:
    """The fields that columns are perhaps meant for: ["text=评论", "label=标签"]."""
    hints = []
    for name, value in record.items():
        bare = name.rpartition(".")[2].strip(BLANK).casefold().lstrip("#")
        if isinstance(value, list) and value and isinstance(value[0], dict) and value[0].keys() & {"role", "from"}:
            hints.append(f"messages={name}")
        elif bare in HINTS and HINTS[bare] not in record:
            hints.append(f"{HINTS[bare]}={name}")
        elif bare != name and bare in ("text", "label", "instruction", "output"):
            hints.append(f"{bare}={name}")
    there = {hint.partition("=")[0] for hint in hints} | record.keys()
    if "output" in there and "text" in record and there.isdisjoint(("instruction", "label")):
        hints.insert(0, "instruction=text")
        there.add("instruction")
    pairs = (("instruction", "output"), ("output", "instruction"), ("label", "text"))  # neither is of use alone
    return hints and [*hints, *(f"{other}=..." for one, other in pairs if one in there and other not in there)]
