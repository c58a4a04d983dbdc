"""Fields of a row, checked: each function returns the field or raises RowError, which says what is wrong.

    read_text({"output": 7}, "output")           # RowError: 'output' is a number, expected text

GoodRecord and BadRecord are what a file reader yields: a record with its line, or what is wrong at that line.
"""

from collections.abc import Mapping
from datetime import date, datetime
from typing import NamedTuple

import orjson

from prompts.task import BLANK
from sft.data.rows.canonical import Entity, Json, RowError

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


def read_entities(text: str, listed: list[Json]) -> list[Entity]:
    """The entities of a text; a span that does not hold the text it claims is refused."""
    return [_read_entity(text, number, found) for number, found in enumerate(listed)]


def _read_entity(text: str, number: int, found: Json) -> Entity:
    where = f"entities[{number}]"
    if isinstance(found, list) and len(found) == 3:  # doccano, spaCy: [0, 2, "PER"]
        found = {"start_idx": found[0], "end_idx": found[1], "entity_label": found[2]}
    if not isinstance(found, dict):
        raise RowError(
            "wrong_type", f"{where} is {name_kind(found)}, expected start_idx, end_idx, entity_text, entity_label"
        )
    start, end = found.get("start_idx"), found.get("end_idx")
    if type(start) is not int or type(end) is not int or not 0 <= start < end <= len(text):
        raise RowError(
            "wrong_span", f"{where}: start_idx {start!r}, end_idx {end!r} lie outside the {len(text)} characters"
        )
    claimed, label = found.get("entity_text", text[start:end]), found.get("entity_label")
    if not isinstance(label, str) or not label:
        raise RowError("empty_answer", f"{where}: no 'entity_label'")
    if text[start:end] != claimed:
        raise RowError(
            "wrong_span", f"{where}: text[{start}:{end}] is {text[start:end]!r}, entity_text says {claimed!r}"
        )
    return {"start_idx": start, "end_idx": end, "entity_text": claimed, "entity_label": label}


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
