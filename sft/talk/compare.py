"""The untuned model's answer beside the tuned one's: the adapter switched off, or the base loaded for it."""

import sys

from sft.console import has_cursor, make_visible, on_interrupt, quiet_keyboard, tell
from sft.console.columns import show_columns
from sft.conversation import Conversation, FittedPrompt
from sft.models.loaded import LoadedModel
from sft.talk.session import Session

ERASE_LINE = "\r\x1b[K"


def compare(session: Session, argument: str) -> bool:
    """/compare What is LoRA? — alone: the last question. Nothing of it is remembered; True where it was stopped."""
    if not session.loaded.is_tuned:
        tell("(this is the untuned model: there is nothing to compare it with; start chat.py with a run)")
        return False
    asked = Conversation.from_messages(session.conversation.messages())
    question = argument or asked.retry()
    if question is None:
        tell("(there is no question yet; /compare QUESTION asks one)")
        return False
    prompt = session.fit(asked.ask(question))
    is_drawn = session.reader.is_terminal and has_cursor()
    with quiet_keyboard():
        with session.loaded.adapter_off() as untuned:
            base, is_stopped = _answer(session, untuned, prompt, "base", is_drawn)
        tuned = ""
        if not is_stopped:
            tuned, is_stopped = _answer(session, session.loaded, prompt, "tuned", is_drawn)
    if is_drawn:
        show_columns(sys.stdout, [("base", base), ("tuned", tuned)])
    else:
        print(make_visible(f"base: {base}\ntuned: {tuned}"), flush=True)
    tell("(asked for this comparison only, not remembered)")
    return is_stopped


def _answer(session: Session, loaded: LoadedModel, prompt: FittedPrompt, name: str, is_drawn: bool) -> tuple[str, bool]:
    """One model's answer, and whether it was stopped; drawn alike for both: same seed, same values."""
    with session.start(prompt, session.decoding, loaded) as pieces, on_interrupt(pieces.stop) as interrupted:
        for _ in pieces:
            if is_drawn:
                sys.stderr.write(f"{ERASE_LINE}({name}: {len(pieces.token_ids)} tokens)")
                sys.stderr.flush()
        if is_drawn:
            sys.stderr.write(ERASE_LINE)
            sys.stderr.flush()
        return pieces.message["content"], interrupted.is_set()
