"""Conversations as files write them -> turns: whose words they are, what is learned of them, what was thought before.

    notes = Counter()
    make_chat_row([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello", "weight": 1}], None, notes)

Every key of a turn is read, or counted in `notes`: nothing that stood in a row goes without being told.
"""

import re
from collections import Counter

from prompts.family import TEXT_END, THINK_END, THINK_START, TURN_END, TURN_START
from prompts.task import is_blank
from sft.data.rows.canonical import Json, Row, RowError, Turn
from sft.data.rows.fields import name_kind

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "chatbot"), "assistant"),
}
SHOWN_ROLES = "system, user, human, assistant, gpt"
TOOL_ROLES = ("tool", "function", "function_call", "tool_call", "tool_response", "observation", "ipython")
ROLE_KEYS, CONTENT_KEYS = ("role", "from"), ("content", "value")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
WEIGHT_KEYS = ("weight", "train", "loss", "loss_scale", "loss_weight", "trainable")
TOOL_KEYS = ("tool_calls", "function_call")
READ_KEYS = frozenset((*ROLE_KEYS, *CONTENT_KEYS, *REASONING_KEYS, *WEIGHT_KEYS, *TOOL_KEYS))
PLAIN = ({"role", "content"}, {"from", "value"})  # turns of these keys have nothing else to be read
WEIGHTS = {0: False, 1: True, "0": False, "1": True, "false": False, "true": True}
NO_TOOLS = "tool calls are not learned yet; --on_bad_row quarantine leaves such rows out"

# What is counted, and how a reader tells it: the count follows.
UNLEARNED = "answers that are context and not learned (weight 0, train: false, ...)"
CUT_OFF = "turns left out behind the last answer that is learned"
THOUGHTS = (
    "answers with a thought (<think>, reasoning_content, ...), which --think keep learns and auto and off leave out"
)
LONE_END = "answers that hold </think> without <think> before it, as ordinary text"
IGNORED_KEY = "turns whose {!r} is not read"
WEIGHED_QUESTION = "turns by user or system with a weight of 1, though only answers are learned"

CHATML_TURN = re.compile(rf"\s*{re.escape(TURN_START)}(\w+)\n(.*?)(?:{re.escape(TURN_END)}|\Z)", re.DOTALL)

Notes = Counter[str]


def make_chat_row(turns: list[Json], system: Json, notes: Notes) -> Row:
    """A conversation: an optional system text, then user and assistant in turn, an assistant's that is learned last."""
    messages = [turn for number, said in enumerate(turns) for turn in _read_turns(number, said, notes)]
    if system is not None and not isinstance(system, str):
        raise RowError("wrong_type", f"'system' is {name_kind(system)}, expected text")
    if system and (not messages or messages[0]["role"] != "system"):
        messages.insert(0, {"role": "system", "content": system})
    if messages and messages[0]["role"] == "system" and is_blank(messages[0]["content"]):
        del messages[0]  # SlimOrca marks "no system prompt" so
    _check_order(messages[1:] if messages and messages[0]["role"] == "system" else messages)
    return {"id": "", "source": "", "task": "chat", "messages": _end_with_learned(messages, notes)}


def _check_order(exchanged: list[Turn]) -> None:
    if not exchanged:
        raise RowError("empty_text", "the conversation has no turns")
    for number, turn in enumerate(exchanged):
        expected = "user" if number % 2 == 0 else "assistant"
        if turn["role"] != expected:
            raise RowError("wrong_roles", f"turn {number + 1} is {turn['role']!r}, expected {expected!r}")
        if is_blank(turn["content"]):
            reason = "empty_answer" if expected == "assistant" else "empty_text"
            thought = " but for its thought" if turn.get("reasoning_content") else ""
            raise RowError(reason, f"turn {number + 1} ({expected}) is empty{thought}")
    if exchanged[-1]["role"] != "assistant":
        raise RowError("wrong_roles", f"last turn is {exchanged[-1]['role']!r}, expected 'assistant'")


def _end_with_learned(messages: list[Turn], notes: Notes) -> list[Turn]:
    """The turns up to the last answer that is learned: what follows it is seen by nothing."""
    unlearned = [turn for turn in messages if turn.get("supervised") is False]
    if not unlearned:
        return messages
    learned = [n for n, turn in enumerate(messages, 1) if turn["role"] == "assistant" and turn.get("supervised", True)]
    if not learned:
        raise RowError("nothing_to_learn", "no answer of the conversation is to be learned (weight 0, train: false)")
    notes[UNLEARNED] += len(unlearned)
    if learned[-1] < len(messages):
        notes[CUT_OFF] += len(messages) - learned[-1]
    return messages[: learned[-1]]


def _read_turns(number: int, said: Json, notes: Notes) -> list[Turn]:
    """One turn, or the two of an exchange that is written as one object: {"human": ..., "assistant": ...}."""
    if not isinstance(said, dict):
        raise RowError("wrong_type", f"turn {number + 1} is {name_kind(said)}, expected role and content")
    if said.keys() & {"role", "from"}:
        return [_read_turn(number, said, notes)]
    speakers = {name: ROLES[name] for name in said if name in ROLES}
    if sorted(speakers.values()) != ["assistant", "user"]:
        raise RowError("wrong_roles", f"turn {number + 1} has no 'role' (it has: {', '.join(said) or 'nothing'})")
    for key in said.keys() - speakers.keys():
        notes[IGNORED_KEY.format(key)] += 1
    in_turn = sorted(speakers, key=lambda name: speakers[name], reverse=True)  # the user first
    return [_read_turn(number, {"role": name, "content": said[name]}, notes) for name in in_turn]


def _read_turn(number: int, said: dict[str, Json], notes: Notes) -> Turn:
    role = _read_role(number, said)
    is_plain = said.keys() in PLAIN
    if not is_plain:
        _refuse_tools(number, said)
    content = said.get("content", said.get("value"))
    thought = None
    if isinstance(content, list):
        content, thought = join_parts(f"turn {number + 1}", content)
    if not isinstance(content, str):
        raise RowError("wrong_type", f"turn {number + 1}: content is {name_kind(content)}, expected text")
    turn: Turn = {"role": role, "content": content}
    if role == "assistant":
        thought = thought or (None if is_plain else _read_reasoning(number, said))
        turn["content"], thought = split_thought(f"turn {number + 1}", content, thought, notes)
        if thought:
            turn["reasoning_content"] = thought
    if not is_plain:
        _read_other_keys(number, said, turn, notes)
    return turn


def _read_role(number: int, said: dict[str, Json]) -> str:
    said_by = said.get("role", said.get("from"))
    word = said_by.strip().lower() if isinstance(said_by, str) else ""
    if word in TOOL_ROLES:
        raise RowError("tools", f"turn {number + 1} is by {said_by!r}: {NO_TOOLS}")
    if word not in ROLES:
        raise RowError("wrong_roles", f"turn {number + 1} is by {said_by!r}; expected one of: {SHOWN_ROLES}")
    return ROLES[word]


def _refuse_tools(number: int, said: dict[str, Json]) -> None:
    for key in TOOL_KEYS:
        if said.get(key):
            raise RowError("tools", f"turn {number + 1} has {key!r}: {NO_TOOLS}")


def _read_reasoning(number: int, said: dict[str, Json]) -> str | None:
    for key in REASONING_KEYS:
        thought = said.get(key)
        if thought is not None and not isinstance(thought, str):
            raise RowError("wrong_type", f"turn {number + 1}: {key} is {name_kind(thought)}, expected text")
        if thought:
            return thought
    return None


def _read_other_keys(number: int, said: dict[str, Json], turn: Turn, notes: Notes) -> None:
    for key, value in said.items():
        if value is None or value == "" or value == []:
            continue
        if key in WEIGHT_KEYS:
            is_learned = WEIGHTS.get(value.lower() if isinstance(value, str) else value) if _is_scalar(value) else None
            if is_learned is None:
                raise RowError("wrong_weight", f"turn {number + 1}: {key} is {value!r}; only 0 and 1 are read")
            if turn["role"] != "assistant":
                notes[WEIGHED_QUESTION] += is_learned
            elif not is_learned:
                turn["supervised"] = False
        elif key not in READ_KEYS or (key in REASONING_KEYS and turn["role"] != "assistant"):
            notes[IGNORED_KEY.format(key)] += 1


def _is_scalar(value: Json) -> bool:
    return isinstance(value, str | int | float)


def join_parts(where: str, parts: list[Json]) -> tuple[str, str | None]:
    """The text of a content that is a list of parts, and its thought: [{"type": "text", "text": "hi"}] -> ("hi", None).

    As OpenAI writes parts (text), and as LLaMA-Factory does (value).
    """
    texts: list[str] = []
    thoughts: list[str] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else "text"
        text = part.get("text", part.get("value", part.get(str(kind)))) if isinstance(part, dict) else part
        if kind in ("tool_call", "tool_calls", "tool_use", "tool_result", "function_call", "tools"):
            raise RowError("tools", f"{where} has a part of type {kind!r}: {NO_TOOLS}")
        if kind not in ("text", "reasoning", "thinking"):
            raise RowError("media", f"{where} has a part of type {kind!r}; only text is learned")
        if not isinstance(text, str):
            raise RowError("wrong_type", f"{where}: a part of the content is {name_kind(text)}, expected text")
        (texts if kind == "text" else thoughts).append(text)
    return "".join(texts), "\n".join(thoughts) or None


def split_thought(where: str, answer: str, thought: str | None, notes: Notes) -> tuple[str, str | None]:
    """An answer without the <think> block at its head, and what was thought, as Qwen3's chat template parses it.

    "<think>\\nhm\\n</think>\\n\\n42" -> ("42", "hm"). Raises RowError for a block that is never closed.
    """
    if THINK_END not in answer and THINK_START not in answer[:32]:
        notes[THOUGHTS] += bool(thought)
        return answer, thought
    start = answer.lstrip()
    if not start.startswith(THINK_START):
        notes[LONE_END] += THINK_START not in answer
        notes[THOUGHTS] += bool(thought)
        return answer, thought
    inside, end, rest = start.removeprefix(THINK_START).partition(THINK_END)
    if not end:
        raise RowError("open_thought", f"{where} begins with {THINK_START}, which is never closed (cut off?)")
    inside, rest = inside.strip("\n"), rest.lstrip("\n")
    if thought and not is_blank(inside) and inside.strip() != thought.strip():
        raise RowError("two_thoughts", f"{where} has a {THINK_START} block and another thought in a key of its own")
    thought = thought or ("" if is_blank(inside) else inside)
    notes[THOUGHTS] += bool(thought)
    return rest, thought


def is_chatml(text: Json) -> bool:
    """Whether a text is a conversation with its control tokens spelled out: "<|im_start|>user\\nHi<|im_end|>..."."""
    return isinstance(text, str) and text.lstrip().startswith(TURN_START)


def read_chatml(text: str, notes: Notes) -> Row:
    """The conversation that a ready ChatML text spells: its control tokens become the ends of turns."""
    turns: list[Json] = []
    position, length = 0, len(text.rstrip())
    while position < length:
        found = CHATML_TURN.match(text, position)
        if found is None or TURN_START in found[2]:
            if text[position:].strip() == TEXT_END:
                break
            raise RowError("not_chatml", f"is no ChatML from character {position + 1} on: {text[position:][:30]!r}")
        turns.append({"role": found[1], "content": found[2]})
        position = found.end()
    if turns and turns[-1] == {"role": "assistant", "content": ""}:
        raise RowError("empty_answer", "the ChatML text ends where the answer would begin")
    return make_chat_row(turns, None, notes)
