"""Reads a family off its chat template by trying it on small probe conversations.

The template is rendered in the same sandbox as transformers renders it, in a process with limits (prompts.sandbox). So
any template that behaves like ChatML is accepted, however it is written; any other is refused with what is missing.

    read_family(tokenizer.chat_template) -> Family(default_system="You are Qwen, ...", think_block="none", ...)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace

from prompts.errors import PromptError
from prompts.family import THINK_END, THINK_START, TURN_END, TURN_START, Family, ThinkBlock, ThinkPolicy
from prompts.layout import lay_out
from prompts.messages import Message, Tool
from prompts.sandbox import Rendering, TemplateFailure, render_apart
from prompts.tools import TOOL_FORMS, to_openai

HEADER_TEXT = f"{TURN_START}assistant\n"
EMPTY_THINK_BLOCK = f"{THINK_START}\n\n{THINK_END}\n\n"
QUESTION: Message = {"role": "user", "content": "probe question"}
ANSWER: Message = {"role": "assistant", "content": "probe answer"}
SYSTEM: Message = {"role": "system", "content": "probe system"}
THOUGHT: Message = {**ANSWER, "reasoning_content": "probe thought"}
PLAIN = [QUESTION, ANSWER]
BRIEF: dict[str, object] = {"enable_thinking": False}
THINKING: dict[str, object] = {"enable_thinking": True}
ASKS: dict[str, object] = {"add_generation_prompt": True}
TOOLS: list[Tool] = [
    {
        "type": "function",
        "function": {
            "name": "probe_function",
            "description": "Says 'a' & <b>. 说明",
            "parameters": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
        },
    },
    {"type": "function", "function": {"name": "other", "parameters": {}}},
]


def _make_tool_probes() -> list[list[Message]]:
    """Conversations that show how a template writes tools: arguments of all types, several calls, calls beside text."""
    values = ["two\nlines", 3, 0.5, True, None, [1, "值"], {"k": True}]
    arguments: dict[str, object] = {f"argument_{number}": value for number, value in enumerate(values)}
    two_calls: Message = {
        "role": "assistant",
        "content": "probe text",
        "tool_calls": [{"name": "probe_function", "arguments": arguments}, {"name": "other", "arguments": {}}],
    }
    call: Message = {"role": "assistant", "content": "", "tool_calls": [{"name": "other", "arguments": {"a": "b"}}]}
    result: Message = {"role": "tool", "content": "probe result"}
    tools: Message = {"role": "tools", "content": "", "tools": TOOLS}
    both = [SYSTEM, tools, QUESTION, two_calls, result, result, ANSWER, QUESTION, call, result, ANSWER]
    alone = [tools, QUESTION, call, result, call, result, ANSWER]
    return [both, both[:-1], both[:-3], alone, alone[:3]]


TOOL_PROBES = _make_tool_probes()


def read_family(template: str | None, special_tokens: Mapping[str, str] | None = None) -> Family:
    """The family of a chat template (Jinja text, as in tokenizer.chat_template).

    special_tokens are names that a template may use: {"bos_token": "<s>"}. Raises PromptError, naming the first
    thing that is not ChatML.
    """
    if not isinstance(template, str) or not template.strip():
        raise PromptError(
            "the tokenizer has no chat template; use an instruct model or a tokenizer with a ChatML template"
        )

    return _read_family(template, tuple(sorted((special_tokens or {}).items())))


@functools.lru_cache(maxsize=8)  # a process is started for each
def _read_family(template: str, special_tokens: tuple[tuple[str, str], ...]) -> Family:
    once, twice, thrice = PLAIN, PLAIN * 2, PLAIN * 3
    conversations = [once, [SYSTEM, *twice], thrice]
    prompts = [once[:1], [SYSTEM, *once[:1]], thrice[:3]]
    thoughts = [[SYSTEM, QUESTION, THOUGHT], [SYSTEM, QUESTION]]  # of a model that thinks
    spaced = [{"role": turn["role"], "content": f"  {turn['content']} "} for turn in [SYSTEM, *once]]
    probes = {
        "conversations": [Rendering(messages, BRIEF) for messages in conversations],
        "prompts": [Rendering(messages, BRIEF | ASKS) for messages in prompts],
        "thoughts": [Rendering(thoughts[0], THINKING), Rendering(thoughts[1], THINKING | ASKS)],
        "others": [Rendering(twice, BRIEF), Rendering(spaced, BRIEF), Rendering(twice, BRIEF | {"tools": TOOLS}, True)],
        "tools": [_ask_with_tools(messages) for messages in TOOL_PROBES],
    }
    rendered = iter(
        _render_all(template, [probe for group in probes.values() for probe in group], dict(special_tokens))
    )
    texts = {name: [next(rendered) for _ in group] for name, group in probes.items()}
    twice_text, spaced_text, offered_text = texts["others"]
    plain_text, asking_text = str(texts["conversations"][0]), str(texts["thoughts"][1])

    family = Family(
        default_system=_read_default_system(plain_text),
        think_block=("none", "last", "every")[
            str(twice_text).count(f"{HEADER_TEXT}{EMPTY_THINK_BLOCK}{ANSWER['content']}")
        ],
        opens_block=asking_text.rpartition(HEADER_TEXT)[2].startswith(THINK_START),
        ends_with_newline=plain_text.endswith("\n"),
        trims=not any(turn["content"] in str(spaced_text) for turn in spaced),
    )
    for messages, text in zip(conversations, texts["conversations"], strict=True):
        _compare("a conversation", str(text), _write(family, messages))
    for messages, text in zip(prompts, texts["prompts"], strict=True):
        _compare("a prompt", str(text), _write(family, messages))
    if family.has_think_block and texts["thoughts"] != [_write(family, messages, "keep") for messages in thoughts]:
        family = replace(family, writes_thoughts=False)
    # A template that says nothing of the tools it is given knows none: any form can be learned, so the commonest.
    return family if offered_text == twice_text else _read_tool_form(family, texts["tools"])


def _read_tool_form(family: Family, with_tools: Sequence[str | None]) -> Family:
    """The family with the tool format that matches the template on every probe, or with the difference found."""
    blocks: tuple[ThinkBlock, ...] = ("last", "recent") if family.think_block == "last" else (family.think_block,)
    candidates = [replace(family, tool_form=form, think_block=block) for form in TOOL_FORMS for block in blocks]
    nearest = (-1, "it cannot render tools and calls")
    for candidate in candidates:
        written = [_write(candidate, messages) for messages in TOOL_PROBES]
        if written == with_tools:
            return candidate
        for expected, text in zip(written, with_tools, strict=True):
            if text is not None and text != expected:
                nearest = max(nearest, _name_difference("tools and calls", text, expected))
    problem = f"the chat template has a form of tools not known here: {nearest[1]}"
    return replace(family, tool_form=None, tool_problem=f"{problem}; leave rows with tools out, or use another model")


def _ask_with_tools(messages: Sequence[Message]) -> Rendering:
    """A probe as transformers passes it to a template; with a generation prompt if it ends with a question."""
    asks = messages[-1]["role"] != "assistant"
    return Rendering(to_openai(messages)[0], {"tools": TOOLS, **BRIEF, **(ASKS if asks else {})}, may_fail=True)


def _read_default_system(plain: str) -> str | None:
    """'<|im_start|>system\\nBe kind.<|im_end|>\\n<|im_start|>user...' -> 'Be kind.'; None if the user comes first."""
    head, found, _ = plain.partition(f"{TURN_START}user\n")
    if not found:
        raise PromptError(f"the chat template is not ChatML: it writes no '{TURN_START}user' turn but {plain[:60]!r}")
    if not head:
        return None
    opening, closing = f"{TURN_START}system\n", f"{TURN_END}\n"
    if not (head.startswith(opening) and head.endswith(closing)):
        raise PromptError(
            f"the chat template is not ChatML: it begins with {head[:60]!r}, expected a system turn or none"
        )
    return head[len(opening) : -len(closing)]


def _write(family: Family, messages: Sequence[Message], think: ThinkPolicy = "auto") -> str:
    """What the template must have written, if the family describes it fully."""
    return "".join(piece.text for piece in lay_out(family, think, messages))


def _compare(what: str, rendered: str, expected: str) -> None:
    if rendered != expected:
        difference = _name_difference(what, rendered, expected)[1]
        raise PromptError(
            f"the chat template is not ChatML as this project knows it: {difference}; "
            "use a model of the Qwen2.5, Qwen3 or another ChatML family"
        )


def _name_difference(what: str, rendered: str, expected: str) -> tuple[int, str]:
    """The first difference of two texts: (31, "in a prompt, after 'm_end|>' it writes 'x' where 'y' was expected")."""
    place = next((i for i, (a, b) in enumerate(zip(rendered, expected, strict=False)) if a != b), None)
    place = min(len(rendered), len(expected)) if place is None else place
    return place, (
        f"in {what}, after {rendered[:place][-30:]!r} it writes {rendered[place:][:40]!r} where "
        f"{expected[place:][:40]!r} was expected"
    )


def _render_all(
    template: str, renderings: list[Rendering], special_tokens: Mapping[str, str] | None = None
) -> list[str | None]:
    try:
        return render_apart(template, renderings, special_tokens)
    except TemplateFailure as failure:
        raise PromptError(f"the chat template {failure}") from None
