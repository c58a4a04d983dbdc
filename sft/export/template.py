"""The chat template of an exported model: the one it was trained with, and the run's own prompt as its default.

Who serves the weights elsewhere sends only the user's turn; with the plain template the model would then be asked
without the system prompt it was trained with. A system message of the caller's own still wins.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prompts import ChatFormat, Message
from prompts.family import ThinkPolicy

if TYPE_CHECKING:
    from sft.evaluation.rows import EvalRow


def build_template(template: str, system_prompt: str | None, think: ThinkPolicy, *, has_think_block: bool) -> str:
    """The template with the run's system prompt (None: the template's own default) and think policy as defaults.

    A JSON string is a string in Jinja too. All policies but "keep" ask with an empty think block, which Qwen's
    templates call enable_thinking=false.
    """
    lines = ""
    if has_think_block and think != "keep":
        lines += "{%- set enable_thinking = false -%}"
    if system_prompt is not None:
        turn = f"{{'role': 'system', 'content': {json.dumps(system_prompt, ensure_ascii=False)}}}"
        lines += "{%- if messages[0]['role'] != 'system' -%}"
        lines += f"{{%- set messages = [{turn}] + messages -%}}{{%- endif -%}}"
    return lines + template


def count_same_prompts(
    tokenizer: object, chat: ChatFormat, rows: "Sequence[EvalRow]", messages: Sequence[Sequence[Message]]
) -> tuple[int, int]:
    """(rows whose ids by the exported template are the run's, rows compared): (50, 50).

    messages[i] are those of rows[i] without the run's system prompt. Texts that spell a control token are left out:
    the run encodes them as text, a template cannot.
    """
    same = compared = 0
    for row, turns in zip(rows, messages, strict=True):
        text = "".join(turn["content"] for turn in turns)
        if any(token in text for token in chat.encoder.control_tokens) or row.num_cut:
            continue
        plain = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
        ids = tokenizer.apply_chat_template(plain, add_generation_prompt=True, return_dict=False)  # type: ignore[attr-defined]
        compared += 1
        same += list(ids) == row.prompt_ids
    return same, compared
