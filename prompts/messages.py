"""A conversation: who says what, which functions may be called, and which part may be shortened when it is too long.

[{"role": "system", "content": "Be brief."},
 {"role": "tools", "content": "", "tools": [{"type": "function", "function": {"name": "get_weather", ...}}]},
 {"role": "user", "content": "北京天气怎么样？"},
 {"role": "assistant", "content": "", "tool_calls": [{"name": "get_weather", "arguments": {"city": "北京"}}]},
 {"role": "tool", "content": "晴，25 °C"},
 {"role": "assistant", "content": "北京今天晴，25 °C。"}]
"""

import json
import re
from collections.abc import Sequence
from typing import NotRequired, TypedDict

from prompts.errors import PromptError

ROLES = ("system", "tools", "user", "assistant", "tool")
ASKING = ("user", "tool")  # roles whose turn an answer follows
LEADING = ("system", "tools")  # roles that are before the exchanges and are never shortened
NAME = re.compile(r"[^\s\"\\<>]+")  # of a function: every form of calls writes it without escaping
DOCUMENT = "document"  # the role of a text that is learned whole, without a system prompt; see prompts.chatml

Tool = dict[str, object]
"""A function as OpenAI describes it: {"type": "function", "function": {"name", "description", "parameters"}}."""


class ToolCall(TypedDict):
    """A call of a function: {"name": "get_weather", "arguments": {"city": "北京"}}."""

    name: str
    arguments: dict[str, object]  # a JSON object


class Message(TypedDict):
    """One turn: {"role": "user", "content": "判断情感：\\n房间很干净", "document": (6, 11)}."""

    role: str
    content: str
    # The functions that may be called: of the turn `tools` alone, which says nothing else and is before the first
    # exchange.
    tools: NotRequired[Sequence[Tool]]
    # What an assistant's turn calls, after its content.
    tool_calls: NotRequired[Sequence[ToolCall]]
    # Characters of a user's content that may be shortened, end exclusive. Without it all of the content may be;
    # (0, 0) = nothing may (named entities of a shortened text would no longer be in it).
    document: NotRequired[tuple[int, int]]
    # The answers that a user's turn allows, all of them: a shortened prompt leaves room for the longest, whichever is
    # right. Without it the answer is free text, and a fixed room is left.
    answers: NotRequired[tuple[str, ...]]
    # What an assistant thought before answering. Only think="keep" writes it; see prompts.family.
    reasoning_content: NotRequired[str]
    # False: an assistant's turn that is context and not learned (a row's `weight: 0`). Left out: learned.
    supervised: NotRequired[bool]


def check_conversation(messages: Sequence[Message], *, last_role: str) -> None:
    """Raise PromptError unless the messages can be rendered and end with a turn of the last_role.

    A system message must come first and tools before all but it; what follows may be in any order, as templates allow
    it. last_role "user": the conversation is a prompt, so a tool's result may be last, too.
    """
    if not messages:
        raise PromptError("the conversation is empty; it needs at least a user turn")
    if is_document(messages):
        _check_text(messages[0]["content"], "the document")
        return
    for index, message in enumerate(messages, start=1):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise PromptError(f"turn {index} has the role {role!r}; roles are {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise PromptError(f"turn {index} ({role}) has no text but {type(content).__name__}; give a string")
        _check_text(content, f"turn {index} ({role})")
        _check_text(message.get("reasoning_content", ""), f"turn {index} ({role}), reasoning_content")
        if "tools" in message or "tool_calls" in message:
            _check_tools(message, f"turn {index} ({role})")
        if role == "system" and index > 1:
            raise PromptError(f"turn {index} is a system message; only the first turn can be one")
        if role == "tools" and any(before["role"] != "system" for before in messages[: index - 1]):
            raise PromptError(f"turn {index} lists tools; they belong before the first exchange")
    last = messages[-1]["role"]
    if last != last_role and not (last_role == "user" and last in ASKING):
        raise PromptError(f"the last turn is {last!r}, expected {last_role!r}; fix the row")
    if all(message["role"] != "user" for message in messages):
        raise PromptError("the conversation has no user turn; fix the row")


def is_document(messages: Sequence[Message]) -> bool:
    """Whether this is a document and no conversation."""
    return len(messages) == 1 and messages[0].get("role") == DOCUMENT


def _check_tools(message: Message, where: str) -> None:
    if message.get("tool_calls") and message["role"] != "assistant":
        raise PromptError(f"{where} calls tools; only an assistant does")
    for call in message.get("tool_calls", ()):
        if not NAME.fullmatch(call["name"]):
            raise PromptError(f"{where} calls {call['name']!r}, which is no function's name; fix the row")
        if not isinstance(call["arguments"], dict):
            raise PromptError(f"{where}: the arguments of {call['name']!r} are no JSON object; fix the row")
        _check_text(json.dumps(call["arguments"], ensure_ascii=False), f"{where}, call of {call['name']!r}")
    for tool in message.get("tools", ()):
        _check_text(json.dumps(tool, ensure_ascii=False), f"{where}, a tool")


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"character {error.start + 1} is a lone surrogate, U+{ord(text[error.start]):04X}"
        raise PromptError(f"{where}: {what}; fix the row") from None
