"""Tools: how functions are described to a model, how its calls are written, and how they are parsed.

Two forms are known, and a chat template is tried for which of them it writes (prompts.template):

hermes   Qwen2.5, Qwen3 and, where a template knows no tools, everybody: a call is one JSON object
         <tool_call>\\n{"name": "get_weather", "arguments": {"city": "北京"}}\\n</tool_call>
xml      Qwen3.5, and with numbers and booleans as JSON Qwen3.6 (xml_json): each argument has a tag of its own
         <tool_call>\\n<function=get_weather>\\n<parameter=city>\\n北京\\n</parameter>\\n</function>\\n</tool_call>

What is written comes in spans, the renderer's own markup apart from everybody's text: only in markup does `<tool_call>`
become a control token. A call that could not be read back as it was is refused.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from prompts.errors import PromptError
from prompts.messages import NAME, Message, Tool, ToolCall

T = TypeVar("T")
ToolForm = Literal["hermes", "xml", "xml_json"]
TOOL_FORMS: tuple[ToolForm, ...] = ("hermes", "xml", "xml_json")

CALL, CALL_END = "<tool_call>", "</tool_call>"
RESULT, RESULT_END = "<tool_response>", "</tool_response>"
MARKS = (CALL, CALL_END, RESULT, RESULT_END, "<tools>", "</tools>")  # what markup may hold that a tokenizer may know

HERMES_HEAD = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
HERMES_TAIL = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)
XML_HEAD = "# Tools\n\nYou have access to the following functions:\n\n<tools>"
XML_TAIL = (
    "\n</tools>\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n"
    "<tool_call>\n<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
    "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n"
    "</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n"
    "- Function calls MUST follow the specified format: an inner <function=...></function> block must be nested within "
    "<tool_call></tool_call> XML tags\n- Required parameters MUST be specified\n"
    "- You may provide optional reasoning for your function call in natural language BEFORE the function call, but NOT "
    "after\n- If there is no function call available, answer the question like normal with your current knowledge and "
    "do not tell the user about function calls\n</IMPORTANT>"
)

ARGUMENT = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*(?=<parameter=|\Z)", re.DOTALL)
FUNCTION = re.compile(r"\s*<function=([^>\n]+)>\n?(.*?)</function>\s*\Z", re.DOTALL)
PYTHON_WORDS = {"True": True, "False": False, "None": None}  # as Qwen3.5's template writes them


def order_results(turns: Sequence[T]) -> list[T]:
    """Turns as files and clients write them, results in the order of the calls whose ids they name.

    Templates write results without ids. What is no turn stays where it is.
    """
    ordered, ids = list[T](), list[object]()
    for is_result, group in itertools.groupby(turns, lambda said: isinstance(said, dict) and "tool_call_id" in said):
        said: list[Any] = list(group)
        if is_result and all(result["tool_call_id"] in ids for result in said):
            said.sort(key=lambda result: ids.index(result["tool_call_id"]))
        ordered += said
        calls = said[-1].get("tool_calls") if isinstance(said[-1], dict) else None
        ids = [call.get("id") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
    return ordered


class Span(NamedTuple):
    """Part of a turn; markup is written by the renderer, and only there do special tokens become control tokens."""

    text: str
    is_markup: bool = False


class BrokenCall(ValueError):
    """A call written by a model that cannot be executed, with the part that is wrong."""


# Writing


def write_system(form: ToolForm, tools: Sequence[Tool], system: str | None) -> list[Span]:
    """The system turn that offers tools, without its role: `Be brief.\\n\\n# Tools\\n\\n...`."""
    listed = [Span(f"\n{to_json(tool)}") for tool in tools]
    if form == "hermes":
        own = [Span(f"{system}\n\n")] if system is not None else []
        return [*own, Span(HERMES_HEAD, True), *listed, Span(HERMES_TAIL, True)]
    own = [Span(f"\n\n{system}")] if system else []
    return [Span(XML_HEAD, True), *listed, Span(XML_TAIL, True), *own]


def write_calls(form: ToolForm, calls: Sequence[ToolCall], content: str) -> list[Span]:
    """The calls that come after the content of an answer. Raises PromptError for one that could not be read back."""
    spans = []
    behind = {"hermes": "\n" if content else ""}.get(form, "\n\n" if content.strip() else "")
    for number, call in enumerate(calls):
        opens_with = "\n" if number else behind
        body = _write_json(call) if form == "hermes" else _write_xml(form, call)
        spans += [Span(f"{opens_with}{CALL}\n", True), Span(body), Span(f"\n{CALL_END}", True)]
    return spans


def write_results(results: Sequence[str]) -> list[Span]:
    """Results of functions as the user turn that Qwen's templates make of them, without its role."""
    spans = []
    for number, result in enumerate(results):
        opens_with = "\n" if number else ""
        spans += [Span(f"{opens_with}{RESULT}\n", True), Span(result), Span(f"\n{RESULT_END}", True)]
    return spans


def to_json(value: object) -> str:
    """JSON as transformers' `tojson` writes it: {"city": "北京", "days": 3}."""
    return json.dumps(value, ensure_ascii=False)


def _write_json(call: ToolCall) -> str:
    return f'{{"name": "{call["name"]}", "arguments": {to_json(call["arguments"])}}}'


def _write_xml(form: ToolForm, call: ToolCall) -> str:
    values = {name: _write_value(form, value) for name, value in call["arguments"].items()}
    parts = [f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items()]
    body = f"<function={call['name']}>\n{''.join(parts)}</function>"
    if any("<parameter=" in value for value in values.values()) and _split_xml(body) != (call["name"], values):
        raise PromptError(
            f"an argument of the call of {call['name']!r} holds </parameter> and <parameter=, which the model's form "
            "of calls cannot tell from its own; fix or drop the row"
        )
    for name in values:
        if not NAME.fullmatch(name):
            raise PromptError(f"the argument {name!r} of {call['name']!r} has a name that the model's form cannot hold")
    return body


def _write_value(form: ToolForm, value: object) -> str:
    if isinstance(value, str):
        return value
    return to_json(value) if form == "xml_json" or isinstance(value, dict | list) else str(value)


# Reading


def read_call(body: str, tools: Sequence[Tool] = ()) -> ToolCall:
    """The content between <tool_call> and </tool_call>, in either form; raises BrokenCall.

    tools: whose parameters say of which types the arguments are that XML writes as bare text.
    """
    if body.lstrip().startswith("<function="):
        name, texts = _split_xml(body)
        schemas = parameters_of(name, tools)
        return {"name": name, "arguments": {key: _read_value(text, schemas.get(key)) for key, text in texts.items()}}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BrokenCall(f"no valid JSON ({error})") from None
    return _check_call(found)


def read_answer_text(text: str, tools: Sequence[Tool] = ()) -> tuple[str, list[ToolCall]]:
    """Content and calls of an answer whose marks are spelled out; raises BrokenCall where a call cannot be read.

    'Let me see.\\n<tool_call>\\n{"name": "f", "arguments": {}}\\n</tool_call>' -> ("Let me see.", [{"name": "f", ...}])
    """
    bodies: list[str] = []
    before, found, rest = text.partition(CALL)
    after = ""
    while found:
        body, ended, rest = _cut_body(rest)
        if not ended:
            raise BrokenCall("a call is not closed")
        bodies.append(body)
        between, found, rest = rest.partition(CALL)
        after += between.strip("\n") if found else between
    return join_content(before, after), [read_call(body, tools) for body in bodies]


def read_system(text: str) -> tuple[str | None, list[Tool]] | None:
    """What write_system made a system turn of: the system prompt, None if there was none, and the tools.

    None for a text that offers no tools, or in no form known here.
    """
    for head, tail in ((HERMES_HEAD, HERMES_TAIL), (XML_HEAD, XML_TAIL)):
        before, found, rest = text.partition(f"{head}\n")
        listed, ended, behind = rest.rpartition(tail)
        system = (before or behind).strip("\n") or None
        if not found or not ended or (before and behind):
            continue
        try:
            tools = [json.loads(line) for line in listed.split("\n") if line]
        except ValueError:
            continue
        if tools and all(isinstance(tool, dict) for tool in tools):
            return system, tools
    return None


def join_content(before: str, after: str) -> str:
    """The content of an answer with calls: the text before them and after them."""
    before = before.rstrip("\n")
    return f"{before}\n{after.strip()}".strip("\n") if after.strip() else before


def spell_answer(content: str, calls: Sequence[ToolCall] = ()) -> str:
    """An answer as one text with its calls in the Hermes format: used by reports and scores."""
    return content + "".join(span.text for span in write_calls("hermes", calls, content)) if calls else content


def write_openai_calls(calls: Sequence[ToolCall]) -> list[dict[str, object]]:
    """Calls as OpenAI's API has them, without ids: [{"type": "function", "function": {"name", "arguments": "{}"}}]."""
    return [
        {"type": "function", "function": {"name": call["name"], "arguments": to_json(call["arguments"])}}
        for call in calls
    ]


def to_openai(messages: Sequence[Message]) -> tuple[list[dict[str, object]], list[Tool] | None]:
    """Messages and tools as transformers hands them to a template: tools apart, calls in OpenAI's nested form."""
    told: list[dict[str, object]] = []
    tools: list[Tool] | None = None
    for message in messages:
        if message["role"] == "tools":
            tools = list(message.get("tools", ()))
            continue
        turn: dict[str, object] = {"role": message["role"], "content": message["content"]}
        if "reasoning_content" in message:
            turn["reasoning_content"] = message["reasoning_content"]
        if calls := message.get("tool_calls"):
            turn["tool_calls"] = [{"type": "function", "function": call} for call in calls]
        told.append(turn)
    return told, tools


def _cut_body(rest: str) -> tuple[str, bool, str]:
    """What belongs to a call that has begun, whether it is closed, and what follows; JSON may hold the end's words."""
    if rest.lstrip().startswith("{"):
        start = len(rest) - len(rest.lstrip())
        try:
            _, end = json.JSONDecoder().raw_decode(rest, start)
        except (ValueError, RecursionError):
            end = start
        if (closing := re.compile(rf"\s*{CALL_END}").match(rest, end)) is not None:
            return rest[:end], True, rest[closing.end() :]
    body, found, behind = rest.partition(CALL_END)
    return body, bool(found), behind


def _check_call(found: object) -> ToolCall:
    if not isinstance(found, dict) or not isinstance(found.get("name"), str) or not found["name"]:
        raise BrokenCall("a call without a name")
    arguments = found.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError) as error:
            raise BrokenCall(f"arguments that are no valid JSON ({error})") from None
    if not isinstance(arguments, dict):
        raise BrokenCall("arguments that are no JSON object")
    return {"name": found["name"], "arguments": arguments}


def _split_xml(body: str) -> tuple[str, dict[str, str]]:
    function = FUNCTION.match(body)
    if function is None:
        raise BrokenCall("a call whose <function=...> is not closed")
    name, inside = function.groups()
    values: dict[str, str] = {}
    position = 0
    while inside[position:].strip():
        found = ARGUMENT.match(inside, position)
        if found is None:
            raise BrokenCall(f"a call with something else than arguments: {inside[position:].strip()[:30]!r}")
        values[found[1]] = found[2]
        position = found.end()
    return name, values


def parameters_of(name: str, tools: Sequence[Tool]) -> Mapping[str, object]:
    """The schema of each argument of a function: {"city": {"type": "string"}}; {} if it is not known."""
    for tool in tools:
        function = tool.get("function", tool)
        if isinstance(function, dict) and function.get("name") == name:
            parameters = function.get("parameters")
            properties = parameters.get("properties") if isinstance(parameters, dict) else None
            return properties if isinstance(properties, dict) else {}
    return {}


def _read_value(text: str, schema: object) -> object:
    """An argument's text as its schema's type: "3", {"type": "integer"} -> 3. Text stays text if none is named."""
    if not isinstance(schema, dict):
        return text
    options = [schema, *(part for part in schema.get("anyOf") or () if isinstance(part, dict))]
    types = {kind for option in options for kind in _listed(option.get("type"))}
    if "null" in types and text in ("None", "null"):
        return None
    if "string" in types or not types:
        return text
    if text in PYTHON_WORDS:
        return PYTHON_WORDS[text]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _listed(kind: object) -> list[object]:
    return kind if isinstance(kind, list) else [kind] if isinstance(kind, str) else []
