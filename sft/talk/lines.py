"""Parses a typed line: a question for the model, or a command for the chat. Pure.

read_line("What is LoRA?")              # Question("What is LoRA?")
read_line("/set temperature 0.7")       # Command("set", "temperature 0.7")
"""

import re
from dataclasses import dataclass

from sft.conversation import LEAVING
from sft.errors import nearest_name

COMMANDS = {
    "help": ("", "what can be typed"),
    "system": ("[TEXT]", "show the system prompt, or set another; /system none leaves it to the model's template"),
    "clear": ("", "forget the conversation; /load last brings it back"),
    "undo": ("", "forget the last question and its answer"),
    "retry": ("", "ask the last question again"),
    "set": ("NAME VALUE", "change how answers are drawn: /set temperature 0.7"),
    "params": ("", "what the answers are drawn with, and how full the model's context is"),
    "save": ("[NAME]", "save the conversation; the file is a row that train.py --data takes"),
    "load": ("[NAME]", "take up a saved conversation; alone: the one that was cut off, or a list"),
    "compare": (
        "[QUESTION]",
        "the untuned model's answer next to the tuned one's; without a question: to the last one",
    ),
    "tokens": ("", "what the model really saw, control tokens included"),
    "exit": ("", "leave; so do exit, quit and Ctrl-D"),
}
SHAPE = re.compile(r"/([A-Za-z]+)(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True)
class Question:
    """A line that is for the model, blanks around it left out."""

    text: str


@dataclass(frozen=True)
class Command:
    """A line that is for the chat itself: Command("set", "top_p 0.9"). An unknown one has its name: Command("udno")."""

    name: str
    argument: str = ""


def read_line(line: str) -> Question | Command | None:
    """What a typed line is: a question, a command, or nothing at all (None, a blank line).

    Commands start with a slash; `exit` and `quit` need none. "/etc/hosts: what is it?" is a question, and so is
    "/usr holds what?": with more after it, a word is a command only if it is one, or nearly.
    """
    text = line.strip()
    if not text:
        return None
    if text.lower() in LEAVING:
        return Command("exit")
    shape = SHAPE.fullmatch(text)
    if shape is None:
        return Question(text)
    name, argument = shape.group(1).lower(), (shape.group(2) or "").strip()
    if argument and name not in COMMANDS and not nearest_name(name, COMMANDS):
        return Question(text)
    return Command(name, argument)


def describe_commands() -> dict[str, str]:
    """{"/undo": "forget the last question and its answer", ...}, in the order of /help."""
    return {f"/{name} {argument}".rstrip(): what for name, (argument, what) in COMMANDS.items()}
