"""The run's prompt in an exported model: the chat template it was trained with, and Ollama's Modelfile.

Whoever serves the weights elsewhere sends only the user's turn; with the plain template the model would then be asked
without the system prompt it was trained with. So that prompt becomes the default; a caller's own system message wins.

    ollama create demo -f outputs/demo/export/gguf/Modelfile
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prompts import ChatFormat, Message
from prompts.family import TURN_END, TURN_START, ThinkPolicy
from prompts.layout import HEADER, lay_out
from prompts.tools import to_openai
from sft.config.decoding import DECODING

if TYPE_CHECKING:
    from sft.evaluation.rows import EvalRow

MODELFILE = "Modelfile"

# Ollama's templates are Go's. It puts SYSTEM before the messages where the caller sends no system message.
TURNS = "{{- range .Messages }}" + TURN_START + "{{ .Role }}\n{{ .Content }}" + TURN_END + "\n{{ end }}"


def build_template(template: str, system_prompt: str | None, think: ThinkPolicy, *, has_think_block: bool) -> str:
    """The template with the run's system prompt (None: the template's own default) and think policy as defaults.

    A JSON string is a string in Jinja too. All policies but "keep" ask with an empty think block, which Qwen's
    templates call enable_thinking=false; some of them (Qwen3.5's small ones) must be told where it is true, too.
    """
    lines = ""
    if has_think_block:
        lines += f"{{%- set enable_thinking = {'true' if think == 'keep' else 'false'} -%}}"
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
    the run encodes them as text, a template cannot. So are documents, which are in no template.
    """
    same = compared = 0
    for row, turns in zip(rows, messages, strict=True):
        text = json.dumps([dict(turn) for turn in turns], ensure_ascii=False)
        if any(token in text for token in chat.encoder.control_tokens) or row.num_cut or row.is_document:
            continue
        told, tools = to_openai(turns)
        ids = tokenizer.apply_chat_template(told, tools=tools, add_generation_prompt=True, return_dict=False)  # type: ignore[attr-defined]
        compared += 1
        same += list(ids) == row.prompt_ids
    return same, compared


def build_modelfile(weights: str, system_prompt: str | None, chat: ChatFormat) -> str:
    """The text of a Modelfile next to the file `weights`; it builds the run's prompt."""
    system = system_prompt if system_prompt is not None else chat.family.default_system
    asked = lay_out(chat.family, chat.think, [{"role": "user", "content": ""}])
    place = max(index for index, piece in enumerate(asked) if piece == HEADER[0])
    header = "".join(piece.text for piece in asked[place:])  # with the empty think block, if it was trained with one
    decoding = DECODING["chat"]
    lines = [
        f"FROM ./{weights}",
        f'TEMPLATE """{TURNS}{header}"""',
        *([f"SYSTEM {_quote(system)}"] if system else []),
        f'PARAMETER stop "{TURN_END}"',
        f"PARAMETER temperature {decoding.temperature}",
        f"PARAMETER top_p {decoding.top_p}",
        f"PARAMETER num_predict {decoding.max_new_tokens}",
        # Ollama's own 1.1 counts the question and the template too, and spoils JSON and tables; ours sees answers only.
        "PARAMETER repeat_penalty 1",
    ]
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    """Three quotes keep line breaks; a text that holds three itself cannot be in a Modelfile as it is."""
    return '"""' + text.replace('"""', "'''") + '"""'
