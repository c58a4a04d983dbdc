"""Tools as files write them -> tools and calls as prompts/ takes them.

    read_tools('[{"name": "clock", "parameters": {}}]')           # [{"type": "function", "function": {"name": ...}}]
    read_calls("turn 2", [{"function": {"name": "clock", "arguments": "{}"}}])   # [{"name": "clock", "arguments": {}}]

A list may be given as its JSON text, and so may its elements: `datasets` makes one struct of all arguments of a
column, with null for those a call does not have, and a file that keeps JSON text is the way around it.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from prompts.messages import NAME, Tool, ToolCall
from prompts.task import is_blank
from prompts.tools import CALL, BrokenCall, parameters_of, read_answer_text, to_json
from sft.data.rows.canonical import Json, RowError, name_kind
from sft.errors import ConfigError, one_line

NOTHING: tuple[Json, ...] = (None, "", [], {}, "[]", "{}", "null", "none", "None")
TOOL_COLUMNS = ("tools", "functions")
NAME_KEYS = ("name", "function_name", "tool_name")
ARGUMENT_KEYS = ("arguments", "parameters", "args", "input")  # of a call; the first one present counts


def read_tools(value: Json, where: str = "'tools'") -> list[Tool]:
    """The functions of a row in OpenAI's form, from any of the usual ones; raises RowError."""
    found = _parse(where, value)
    listed = found if isinstance(found, list) else [found]
    return [_read_tool(f"{where}, tool {number}", tool) for number, tool in enumerate(listed, start=1)]


def load_tools(path: Path | None) -> list[Tool]:
    """The functions of a JSON file (--tools), [] without one; raises ConfigError if it has none."""
    try:
        return read_tools(path.read_text(encoding="utf-8-sig"), f"--tools {path}") if path else []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"--tools {path}: cannot be read ({one_line(error)}); give a JSON list of functions"
        ) from None
    except RowError as error:
        raise ConfigError(f"{error}; give a JSON list of functions, as docs/tools.md shows it") from None


def find_tools(record: Mapping[str, Json]) -> Json:
    """The functions of a record, under the first of the usual names that has any; None if none has."""
    return next((record[name] for name in TOOL_COLUMNS if has_tools(record.get(name))), None)


def has_tools(value: Json) -> bool:
    """Whether a column `tools` names any function."""
    return (value.strip() if isinstance(value, str) else value) not in NOTHING


def read_calls(where: str, value: Json) -> list[ToolCall]:
    """The calls of a turn: a list or a single call, nested as in OpenAI's format or flat; raises RowError."""
    found = _parse(where, value)
    listed = found if isinstance(found, list) else [found]
    if not listed:
        raise RowError("wrong_call", f"{where} calls nothing")
    return [_read_call(where, _parse(where, call)) for call in listed]


def drop_filled(calls: Sequence[ToolCall], tools: Sequence[Tool]) -> tuple[list[ToolCall], int]:
    """The calls without arguments that are null and cannot be, by their function's own schema, and how many went.

    A table holds all arguments of a column as one struct: each call has those of all others, null.
    """
    names = {tool["function"].get("name") for tool in tools if isinstance(tool.get("function"), dict)}  # type: ignore[attr-defined]
    kept: list[ToolCall] = []
    for call in calls:
        schemas = parameters_of(call["name"], tools)
        filled = {
            name
            for name, value in call["arguments"].items()
            if value is None and call["name"] in names and "null" not in str(schemas.get(name))
        }
        arguments = {name: value for name, value in call["arguments"].items() if name not in filled}
        kept.append({"name": call["name"], "arguments": arguments})
    return kept, sum(len(call["arguments"]) for call in calls) - sum(len(call["arguments"]) for call in kept)


def drop_nulls(schema: Json) -> Json:
    """A schema without the keys that a table filled with null; `default` and `const` may be null."""
    if isinstance(schema, list):
        return [drop_nulls(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {key: drop_nulls(value) for key, value in schema.items() if value is not None or key in ("default", "const")}


def read_result(where: str, content: Json) -> str:
    """A tool's result as text: an object or a number as JSON, null as nothing."""
    if content is None:
        return ""
    if not isinstance(content, str):
        content = _write_json(where, content)
    inside = content.strip()
    if inside.startswith("<tool_response>") and inside.endswith("</tool_response>"):  # as a template wrote it
        return inside.removeprefix("<tool_response>").removesuffix("</tool_response>").strip("\n")
    return content


def read_spelled_calls(text: str, tools: Sequence[Tool]) -> tuple[str, list[ToolCall]] | None:
    """Content and calls of an answer whose calls its text spells (`<tool_call>{...}</tool_call>`); None: it does not.

    Hermes' own data set writes its calls so, and text that a chat template made of a row.
    """
    if CALL not in text:
        return None
    try:
        content, calls = read_answer_text(text, tools)
    except BrokenCall:
        return None
    return (content, calls) if calls and all(NAME.fullmatch(call["name"]) for call in calls) else None


def _read_tool(where: str, value: Json) -> Tool:
    tool = _parse(where, value)
    function = tool.get("function") if isinstance(tool, dict) and isinstance(tool.get("function"), dict) else tool
    if not isinstance(tool, dict) or not isinstance(function, dict):
        raise RowError("wrong_tools", f"{where} is {name_kind(tool)}, expected an object with name and parameters")
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise RowError("wrong_tools", f"{where} has the name {name!r}, expected a function's name")
    _write_json(where, tool)
    return {**tool} if function is not tool else {"type": "function", "function": tool}


def _read_call(where: str, call: Json) -> ToolCall:
    if isinstance(call, dict) and isinstance(call.get("function"), dict | str) and "name" not in call:
        inside = call["function"]
        call = inside if isinstance(inside, dict) else {**call, "name": inside}
    if not isinstance(call, dict):
        raise RowError(
            "wrong_call", f"{where}: a call is {name_kind(call)}, expected an object with name and arguments"
        )
    name = next((call[key] for key in NAME_KEYS if key in call), None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise RowError("wrong_call", f"{where} calls {name!r}, expected a function's name")
    arguments = next((call[key] for key in ARGUMENT_KEYS if key in call), None)
    if isinstance(arguments, str):
        arguments = {} if is_blank(arguments) else _parse(f"{where}: the arguments of {name!r}", arguments)
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise RowError(
            "wrong_call", f"{where}: the arguments of {name!r} are {name_kind(arguments)}, expected an object"
        )
    _write_json(f"{where}: the arguments of {name!r}", arguments)
    return {"name": name, "arguments": dict(arguments)}


def _parse(where: str, value: Json) -> Json:
    """The value, or the one in its JSON text: numbers keep their spelling, and duplicate keys are errors."""
    if not isinstance(value, str):
        return value
    try:
        found: Json = json.loads(value, object_pairs_hook=_make_object, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        hint = "; it looks like Python's repr: write it with json.dumps" if value.lstrip()[:2] in ("{'", "[{") else ""
        raise RowError("wrong_call", f"{where}: no valid JSON ({error}){hint}") from None
    return found


def _make_object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for number, (name, _) in enumerate(pairs) if name in dict(pairs[:number]))
        raise ValueError(f"the key {twice!r} twice")
    return found


def _refuse_constant(word: str) -> Json:
    raise ValueError(f"{word} is no JSON")


def _write_json(where: str, value: Json) -> str:
    try:
        return to_json(value)
    except (TypeError, ValueError) as error:
        raise RowError("wrong_type", f"{where} contains what JSON cannot represent: {error}") from None
