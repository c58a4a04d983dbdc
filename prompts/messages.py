"""A conversation: who says what, and which part may be shortened when it is too long."""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

from prompts.errors import PromptError

ROLES = ("system", "user", "assistant")


class Message(TypedDict):
    """One turn: {"role": "user", "content": "判断情感：\\n房间很干净", "document": (6, 11)}."""

    role: str
    content: str
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

    The system message, if there is one, must come first; what follows may be in any order, as templates allow it.
    """
    if not messages:
        raise PromptError("the conversation is empty; it needs at least a user turn")
    for index, message in enumerate(messages, start=1):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise PromptError(f"turn {index} has the role {role!r}; roles are {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise PromptError(f"turn {index} ({role}) has no text but {type(content).__name__}; give a string")
        _check_text(content, f"turn {index} ({role})")
        _check_text(message.get("reasoning_content", ""), f"turn {index} ({role}), reasoning_content")
        if role == "system" and index > 1:
            raise PromptError(f"turn {index} is a system message; only the first turn can be one")
    if messages[-1]["role"] != last_role:
        raise PromptError(f"the last turn is {messages[-1]['role']!r}, expected {last_role!r}; mend the row")
    if all(message["role"] != "user" for message in messages):
        raise PromptError("the conversation has no user turn; mend the row")


def _check_text(text: str, where: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        what = f"character {error.start + 1} is a lone surrogate, U+{ord(text[error.start]):04X}"
        raise PromptError(f"{where}: {what}; mend the row") from None
