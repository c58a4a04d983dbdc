"""Ollama's Modelfile: the weights, the run's prompt, ChatML and how to decode.

ollama create demo -f outputs/demo/export/gguf/Modelfile
"""

from prompts import ChatFormat
from prompts.family import TURN_END, TURN_START
from prompts.layout import HEADER, lay_out
from sft.config.decoding import DECODING

MODELFILE = "Modelfile"
# Ollama's templates are Go's. It puts SYSTEM before the messages where the caller sends no system message.
TURNS = "{{- range .Messages }}" + TURN_START + "{{ .Role }}\n{{ .Content }}" + TURN_END + "\n{{ end }}"


def build_modelfile(weights: str, system_prompt: str | None, chat: ChatFormat) -> str:
    """The text of a Modelfile beside the file `weights`; the prompt it builds is the run's."""
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
    ]
    return "\n".join(lines) + "\n"


def _quote(text: str) -> str:
    """Three quotes keep line breaks; a text that holds three itself cannot stand in a Modelfile as it is."""
    return '"""' + text.replace('"""', "'''") + '"""'
