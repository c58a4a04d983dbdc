"""What the lines that begin with a slash do."""

from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import ValidationError

from prompts import Encoded
from sft.config.decoding import Decoding
from sft.console import make_visible, say, tell
from sft.conversation import Conversation
from sft.errors import ConfigError, nearest_name
from sft.talk.compare import compare
from sft.talk.lines import COMMANDS, Command, describe_commands
from sft.talk.session import Session

NONE_WORD = "none"


def obey(session: Session, command: Command) -> bool:
    """Do what a command asks for; True where Ctrl-C stopped it. Raises UserErrors that say what to type instead."""
    if command.name not in HANDLERS:
        near = nearest_name(command.name, COMMANDS).replace("'", "").replace("mean ", "mean /")
        known = ", ".join(f"/{name}" for name in COMMANDS)
        tell(f"/{command.name} is no command{near or f'; there are {known}'}")
        return False
    return bool(HANDLERS[command.name](session, command.argument))


def show_help(session: Session, argument: str) -> None:
    """/help"""
    _tell_columns(describe_commands())
    if session.reader.is_terminal:
        tell("Enter sends, Alt-Enter begins another line, the arrow keys find earlier lines, Ctrl-C stops an answer")


def set_system(session: Session, argument: str) -> None:
    """/system shows the system prompt, /system TEXT sets it, /system none takes it away."""
    if argument:
        session.conversation.system_prompt = None if argument.lower() == NONE_WORD else argument
        session.is_saved = False
        session.keep()
    prompt = session.conversation.system_prompt
    tell("(no system prompt: the model's template decides)" if prompt is None else f"system prompt: {prompt}")
    if argument and session.loaded.is_tuned:
        tell("(the run was trained with the system prompt it came with; another one may cost quality)")


def clear(session: Session, argument: str) -> None:
    """/clear"""
    is_kept = session.conversation.num_exchanges > 0 and not session.is_saved
    session.put_aside()
    session.conversation.clear()
    session.is_saved, session.saved_as = False, None
    tell("(forgotten; /load last brings it back)" if is_kept else "(forgotten)")


def undo(session: Session, argument: str) -> None:
    """/undo"""
    if not session.conversation.undo():
        tell("(there is nothing to forget)")
        return
    session.is_saved = False
    session.keep()
    tell("(last question forgotten)")


def retry(session: Session, argument: str) -> bool:
    """/retry"""
    question = session.conversation.retry()
    if question is None:
        tell("(there is no question to ask again)")
        return False
    tell(f"(asked again: {question})")
    return session.answer(question)


def set_value(session: Session, argument: str) -> None:
    """/set temperature 0.7"""
    name, _, value = argument.replace("=", " ").partition(" ")
    if not name or not value.strip():
        raise ConfigError(f"/set takes a name and a value, as in /set temperature 0.7; names: {', '.join(_names())}")
    if name not in _names():
        near = nearest_name(name, _names()) or f"; names: {', '.join(_names())}"
        raise ConfigError(f"{name!r} is nothing to set{near}")
    try:
        session.decoding = Decoding.model_validate({**session.decoding.model_dump(), name: value.strip()})
    except ValidationError as error:
        raise ConfigError(f"{name} {value.strip()}: {error.errors()[0]['msg'].removeprefix('Input ')}") from None
    tell(f"({name} = {getattr(session.decoding, name)})")


def show_params(session: Session, argument: str) -> None:
    """/params"""
    fields = Decoding.model_fields.items()
    _tell_columns({f"{name} = {getattr(session.decoding, name)}": field.description or "" for name, field in fields})
    tuned = ", tuned" if session.loaded.is_tuned else ", untuned"
    tell(f"model {session.loaded.source.name}{tuned}, {session.loaded.precision}")
    used = (
        f"the last prompt took {len(session.last_prompt.ids):,} of them" if session.last_prompt else "none in use yet"
    )
    tell(f"the model reads {session.loaded.max_context:,} tokens; {used}")


def save(session: Session, argument: str) -> None:
    """/save holiday"""
    if not session.conversation.num_exchanges:
        tell("(there is nothing to save yet)")
        return
    path = session.chats.save(argument, session.conversation, session.facts(), own=session.saved_as)
    session.saved_as, session.is_saved = path, True
    say(f"saved: {path}")  # not wrapped: it is there to be copied


def load(session: Session, argument: str) -> None:
    """/load holiday; alone: what was cut off, or a list"""
    path = _path_to_load(session, argument)
    if path is None:
        return
    conversation = session.chats.load(path)
    session.put_aside()
    _replace(session, conversation)
    session.chats.take_up(path, conversation, session.facts())
    is_named = path != session.chats.path_of("last") and not path.stem.startswith("unsaved-")
    session.saved_as, session.is_saved = (path, True) if is_named else (None, False)
    questions = "1 question" if conversation.num_exchanges == 1 else f"{conversation.num_exchanges} questions"
    tell(f"(taken up: {questions} and answers)")
    if conversation.last is not None:
        tell(f"last question: {conversation.last.question}")
        session.show_again(conversation.last.answer)
    if conversation.open_question is not None:
        tell(f"without an answer yet, /retry asks it again: {conversation.open_question}")


def show_tokens(session: Session, argument: str) -> None:
    """/tokens: the last prompt as the model got it, to stdout"""
    if session.last_prompt is None:
        tell("(nothing was asked yet)")
        return
    chat, ids = session.loaded.chat, session.last_prompt.ids
    pieces = chat.show(Encoded(ids, [0] * len(ids)))
    print(make_visible("".join(f"⟦{piece.text}⟧" if piece.is_control else piece.text for piece in pieces)), flush=True)
    num_control = sum(piece.is_control for piece in pieces)
    tell(
        f"({len(ids):,} tokens, {num_control} of them control tokens, shown as ⟦…⟧; "
        f"{session.last_prompt.num_cut:,} left out)"
    )


def _tell_columns(lines: Mapping[str, str]) -> None:
    """{"/undo": "forget the last question"}: what each means stands in a column of its own."""
    width = max(map(len, lines)) + 2
    for left, right in lines.items():
        tell(f"{left:{width}}{right}", indent=width)


def _replace(session: Session, conversation: Conversation) -> None:
    trained_with = session.conversation.system_prompt
    session.conversation = conversation
    if conversation.system_prompt != trained_with:
        tell("(the saved conversation brings its own system prompt; /system shows it)")


def _path_to_load(session: Session, argument: str) -> Path | None:
    if argument:
        return session.chats.path_of(argument)
    if cut_off := session.chats.cut_off():
        return cut_off[0].path
    chats = session.chats.find_all()
    for chat in chats:
        tell(chat.describe())
    tell("/load NAME takes one up" if chats else "(no conversation is saved yet)")
    return None


def _names() -> list[str]:
    return list(Decoding.model_fields)


HANDLERS: dict[str, Callable[[Session, str], bool | None]] = {
    "help": show_help,
    "system": set_system,
    "clear": clear,
    "undo": undo,
    "retry": retry,
    "set": set_value,
    "params": show_params,
    "save": save,
    "load": load,
    "compare": compare,
    "tokens": show_tokens,
}
