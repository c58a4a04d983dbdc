"""The one form of a row that everything after the reader works with; its task (prompts/tasks) says what it must hold.

{"id": "reviews-17", "source": "reviews", "task": "sentiment", "text": "房间很干净", "label": "正面"}
{"id": "qa-3", "source": "qa", "task": "instruct", "instruction": "What is AI?", "input": "", "output": "A field ..."}
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import date, datetime, time
from typing import NamedTuple, NotRequired, TypedDict

import orjson

from prompts.errors import RowError
from prompts.messages import Tool, ToolCall
from prompts.task import BLANK
from prompts.tasks import get_task
from prompts.text_encoder import LONGEST_TEXT
from prompts.tools import spell_answer, to_json
from sft.text import normalise_text

__all__ = [
    "Entity",
    "Json",
    "Row",
    "RowError",
    "Turn",
    "answer_of",
    "asked_of",
    "question_of",
    "refuse_endless",
    "system_of",
    "thread_of",
]

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
MOST_TURNS, MOST_ENTITIES = 2_000, 10_000  # of a row
PROMPT_ROOM = 10_000  # characters that a prompt may add to a row's texts
KEY_BYTES = 8  # two of 5 million texts share a key with probability 7e-7


class Entity(TypedDict):
    """One named entity; `text[start_idx:end_idx] == entity_text` (the end is exclusive)."""

    start_idx: int
    end_idx: int
    entity_text: str
    entity_label: str


class Turn(TypedDict):
    """One turn of a conversation; role is system (first only), user, assistant, or tool (what a function returned)."""

    role: str
    content: str
    tool_calls: NotRequired[list[ToolCall]]  # assistant: the functions it calls, after its content
    reasoning_content: NotRequired[str]  # assistant: the thought before the answer, read where `--think keep`
    supervised: NotRequired[bool]  # assistant: False where the turn is context and not learned


class Row(TypedDict):
    """A canonical row. `id`, `source` and `task` are always there; the task decides which other fields are.

    A task of the user's own may have fields of other names: text or JSON, as its rows hold them.
    """

    id: str
    source: str
    task: str
    text: NotRequired[str]  # sentiment, sentiment_json, ner, news, moderation
    label: NotRequired[str | int]  # sentiment and moderation: a word; sentiment_json: 0 or 1
    entities: NotRequired[list[Entity]]  # ner
    category: NotRequired[list[str]]  # news: the options of this row
    instruction: NotRequired[str]  # instruct
    input: NotRequired[str]  # instruct; "" if there is none
    output: NotRequired[str]  # instruct, news
    system: NotRequired[str]  # any task but chat; only where the row brings its own
    messages: NotRequired[list[Turn]]  # chat
    tools: NotRequired[list[Tool]]  # chat: the functions that may be called, as OpenAI describes them
    reasoning_content: NotRequired[str]  # instruct: the thought before the output
    group: NotRequired[str]  # any task; rows of one group stay on one side of a split
    own_id: NotRequired[str]  # any task; the id that the row's file gave it, where `id` is another
    attribution: NotRequired[str]  # any task; author and source, if a licence requires them


def refuse_endless(row: Row) -> None:
    """Raise RowError for texts too long for a tokenizer, and for content whose prompt would take quadratic time."""
    turns = row.get("messages", [])
    lengths = {name: len(value) for name, value in row.items() if isinstance(value, str)}
    lengths["messages"] = max((len(turn["content"]) for turn in turns), default=0)
    if sum(lengths.values()) > LONGEST_TEXT - PROMPT_ROOM:  # a prompt joins them
        name = max(lengths, key=lambda name: lengths[name])
        raise RowError(
            "endless_text",
            f"{name!r} holds a text of {lengths[name]:,} characters, at most {LONGEST_TEXT:,} are read; cut it",
        )
    for name, count, most in (
        ("messages", len(turns), MOST_TURNS),
        ("entities", len(row.get("entities", [])), MOST_ENTITIES),
    ):
        if count > most:
            raise RowError(
                "endless_text", f"{name!r} holds {count:,} of them, at most {most:,} are read; split the row"
            )


def question_of(row: Row) -> str:
    """What a row asks, without its answer and without its system prompt: what filters read and people are shown."""
    if "text" in row:
        return row["text"]
    if "messages" in row:
        return "\n".join(turn["content"] for turn in row["messages"] if turn["role"] == "user")
    if "instruction" in row:
        return f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]
    return _join(row, get_task(row["task"]).prompt_fields)


def system_of(row: Row) -> str:
    """The system prompt that a row brings; "" if it has none."""
    if "messages" in row:
        turns = row["messages"]
        return turns[0]["content"] if turns and turns[0]["role"] == "system" else ""
    return row.get("system", "")


def asked_of(row: Row) -> str:
    """All that a row asks, its system prompt, its tools and their results included.

    Rows that ask the same must be on one side of a split.
    """
    if "system" not in row and "messages" not in row:
        return question_of(row)
    parts = [system_of(row), *map(to_json, row.get("tools", ()))]
    if "messages" in row:  # what functions returned was asked with, too
        parts += [turn["content"] for turn in row["messages"] if turn["role"] == "tool"]
    return "\0".join([*filter(None, parts), question_of(row)])


def thread_of(row: Row) -> str | None:
    """What else keeps rows on one side of a split: the group they name, or the exchange that their conversation begins
    with, so that a conversation and its continuation are never parted. None for rows that stand alone.
    """
    if "group" in row:
        return f"\0group\0{row['group']}"
    if "messages" not in row:
        return None
    turns = row["messages"]
    end = next((number for number, turn in enumerate(turns, start=1) if turn["role"] == "assistant"), 0)
    return "\0thread\0" + "\0".join(map(_spell, turns[:end]))


def answer_of(row: Row) -> str:
    """What a row answers, as text that is equal exactly where two answers are: "正面", "1", "北京@3:GPE"."""
    if "output" in row:
        return row["output"]
    if "label" in row:
        return str(row["label"])
    if "messages" in row:
        return "\n".join(_spell(turn) for turn in row["messages"] if turn["role"] == "assistant")
    if "entities" in row:
        return "\n".join(
            f"{found['entity_text']}@{found['start_idx']}:{found['entity_label']}" for found in row["entities"]
        )
    return _join(row, get_task(row["task"]).answer_fields)


def _spell(turn: Turn) -> str:
    return spell_answer(turn["content"], turn.get("tool_calls", ()))


def _join(row: Row, names: tuple[str, ...]) -> str:
    """Fields of a task of the user's own as one text."""
    values = [row.get(name) for name in names]
    return "\n".join(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values)


def group_key(text: str, seed: int) -> int:
    """A 64-bit key of the normalised text. Rows of one key stay on one side of a split.

    The seed keys the hash, so sorting by it is a random order that depends on nothing but seed and text.
    """
    return _hash(normalise_text(text), str(seed).encode())


def exact_key(row: Row) -> int:
    """A 64-bit key of task, question and answer unchanged, system prompt included: rows of one key are duplicates.

    Of conversations also which answers are learned: a file may hold one for each of them.
    """
    marks = ""
    if "messages" in row and any("supervised" in turn for turn in row["messages"]):
        marks = "\0" + "".join("-" if turn.get("supervised") is False else "+" for turn in row["messages"])
    return _hash(f"{row['task']}\0{asked_of(row)}\0{answer_of(row)}{marks}", b"")


def _hash(text: str, key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=KEY_BYTES, key=key).digest(), "little")


Record = dict[str, Json]  # one row as its file gives it


class NotAValue(NamedTuple):
    """What is in a cell of Excel or Parquet and is no value of a row: kind "a formula (paste it as a value)".

    It travels as a field (to the types it is Json) and is named where a row needs that field.
    """

    kind: str


KINDS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
    datetime: "a date",  # of Parquet
    date: "a date",
    time: "a time of day",
    bytes: "bytes",
}
ANSWERS = ("output", "label", "response", "answer", "completion")  # columns whose being empty is an empty answer


def read_text(record: Mapping[str, Json], name: str, called: str | None = None) -> str:
    """A text that must be there and show something. `called` is the column's name in the file, for messages."""
    value = read_optional_text(record, name, called or name)
    if not value.strip(BLANK):
        called = called or name
        reason = "empty_answer" if name in ANSWERS else "empty_text"
        raise RowError(reason, f"no {called!r}" if record.get(name) is None else f"{called!r} is empty")
    return value


def read_optional_text(record: Mapping[str, Json], name: str, called: str | None = None) -> str:
    """A text, "" if it is missing or null."""
    value = record.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowError("wrong_type", f"{called or name!r} is {name_kind(value)}, expected text")
    return value


def read_list(record: Mapping[str, Json], name: str) -> list[Json]:
    """A list; a table file (CSV) may hold it as JSON text."""
    value = record.get(name)
    if isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            hint = (
                "; it looks like Python's repr: write it with json.dumps" if value.lstrip()[:2] in ("[{", "['") else ""
            )
            raise RowError("wrong_type", f"{name!r} is text that is no JSON list{hint}") from None
    if not isinstance(value, list):
        raise RowError("wrong_type", f"{name!r} is {name_kind(value)}, expected a list")
    return value


def name_kind(value: Json) -> str:
    """What a value is, in words: 7 -> "a number", None -> "missing"."""
    if isinstance(value, NotAValue):
        return value.kind
    return "missing" if value is None else KINDS.get(type(value), type(value).__name__)


class GoodRecord(NamedTuple):
    """One record as the file gives it; `line` counts from 1 (in Parquet, which has no lines: the row)."""

    line: int
    fields: Record


class BadRecord(NamedTuple):
    """A record that cannot be used: a short reason that is counted, and a message for the user."""

    line: int
    reason: str
    message: str
