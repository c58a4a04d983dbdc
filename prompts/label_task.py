"""A task that is described in words instead of Python: its labels, how it is asked, and what its columns are called.

make_label_task(make_definition("urgency", {"labels": ["low", "high"], "question": "How urgent is this ticket?"}))

A file recipes/tasks/urgency.yaml is such a description; `--labels 好评,差评` alone is the shortest one. A run keeps the
descriptions of its tasks in run.json.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypedDict

from prompts.errors import PromptError
from prompts.task import Task, ask, is_blank, label_key, read_label, text_of

KEYS = ("labels", "question", "system", "columns")
FIELDS = ("text", "label")
LONGEST_NAME = 40  # characters of a task that is named by its labels
GAP = "{text}"


class Definition(TypedDict):
    """A described task, complete and as JSON."""

    name: str
    labels: list[str]  # in the order of the class numbers
    spellings: dict[str, str]  # {"1": "好评"}
    question: str  # "How urgent is this ticket?", or with the text's place: "Ticket: {text}\nHow urgent is it?"
    system: str | None
    columns: dict[str, str]  # {"text": "评论", "label": "标签"}


def make_definition(name: str, content: Mapping[str, object]) -> Definition:
    """The description of a task, checked. Raises PromptError naming the key that is wrong.

    labels: a list, or for each label its other spellings: {"high": ["urgent", 1], "low": ["normal", 0]}.
    """
    if unknown := [key for key in content if key not in KEYS]:
        raise PromptError(f"{unknown[0]!r} is no key of a task; it has {', '.join(KEYS)}")
    labels, spellings = _read_labels(content.get("labels"))
    question, system = content.get("question"), content.get("system")
    columns = content.get("columns") or {}
    for key, value in (("question", question), ("system", system)):
        if value is not None and (not isinstance(value, str) or is_blank(value)):
            raise PromptError(f"{key} is {value!r}, expected text")
    if not isinstance(columns, Mapping) or not set(columns) <= set(FIELDS):
        raise PromptError(f"columns is {columns!r}, expected a column for text, label or both: {{text: 评论}}")
    return {
        "name": name,
        "labels": labels,
        "spellings": spellings,
        "question": str(question) if question is not None else _ask_for(labels),
        "system": str(system) if system is not None else None,
        "columns": {str(field): str(column) for field, column in columns.items()},
    }


def make_label_task(definition: Definition) -> Task:
    """The task of a description."""
    labels = tuple(definition["labels"])
    before, gap, after = definition["question"].partition(GAP)
    if not gap:
        before += "\n"
    columns = definition["columns"]
    return Task(
        name=definition["name"],
        kind="label",
        prompt_fields=("text",),
        answer_fields=("label",),
        example={"text": "…", "label": labels[0]},
        build_prompt=lambda row: ask(before, text_of(row, "text"), after),
        write_answer=lambda row: text_of(row, "label"),
        read_answer=lambda text, row: read_label(text, labels),
        list_labels=lambda row: labels,
        spellings=definition["spellings"],
        columns=({field: columns.get(field, field) for field in FIELDS},) if columns else (),
        system_prompt=definition["system"],
        definition=definition,
    )


def name_by_labels(labels: Sequence[str]) -> str:
    """The name of a task that is nothing but its labels: "好评/差评". Other labels, or another order: another name."""
    name = "/".join(labels)
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256("\0".join(labels).encode()).hexdigest()[:6]
    return f"{labels[0][:LONGEST_NAME]}/and {len(labels) - 1} more ({digest})"


def _read_labels(given: object) -> tuple[list[str], dict[str, str]]:
    spellings: dict[str, str] = {}
    if isinstance(given, Mapping):
        for label, words in given.items():
            listed = [] if words is None else words if isinstance(words, list) else [words]
            for word in listed:
                key = label_key(word)
                if not key:
                    raise PromptError(f"labels.{label}: {word!r} is no spelling of a label; give a text or a number")
                if spellings.setdefault(key, str(label)) != str(label):
                    raise PromptError(f"labels: {word!r} is a spelling of both {spellings[key]} and {label}")
    labels = list(given) if isinstance(given, Mapping | list | tuple) else []
    for label in labels:
        if not isinstance(label, str):  # YAML reads yes, no, on, off and digits as something else
            raise PromptError(f'labels: {label!r} is no text; write it in quotes: "{label}"')
    keys = [label_key(label) for label in labels]
    if len(labels) < 2 or "" in keys or len(set(keys)) < len(keys):
        raise PromptError(f"labels is {given!r}, expected at least two different ones: [low, high]")
    if crossed := [word for word, label in spellings.items() if word in keys and label_key(label) != word]:
        raise PromptError(f"labels: {crossed[0]!r} is a label, and cannot be another spelling of one")
    return labels, spellings


def _ask_for(labels: Sequence[str]) -> str:
    """The question of a task that brings none, in the language of its labels."""
    if any("\u4e00" <= character <= "\u9fff" for label in labels for character in label):
        return f"判断文本属于哪一类（{'、'.join(labels)}），只回答类别："
    return f"Which label fits this text: {', '.join(labels)}? Answer with the label alone."
