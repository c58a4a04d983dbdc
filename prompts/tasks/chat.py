"""Conversations as they are: {"messages": [{"role", "content"}, ...]}, the last turn an assistant's.

In a row with `tools`, an assistant's turn may call them (`tool_calls`) and a turn of the role `tool` has the result.
"""

from prompts.errors import PromptError
from prompts.messages import Message, ToolCall
from prompts.task import Row, Task, text_of
from prompts.tasks.instruct import read_answer
from prompts.tools import spell_answer


def read_turns(row: Row) -> list[Message]:
    """The row's messages without a leading system message, which conversation_of puts in front."""
    turns = row.get("messages")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise PromptError("'messages' is no list of {role, content}; fix the row")
    messages: list[Message] = []
    for turn in turns:
        message: Message = {"role": text_of(turn, "role"), "content": text_of(turn, "content")}
        if turn.get("reasoning_content"):
            message["reasoning_content"] = text_of(turn, "reasoning_content")
        if turn.get("supervised") is False:
            message["supervised"] = False
        if turn.get("tool_calls"):
            message["tool_calls"] = [_read_call(call) for call in turn["tool_calls"]]
        messages.append(message)
    return messages[1:] if messages and messages[0]["role"] == "system" else messages


def _read_call(call: object) -> ToolCall:
    name, arguments = (call.get("name"), call.get("arguments")) if isinstance(call, dict) else (None, None)
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise PromptError("a call in 'messages' is no {name, arguments}; fix the row")
    return {"name": name, "arguments": arguments}


def build_prompt(row: Row) -> list[Message]:
    """The turns up to the last one before an answer: a user's, or a tool's result."""
    turns = read_turns(row)
    return turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns


def write_answer(row: Row) -> str:
    """The last answer with its calls spelled out. Raises PromptError if the last turn is not the assistant's."""
    turns = read_turns(row)
    if not turns or turns[-1]["role"] != "assistant":
        raise PromptError("the last turn of 'messages' is not the assistant's; fix the row")
    return spell_answer(turns[-1]["content"], turns[-1].get("tool_calls", ()))


TASK = Task(
    name="chat",
    kind="text",
    prompt_fields=("messages",),
    answer_fields=(),
    optional_fields=("tools",),
    example={
        "messages": [
            {"role": "user", "content": "你好"},
            {"role": "assistant", "content": "你好！有什么可以帮你？"},
            {"role": "user", "content": "What is LoRA?"},
            {"role": "assistant", "content": "A way to fine-tune with few weights."},
        ]
    },
    build_prompt=build_prompt,
    write_answer=write_answer,
    read_answer=read_answer,
)
