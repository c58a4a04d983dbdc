"""Talk with a tuned model: it remembers the conversation, and its answers appear as they are written.

Reads the run folder (model, system prompt). Answers go to stdout, everything else to stderr, so it works through a pipe
too. exit, quit or Ctrl-D leaves; Ctrl-C stops an answer, twice leaves; /help lists what else can be typed.

    python chat.py
    python chat.py --model embedded --temperature 0.5
    printf 'hello\nexit\n' | python chat.py
"""

import sys
import time
from typing import TYPE_CHECKING

from prompts import PromptError
from sft.config.decoding import Decoding
from sft.config.layers import load_settings
from sft.config.talk import ChatSettings
from sft.console import LineReader, TerminalFilter, run_command, say
from sft.conversation import COMMANDS, Command, Conversation, fit_prompt, read_line
from sft.errors import UserError
from sft.runs import open_run

if TYPE_CHECKING:
    from sft.models.loaded import LoadedModel


def main(argv: list[str] | None = None) -> None:
    """Parse, load, then question and answer until the user leaves."""
    settings = load_settings(ChatSettings, argv)
    for line in settings.describe():
        say(line)
    run = None if settings.model else open_run(settings.run)
    reader = LineReader("you> ")

    from sft.models.loading import load_base, load_run  # heavy: after --help, and after a run was found

    loaded = load_run(run, allow_mismatch=settings.allow_mismatch) if run else load_base(str(settings.model))
    if reader.is_terminal:
        say("exit, quit or Ctrl-D leaves, Ctrl-C stops an answer, /help lists what else can be typed")
    conversation = Conversation(run.system_prompt if run else None)
    talk(loaded, settings.decoding_of(settings.decoding), conversation, reader)


def talk(loaded: "LoadedModel", decoding: Decoding, conversation: Conversation, reader: LineReader) -> None:
    """Read and answer lines until the input ends or the user leaves."""
    was_interrupted = False
    while True:
        try:
            line = reader.read()
            if line is None:
                return
            was_interrupted = False
            typed = read_line(line)
            if typed == Command("exit"):
                return
            if isinstance(typed, Command):
                obey(typed, conversation)
            elif typed is not None:
                was_interrupted = answer(loaded, decoding, conversation, typed.text)
        except (UserError, PromptError) as error:  # a question that is too long must not end the conversation
            say(f"error: {error}")
        except KeyboardInterrupt:
            say("")  # ends the line that shows ^C
            if was_interrupted:
                raise
            was_interrupted = True
        if was_interrupted and not reader.is_terminal:
            raise KeyboardInterrupt
        if was_interrupted:
            say("(Ctrl-C once more leaves; so do exit and Ctrl-D)")


def answer(loaded: "LoadedModel", decoding: Decoding, conversation: Conversation, question: str) -> bool:
    """Stream the answer to a question and remember it, also a part of it; True where Ctrl-C stopped it."""
    from sft.generation import stream

    seed = decoding.seed + conversation.num_asked  # the same question twice may be answered in two ways
    prompt = fit_prompt(
        loaded.chat,
        conversation.ask(question),
        max_context=loaded.max_context,
        max_new_tokens=decoding.max_new_tokens,
    )
    if prompt.num_cut:
        say(f"(the model reads {loaded.max_context:,} tokens: the oldest {prompt.num_cut:,} were left out)")
    out, text, was_stopped, started = TerminalFilter(sys.stdout), "", False, time.monotonic()
    with stream(loaded, prompt.ids, decoding.model_copy(update={"seed": seed})) as pieces:
        try:
            for piece in pieces:
                out.write(piece)
                text += piece
        except KeyboardInterrupt:
            was_stopped = True
        finally:
            conversation.keep_answer(text)
            out.write("\n")
    num_tokens, duration_s = len(pieces.token_ids), time.monotonic() - started
    ending = ", stopped" if was_stopped else "" if pieces.finished else ", cut off: raise --max_new_tokens for more"
    say(f"({num_tokens} tokens, {num_tokens / duration_s:.1f} tokens/s{ending})")
    return was_stopped


def obey(command: Command, conversation: Conversation) -> None:
    """Do what a line that begins with a slash asks for."""
    if command.name == "clear":
        conversation.clear()
        say("(forgotten)")
    elif command.name == "undo":
        say("(last question forgotten)" if conversation.undo() else "(there is nothing to forget)")
    elif command.name == "help":
        for name, what in COMMANDS.items():
            say(f"{name}  {what}")
    else:
        say(f"/{command.name} is no command; there are {', '.join(COMMANDS)}")


if __name__ == "__main__":
    run_command(main)
