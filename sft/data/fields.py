"""Fields of a row, checked: each function returns what it was asked for or raises RowError, which says what is wrong.

read_text({"output": 7}, "output")           # RowError: 'output' is a number, expected text
"""

from datetime import date, datetime
from typing import NamedTuple

import orjson

from sft.data.canonical import MODERATION_LABELS, SENTIMENT_LABELS, Entity, Json, Row, RowError, Turn

Record = dict[str, Json]  # one row as its file gives it


class NotAValue(NamedTuple):
    """What stands in an Excel cell and is no value of a row: kind "a formula (paste it as a value)".

    It travels as a field (to the types it is Json) and is named where a row needs that field.
    """

    kind: str


ROLES = {  # OpenAI's and ShareGPT's words
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
SENTIMENT_WORDS = {"0": 0, "1": 1, "负面": 0, "正面": 1, "negative": 0, "positive": 1}
MODERATION_WORDS = {word: number for number, word in enumerate(MODERATION_LABELS)} | {str(n): n for n in range(6)}
KINDS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    datetime: "a date",  # of Parquet
    date: "a date",
    bytes: "bytes",
}


def read_text(record: Record, name: str, called: str | None = None) -> str:
    """A text that must be there and hold more than spaces. `called` is the column's name in the file, for messages."""
    value = _read_optional_text(record, name, called or name)
    if not value.strip():
        called = called or name
        reason = "empty_answer" if name == "output" else "empty_text"
        raise RowError(reason, f"no {called!r}" if record.get(name) is None else f"{called!r} is empty")
    return value


def read_list(record: Record, name: str) -> list[Json]:
    """A list; a table file (CSV) may hold it as JSON text."""
    value = record.get(name)
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise RowError("wrong_type", f"{name!r} is text that is no JSON list") from None
    if not isinstance(value, list):
        raise RowError("wrong_type", f"{name!r} is {name_kind(value)}, expected a list")
    return value


def read_instruct(record: Record, called: dict[str, str] | None = None) -> Row:
    """instruction, input ("" where there is none), output, and a system text where the row brings one."""
    called = called or {}
    row: Row = {
        "id": "",
        "source": "",
        "task": "instruct",
        "instruction": read_text(record, "instruction", called.get("instruction")),
        "input": _read_optional_text(record, "input", "input"),
        "output": read_text(record, "output", called.get("output")),
    }
    system = _read_optional_text(record, "system", "system")
    if system:
        row["system"] = system
    return row


def read_labelled(task: str, record: Record) -> Row:
    """A text and one class of a closed set."""
    return make_labelled_row(task, read_text(record, "text"), record.get("label"))


def make_labelled_row(task: str, text: str, label: Json) -> Row:
    """A row of sentiment, sentiment_json or moderation; the label may be a word, a class number or its digits."""
    if task not in ("sentiment", "sentiment_json", "moderation"):
        raise RowError("unknown_task", f"task {task!r} does not take text and label")
    words = MODERATION_WORDS if task == "moderation" else SENTIMENT_WORDS
    key = str(label).strip().lower() if isinstance(label, str | int) and not isinstance(label, bool) else ""
    if not key:
        is_empty = label is None or (isinstance(label, str) and not label.strip())
        kind = "empty" if isinstance(label, str) else name_kind(label)
        raise RowError("empty_answer" if is_empty else "unknown_label", f"label is {kind}")
    if key not in words:
        raise RowError("unknown_label", f"label {label!r} is unknown to {task}; expected one of: {', '.join(words)}")
    number = words[key]
    names = MODERATION_LABELS if task == "moderation" else SENTIMENT_LABELS
    value = number if task == "sentiment_json" else names[number]
    return {"id": "", "source": "", "task": task, "text": text, "label": value}


def is_moderation_word(label: Json) -> bool:
    """Whether a label is one of R3's six words (not a number, which could be any task's)."""
    return isinstance(label, str) and label in MODERATION_LABELS


def read_ner(record: Record) -> Row:
    """A text and its entities; a span that does not hold the text it claims is refused."""
    text = read_text(record, "text")
    entities = [_read_entity(text, number, found) for number, found in enumerate(read_list(record, "entities"))]
    return {"id": "", "source": "", "task": "ner", "text": text, "entities": entities}


def read_news(record: Record) -> Row:
    """A text, the options of this very row, and the right one."""
    text, output = read_text(record, "text"), read_text(record, "output")
    options = [option for option in read_list(record, "category") if isinstance(option, str)]
    if output not in options:
        raise RowError("unknown_label", f"'output' {output!r} is not among the row's 'category' {options}")
    return {"id": "", "source": "", "task": "news", "text": text, "category": options, "output": output}


def make_chat_row(turns: list[Json], system: Json) -> Row:
    """A conversation: an optional system text, then user and assistant in turn, the assistant last."""
    messages = [_read_turn(number, turn) for number, turn in enumerate(turns)]
    if isinstance(system, str) and system and (not messages or messages[0]["role"] != "system"):
        messages.insert(0, {"role": "system", "content": system})
    if messages and messages[0]["role"] == "system" and not messages[0]["content"].strip():
        del messages[0]  # SlimOrca marks "no system prompt" so
    exchanged = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if not exchanged:
        raise RowError("empty_text", "the conversation has no turns")
    for number, turn in enumerate(exchanged):
        expected = "user" if number % 2 == 0 else "assistant"
        if turn["role"] != expected:
            raise RowError("wrong_roles", f"turn {number + 1} is {turn['role']!r}, expected {expected!r}")
        if not turn["content"].strip():
            reason = "empty_answer" if expected == "assistant" else "empty_text"
            raise RowError(reason, f"turn {number + 1} ({expected}) is empty")
    if exchanged[-1]["role"] != "assistant":
        raise RowError("wrong_roles", f"last turn is {exchanged[-1]['role']!r}, expected 'assistant'")
    return {"id": "", "source": "", "task": "chat", "messages": messages}


def _read_turn(number: int, turn: Json) -> Turn:
    if not isinstance(turn, dict):
        raise RowError("wrong_type", f"turn {number + 1} is {name_kind(turn)}, expected role and content")
    said_by = turn.get("role", turn.get("from"))
    role = ROLES.get(said_by) if isinstance(said_by, str) else None
    if role is None:
        raise RowError("wrong_roles", f"turn {number + 1} is by {said_by!r}; expected one of: {', '.join(ROLES)}")
    content = turn.get("content", turn.get("value"))
    if not isinstance(content, str):
        raise RowError("wrong_type", f"turn {number + 1}: content is {name_kind(content)}, expected text")
    read: Turn = {"role": role, "content": content}
    thought = turn.get("reasoning_content")
    if thought is not None and not isinstance(thought, str):
        raise RowError("wrong_type", f"turn {number + 1}: reasoning_content is {name_kind(thought)}, expected text")
    if thought and role == "assistant":
        read["reasoning_content"] = thought
    return read


def _read_entity(text: str, number: int, found: Json) -> Entity:
    where = f"entities[{number}]"
    if not isinstance(found, dict):
        raise RowError(
            "wrong_type", f"{where} is {name_kind(found)}, expected start_idx, end_idx, entity_text, entity_label"
        )
    start, end = found.get("start_idx"), found.get("end_idx")
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        raise RowError(
            "wrong_span", f"{where}: start_idx {start!r}, end_idx {end!r} lie outside the {len(text)} characters"
        )
    claimed, label = found.get("entity_text"), found.get("entity_label")
    if not isinstance(label, str) or not label:
        raise RowError("empty_answer", f"{where}: no 'entity_label'")
    if text[start:end] != claimed:
        raise RowError(
            "wrong_span", f"{where}: text[{start}:{end}] is {text[start:end]!r}, entity_text says {claimed!r}"
        )
    return {"start_idx": start, "end_idx": end, "entity_text": claimed, "entity_label": label}


def _read_optional_text(record: Record, name: str, called: str) -> str:
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{called!r} is {name_kind(value)}, expected text")
    return value


def name_kind(value: Json) -> str:
    """What a value is, in words: 7 -> "a number", None -> "missing"."""
    if isinstance(value, NotAValue):
        return value.kind
    return "missing" if value is None else KINDS.get(type(value), type(value).__name__)
