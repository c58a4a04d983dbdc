"""Talk with a tuned model: it remembers the conversation, and its answers appear as they are written.

Reads the run folder (model, system prompt). Answers go to stdout, everything else to stderr, so it works through a pipe
too. exit, quit or Ctrl-D leaves; Ctrl-C stops an answer, twice leaves; /help lists what else can be typed. What is said
is kept in outputs/chats as it is said: after a crash, /load takes it up.

    python chat.py
    python chat.py --model embedded --temperature 0.5
    printf 'hello\nexit\n' | python chat.py
"""

import sys
from typing import TYPE_CHECKING

from sft.config.layers import load_settings
from sft.config.talk import OR_UNTUNED, ChatSettings
from sft.console import AnswerWriter, LineReader, has_cursor, run_command, say
from sft.conversation import Conversation
from sft.data.rows.tools import load_tools
from sft.runs.system_prompts import tell_differing

if TYPE_CHECKING:
    from sft.console.markdown import MarkdownWriter


def main(argv: list[str] | None = None) -> None:
    """Parse, load, then question and answer until the user leaves."""
    settings = load_settings(ChatSettings, argv)
    from sft.models.adopted import open_tuned

    run = None if settings.is_untuned else open_tuned(settings, or_else=OR_UNTUNED)
    if run:
        run.check_writes("chat.py")
        tell_differing(run, "/system TEXT sets another")
    settings.announce()

    from sft.models.loading import load_base, load_run  # heavy: after --help, and after a run was found
    from sft.talk.saved import SavedChats
    from sft.talk.session import Session

    trained = run.train_settings() if run else None
    chats = SavedChats(settings.chats_dir)
    reader = LineReader("you> ", history=chats.history_file)
    trusted = settings.trust_remote_code
    if run:
        loaded = load_run(run, allow_mismatch=settings.allow_mismatch, trust_remote_code=trusted)
    else:
        loaded = load_base(str(settings.model), trust_remote_code=trusted)
    if reader.is_terminal:
        say("exit or Ctrl-D leaves, Ctrl-C stops an answer, /help lists the rest")
    session = Session(
        loaded,
        Conversation(run.system_prompt if run else settings.system_prompt, load_tools(settings.tools)),
        settings.choose_decoding(),
        reader,
        chats,
        make_writer=make_markdown_writer if settings.markdown and reader.is_terminal and has_cursor() else AnswerWriter,
        head_share=trained.head_share if trained else 0.5,
        trained_length=trained.max_seq_length if trained else None,
    )
    session.run()


def make_markdown_writer() -> "MarkdownWriter":
    """What draws an answer in a terminal."""
    from sft.console.markdown import MarkdownWriter

    return MarkdownWriter(sys.stdout)


if __name__ == "__main__":
    run_command(main)
