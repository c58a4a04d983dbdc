"""Conversations in files -> turns with role, content, whether it is learned, and thoughts.

    notes = Counter()
    make_chat_row([{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello", "weight": 1}], None, notes)

Every key of a turn is read, or counted in `notes`: nothing in a row is dropped silently.
"""

import re
from collections import Counter
from collections.abc import Sequence

from prompts.family import TEXT_END, THINK_END, THINK_START, TURN_END, TURN_START
from prompts.messages import Tool
from prompts.task import BLANK, is_blank
from prompts.tools import CALL, RESULT, RESULT_END, order_results, read_system
from sft.data.rows.canonical import Json, Row, RowError, Turn, name_kind
from sft.data.rows.tools import (
    drop_filled,
    drop_nulls,
    has_tools,
    read_calls,
    read_result,
    read_spelled_calls,
    read_tools,
)

CALLING_ROLES = ("function_call", "tool_call", "tool_calls")  # their content is the JSON of one call or several
ROLES = {
    **dict.fromkeys(("system", "developer", "系统"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "用户"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "bot", "ai", "model", "chatgpt", "chatbot", "bing", "bard", "助手", *CALLING_ROLES),
        "assistant",
    ),
    **dict.fromkeys(("tool", "function", "observation", "tool_response", "tool_result", "ipython"), "tool"),
}
PLAIN_ROLES = ({"user": "user", "human": "user"}, {"assistant": "assistant", "gpt": "assistant"})
SHOWN_ROLES = "system, user, human, assistant, gpt, tool, function_call, observation"
ROLE_KEYS, CONTENT_KEYS = ("role", "from"), ("content", "value", "text")  # the first that is there counts
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
WEIGHT_KEYS = ("supervised", "weight", "train", "loss", "loss_scale", "loss_weight", "trainable", "training")
TOOL_KEYS = ("tool_calls", "function_call")
READ_KEYS = frozenset((*ROLE_KEYS, *CONTENT_KEYS, *REASONING_KEYS, *WEIGHT_KEYS, *TOOL_KEYS))
RESULT_KEYS = ("tool_call_id", "name", "id")  # of a result, which comes after the call it belongs to
PLAIN = ({"role", "content"}, {"from", "value"})  # turns of these keys have nothing else to be read
WEIGHTS = {0: False, 1: True, "0": False, "1": True, "false": False, "true": True}

# What is counted, and its message, followed by the count.
UNLEARNED = "answers that are context and not learned (weight 0, train: false, ...)"
CUT_OFF = "turns left out after the last answer that is learned"
THOUGHTS = (
    "answers with a thought (<think>, reasoning_content, ...), which --think keep learns and auto and off leave out"
)
LONE_END = "answers that hold </think> without <think> before it, as ordinary text"
UNOPENED = "answers whose thought ends with </think> and was opened by the prompt"
LATE = "answers with <think> after their start, as ordinary text"
SPELLED = "answers whose text spells calls (<tool_call>), which are read as calls"
OFFERED = "conversations whose system prompt lists tools as a chat template writes them, which are read as tools"
FILLED = "arguments of calls that are null and may not be, left out (a table fills what a call does not have)"
UNREADABLE = "answers with <tool_call> in their text that is no readable call, as ordinary text"
MEDIA_TAGS = "texts with <image>, <img>..., as ordinary text"
IGNORED_KEY = "turns whose {!r} is not read"
TWO_SYSTEMS = "rows with a system column beside a system turn that says something else; the turn's is read"
WEIGHED_QUESTION = "turns by user or system with a weight of 1, though only answers are learned"

RESULTS = re.compile(rf"{RESULT}\n(.*?)\n{RESULT_END}", re.DOTALL)
MEDIA_TAG = re.compile(r"<(?:image|video|audio|img)>")
CHATML_TURN = re.compile(rf"\s*{re.escape(TURN_START)}(\w+)\n(.*?)(?:{re.escape(TURN_END)}|\Z)", re.DOTALL)

# A block that the prompt opened (DeepSeek-R1, Qwen3.5): its end is alone on a line, once.
UNOPENED_THOUGHT = re.compile(rf"((?:(?!{THINK_END}).)*\n){THINK_END}[ \t]*(?:\n|\Z)(?!.*{THINK_END})", re.DOTALL)
CALLING_PARTS = ("tool_call", "tool_use", "function_call")  # types of parts that are calls

Notes = Counter[str]


def make_chat_row(turns: list[Json], system: Json, notes: Notes, tools: Json = None, *, asks: bool = False) -> Row:
    """A conversation: an optional system text, then user and assistant in turn, an assistant's that is learned last.

    tools: what may be called. Between a call and the answer stand the results of what was called. asks: it is to be
    answered, so a question or a result comes last.
    """
    if not system and not tools and (plain := read_plain_turns(turns)):
        return {"id": "", "source": "", "task": "chat", "messages": plain}
    offered, turns = _find_tools(tools, turns, notes)
    messages: list[Turn] = []
    for number, said in enumerate(order_results(turns)):
        for turn in _read_turns(number, said, notes, offered):
            if messages and _continues(messages[-1], turn, said):
                messages[-1] = _join_calls(number, messages[-1], turn)
            else:
                messages.append(turn)
    if system is not None and not isinstance(system, str):
        raise RowError("wrong_type", f"'system' is {name_kind(system)}, expected text")
    if system and (not messages or messages[0]["role"] != "system"):
        messages.insert(0, {"role": "system", "content": system})
    elif system:
        notes[TWO_SYSTEMS] += messages[0]["content"] != system
    if messages and messages[0]["role"] == "system" and is_blank(messages[0]["content"]):
        del messages[0]  # SlimOrca marks "no system prompt" so
    _check_order(messages[1:] if messages and messages[0]["role"] == "system" else messages, asks=asks)
    learned = messages if asks else _end_with_learned(messages, notes)
    row: Row = {"id": "", "source": "", "task": "chat", "messages": learned}
    if offered:
        row["tools"] = offered
    return row


def read_plain_turns(turns: list[Json]) -> list[Turn] | None:
    """The turns if nothing is to be looked for: user and assistant in turn, texts without "<"; or None."""
    messages: list[Turn] = []
    for said in turns:
        if type(said) is not dict or len(said) != 2:
            return None
        word, content = said.get("role") or said.get("from"), said.get("content") or said.get("value")
        role = PLAIN_ROLES[len(messages) % 2].get(word) if type(word) is str else None
        if role is None or type(content) is not str or "<" in content or not content.strip(BLANK):
            return None
        messages.append({"role": role, "content": content})
    return messages if len(messages) % 2 == 0 else None


def _find_tools(tools: Json, turns: list[Json], notes: Notes) -> tuple[list[Tool], list[Json]]:
    """The tools of a row, and its turns: some data have the tools in the system turn, by key or as a template writes
    them."""
    first = turns[0] if turns else None
    if has_tools(tools) or not isinstance(first, dict):
        return (read_tools(drop_nulls(tools)) if has_tools(tools) else []), turns
    if has_tools(first.get("tools")):
        return read_tools(first["tools"]), turns
    said = first.get("content", first.get("value"))
    found = read_system(said) if isinstance(said, str) and "<tools>" in said else None
    if found is None:
        return [], turns
    notes[OFFERED] += 1
    return read_tools(found[1]), [{"role": "system", "content": found[0] or ""}, *turns[1:]]  # type: ignore[arg-type]


def _check_order(exchanged: list[Turn], *, asks: bool) -> None:
    """Raise RowError unless users and assistants take turns, with what tools returned after their calls."""
    if not exchanged:
        raise RowError("empty_text", "the conversation has no turns")
    before, has_called = "", False
    for number, turn in enumerate(exchanged, start=1):
        role = turn["role"]
        allowed = {"": ["user"], "user": ["assistant"], "tool": ["tool", "assistant"]}.get(before)
        allowed = allowed or (["tool"] if has_called else ["user"])
        if role not in allowed:
            expected = " or ".join(map(repr, allowed))
            hint = "; nothing was called before it" if role == "tool" else ""
            raise RowError("wrong_roles", f"turn {number} is {role!r}, expected {expected}{hint}")
        before, has_called = role, bool(turn.get("tool_calls"))
        if is_blank(turn["content"]) and not has_called and role != "tool":
            reason = "empty_answer" if role == "assistant" else "empty_text"
            thought = " but for its thought" if turn.get("reasoning_content") else ""
            raise RowError(reason, f"turn {number} ({role}) is empty{thought}")
    if (before == "assistant") == asks:
        expected = "'user' or 'tool'" if asks else "'assistant'"
        raise RowError("wrong_roles", f"last turn is {before!r}, expected {expected}")


def _continues(before: Turn, turn: Turn, said: Json) -> bool:
    """Whether a turn is a further call of the answer before it: ms-swift writes a turn for each call."""
    role = said.get("role", said.get("from")) if isinstance(said, dict) else None
    return before["role"] == "assistant" and isinstance(role, str) and role.strip().lower() in CALLING_ROLES


def _join_calls(number: int, before: Turn, turn: Turn) -> Turn:
    if before.get("supervised", True) != turn.get("supervised", True) or turn["content"]:
        raise RowError("wrong_weight", f"turn {number + 1} calls as part of the answer before it, and weighs otherwise")
    joined: Turn = {**before, "tool_calls": [*before.get("tool_calls", []), *turn["tool_calls"]]}
    if "reasoning_content" in turn:
        thoughts = [part["reasoning_content"] for part in (before, turn) if "reasoning_content" in part]
        joined["reasoning_content"] = "\n".join(thoughts)
    return joined


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


def _read_turns(number: int, said: Json, notes: Notes, tools: Sequence[Tool]) -> list[Turn]:
    """One turn, or the two of an exchange that is written as one object: {"human": ..., "assistant": ...}."""
    if not isinstance(said, dict):
        raise RowError("wrong_type", f"turn {number + 1} is {name_kind(said)}, expected role and content")
    if said.keys() & {"role", "from"}:
        return [_read_turn(number, turn, notes, tools) for turn in _part_results(said)]
    speakers = {name: ROLES[name] for name in said if name in ROLES}
    if sorted(speakers.values()) != ["assistant", "user"]:
        has = ", ".join(said) or "nothing"
        raise RowError(
            "wrong_roles", f"turn {number + 1} has no 'role' (it has: {has}; other names: `tags` of a datasets.yaml)"
        )
    for key in said.keys() - speakers.keys():
        notes[IGNORED_KEY.format(key)] += 1
    in_turn = sorted(speakers, key=lambda name: speakers[name], reverse=True)  # the user first
    return [_read_turn(number, {"role": name, "content": said[name]}, notes, tools) for name in in_turn]


def _part_results(said: dict[str, Json]) -> list[dict[str, Json]]:
    """A turn, or what tools returned in it as turns of their own: Anthropic has results as parts of a user's turn."""
    parts = said.get("content")
    if not isinstance(parts, list) or not any(_kind_of(part) == "tool_result" for part in parts):
        return [said]
    results: list[dict[str, Json]] = [
        {"role": "tool", "content": part.get("content")}
        for part in parts
        if isinstance(part, dict) and _kind_of(part) == "tool_result"
    ]
    rest = [part for part in parts if _kind_of(part) != "tool_result"]
    return [*results, {**said, "content": rest}] if rest else results


def _content_of(said: dict[str, Json]) -> Json:
    """The content of a turn, under the first of CONTENT_KEYS."""
    return next((said[key] for key in CONTENT_KEYS if key in said), None)


def _kind_of(part: Json) -> str:
    """The kind of a part of a content: "text", "reasoning", "tool_call"."""
    return str(part.get("type", "text")) if isinstance(part, dict) else "text"


def _read_turn(number: int, said: dict[str, Json], notes: Notes, tools: Sequence[Tool]) -> Turn:
    where = f"turn {number + 1}"
    word, is_plain = _read_speaker(where, said), said.keys() in PLAIN
    turn: Turn = {"role": ROLES[word], "content": ""}
    content = _content_of(said)
    if turn["role"] == "tool":
        is_text = isinstance(content, list) and all(
            isinstance(part, dict) and _kind_of(part) == "text" and part.keys() & {"text", "value"} for part in content
        )
        turn["content"] = join_parts(where, content)[0] if is_text else read_result(where, content)  # type: ignore[arg-type]
    elif turn["role"] == "assistant":
        _read_answer(where, word, said, turn, notes, tools)
    else:
        turn["content"], _ = _read_words(where, content)
        count_media(turn["content"], notes)
    if not is_plain:
        _read_other_keys(number, said, turn, notes)
    return turn


def _read_answer(where: str, word: str, said: dict[str, Json], turn: Turn, notes: Notes, tools: Sequence[Tool]) -> None:
    """Put an assistant's text, thought and calls into its turn."""
    content, calls, thought = _content_of(said), said.get("tool_calls"), None
    calls = calls or said.get("function_call")
    if word in CALLING_ROLES and not isinstance(content, str):
        content, calls = "", content
    if isinstance(content, list) and any(_kind_of(part) in CALLING_PARTS for part in content):
        called = [_find_call(part) for part in content if _kind_of(part) in CALLING_PARTS]
        calls = [*calls, *called] if isinstance(calls, list) else called
        content = [part for part in content if _kind_of(part) not in CALLING_PARTS] or None
    text, thought = ("", None) if calls and content is None else _read_words(where, content)
    text, thought = split_thought(where, text, thought or _read_reasoning(where, said), notes)
    if word in CALLING_ROLES and not calls:
        text, calls = "", text
    if calls:
        turn["tool_calls"], num_filled = drop_filled(read_calls(where, calls), tools)
        if num_filled:
            notes[FILLED] += num_filled
    elif CALL in text:
        spelled = read_spelled_calls(text, tools)
        notes[SPELLED if spelled else UNREADABLE] += 1
        if spelled:
            text, turn["tool_calls"] = spelled
    turn["content"] = text
    if thought:
        turn["reasoning_content"] = thought


def _find_call(part: Json) -> Json:
    """The call that a part holds, as LLaMA-Factory writes it (`value`: JSON text) or Anthropic (the part itself)."""
    assert isinstance(part, dict)
    return next((part[key] for key in ("value", *CALLING_PARTS) if part.get(key)), part)


def count_media(text: str, notes: Notes) -> None:
    """Note a question with a placeholder of a picture or sound, as LLaMA-Factory and ms-swift mark it."""
    if "<" in text and MEDIA_TAG.search(text):
        notes[MEDIA_TAGS] += 1


def _read_words(where: str, content: Json) -> tuple[str, str | None]:
    """The text of a turn, and a thought among its parts."""
    if isinstance(content, list):
        return join_parts(where, content)
    if not isinstance(content, str):
        raise RowError("wrong_type", f"{where}: content is {name_kind(content)}, expected text")
    return content, None


def _read_speaker(where: str, said: dict[str, Json]) -> str:
    """The role of a turn, a key of ROLES."""
    said_by = said.get("role", said.get("from"))
    word = said_by.strip().lower() if isinstance(said_by, str) else ""
    if word not in ROLES:
        raise RowError(
            "wrong_roles",
            f"{where} is by {said_by!r}; expected one of: {SHOWN_ROLES} (other words: `tags` of a datasets.yaml)",
        )
    return word


def _read_reasoning(where: str, said: dict[str, Json]) -> str | None:
    for key in REASONING_KEYS:
        thought = said.get(key)
        if thought is not None and not isinstance(thought, str):
            raise RowError("wrong_type", f"{where}: {key} is {name_kind(thought)}, expected text")
        if thought:
            return thought
    return None


def _read_other_keys(number: int, said: dict[str, Json], turn: Turn, notes: Notes) -> None:
    for key, value in said.items():
        if value is None or value == "" or value == [] or (turn["role"] == "tool" and key in RESULT_KEYS):
            continue
        if key in WEIGHT_KEYS:
            is_learned = WEIGHTS.get(value.lower() if isinstance(value, str) else value) if _is_scalar(value) else None
            if is_learned is None:
                raise RowError("wrong_weight", f"turn {number + 1}: {key} is {value!r}; only 0 and 1 are read")
            if turn["role"] != "assistant":
                notes[WEIGHED_QUESTION] += is_learned
            elif not is_learned:
                turn["supervised"] = False
        elif key in TOOL_KEYS and turn["role"] != "assistant":
            raise RowError("wrong_roles", f"turn {number + 1} ({turn['role']}) has {key!r}; only an assistant calls")
        elif key == "tools" and turn["role"] == "system":
            continue
        elif key in CONTENT_KEYS:
            notes[IGNORED_KEY.format(key)] += value != _content_of(said)
        elif key in ROLE_KEYS:
            notes[IGNORED_KEY.format(key)] += ROLES.get(str(value).strip().lower()) != turn["role"]
        elif key not in READ_KEYS or (key in REASONING_KEYS and turn["role"] != "assistant"):
            notes[IGNORED_KEY.format(key)] += 1


def _is_scalar(value: Json) -> bool:
    return isinstance(value, str | int | float)


def join_parts(where: str, parts: list[Json]) -> tuple[str, str | None]:
    """The text of a content that is a list of parts, and its thought: [{"type": "text", "text": "hi"}] -> ("hi", None).

    Parts as written by OpenAI (text) and by LLaMA-Factory (value).
    """
    texts: list[str] = []
    thoughts: list[str] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else "text"
        text = part.get("text", part.get("value", part.get(str(kind)))) if isinstance(part, dict) else part
        if kind in (*CALLING_PARTS, "tool_result", "tools"):
            raise RowError("tools", f"{where} has a part of type {kind!r}, which is not allowed in a turn of this role")
        if kind not in ("text", "reasoning", "thinking"):
            raise RowError("media", f"{where} has a part of type {kind!r}; only text is learned")
        if not isinstance(text, str):
            raise RowError("wrong_type", f"{where}: a part of the content is {name_kind(text)}, expected text")
        (texts if kind == "text" else thoughts).append(text)
    return "".join(texts), "\n".join(thoughts) or None


def split_thought(where: str, answer: str, thought: str | None, notes: Notes) -> tuple[str, str | None]:
    """An answer without its leading <think> block, and the thought, as Qwen3's chat template parses it.

    "<think>\\nhm\\n</think>\\n\\n42" -> ("42", "hm"). Raises RowError for a block that is never closed.
    """
    if THINK_END not in answer and THINK_START not in answer:
        notes[THOUGHTS] += bool(thought)
        return answer, thought
    start = answer.lstrip()
    if not thought and THINK_START not in answer and (unopened := UNOPENED_THOUGHT.match(answer)):
        notes[UNOPENED] += 1
        notes[THOUGHTS] += 1
        return answer[unopened.end() :].lstrip("\n"), unopened[1].strip("\n")
    if not start.startswith(THINK_START):
        notes[LATE if THINK_START in answer else LONE_END] += 1
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
    notes[LATE] += THINK_START in rest
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
        turns += _unfold(found[1], found[2])
        position = found.end()
    if turns and turns[-1] == {"role": "assistant", "content": ""}:
        raise RowError("empty_answer", "the ChatML text ends where the answer would begin")
    return make_chat_row(turns, None, notes)


def _unfold(role: str, content: str) -> list[Json]:
    """A turn as it was before a template wrote it, which puts tool results into a user turn."""
    if role == "user" and content.startswith(RESULT) and content.rstrip().endswith(RESULT_END):
        return [{"role": "tool", "content": result} for result in RESULTS.findall(content)]
    return [{"role": role, "content": content}]
