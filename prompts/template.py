"""Reads a family off its chat template by trying it on small probe conversations.

The template is rendered in the same sandbox as transformers renders it, in a process with limits (prompts.sandbox). So
any template that behaves like ChatML is accepted, whatever its text, and any other is refused with what is missing.

    read_family(tokenizer.chat_template) -> Family(default_system="You are Qwen, ...", think_block="none", ...)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from prompts.errors import PromptError
from prompts.family import THINK_END, THINK_START, TURN_END, TURN_START, Family
from prompts.layout import lay_out
from prompts.messages import Message
from prompts.sandbox import Rendering, TemplateFailure, render_apart

EMPTY_THINK_BLOCK = f"{THINK_START}\n\n{THINK_END}\n\n"


def read_family(template: str | None, special_tokens: Mapping[str, str] | None = None) -> Family:
    """The family of a chat template (Jinja text, as in tokenizer.chat_template).

    special_tokens are what a template may call by name: {"bos_token": "<s>"}. Raises PromptError, naming the first
    thing that is not ChatML.
    """
    if not isinstance(template, str) or not template.strip():
        raise PromptError(
            "the tokenizer has no chat template; use an instruct model or a tokenizer with a ChatML template"
        )

    return _read_family(template, tuple(sorted((special_tokens or {}).items())))


@functools.lru_cache(maxsize=8)  # a process is started for each
def _read_family(template: str, special_tokens: tuple[tuple[str, str], ...]) -> Family:
    question: Message = {"role": "user", "content": "probe question"}
    answer: Message = {"role": "assistant", "content": "probe answer"}
    system: Message = {"role": "system", "content": "probe system"}

    twice_asked = [question, answer] * 2
    conversations = [[question, answer], [system, question, answer, question, answer], [question, answer] * 3]
    prompts = [[question], [system, question], [question, answer, question]]
    probes = [Rendering(messages) for messages in (*conversations, twice_asked)]
    probes += [Rendering([question], {"add_generation_prompt": True})]
    probes += [Rendering(messages, {"add_generation_prompt": True, "enable_thinking": False}) for messages in prompts]
    once, *rest = _render_all(template, probes, dict(special_tokens))
    with_system, thrice, twice, may_think, *rendered_prompts = rest

    block_and_answer = f"{TURN_START}assistant\n{EMPTY_THINK_BLOCK}{answer['content']}"
    family = Family(
        default_system=_read_default_system(once),
        think_block=("none", "last", "every")[twice.count(block_and_answer)],
        opens_block=may_think.partition(f"{TURN_START}assistant\n")[2] != "",
        ends_with_newline=once.endswith("\n"),
    )
    for messages, rendered in zip(conversations, (once, with_system, thrice), strict=True):
        _compare("a conversation", rendered, _write(family, messages))
    for messages, rendered in zip(prompts, rendered_prompts, strict=True):
        _compare("a prompt", rendered, _write(family, messages))
    return family


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


def _write(family: Family, messages: list[Message]) -> str:
    """What the template must have written, if the family describes it fully."""
    return "".join(piece.text for piece in lay_out(family, "auto", messages))


def _compare(what: str, rendered: str, expected: str) -> None:
    if rendered == expected:
        return
    place = next((i for i, (a, b) in enumerate(zip(rendered, expected, strict=False)) if a != b), None)
    place = min(len(rendered), len(expected)) if place is None else place
    raise PromptError(
        f"the chat template is not ChatML as this project knows it: in {what}, after {rendered[:place][-30:]!r} "
        f"it writes {rendered[place:][:40]!r} where {expected[place:][:40]!r} was expected; "
        "use a model of the Qwen2.5, Qwen3 or another ChatML family"
    )


def _render_all(
    template: str, renderings: list[Rendering], special_tokens: Mapping[str, str] | None = None
) -> list[str]:
    try:
        return render_apart(template, renderings, special_tokens)
    except TemplateFailure as failure:
        raise PromptError(f"the chat template {failure}") from None
