"""The chat session: question and answer until the user leaves, the slash commands, and base beside tuned.

The conversation is kept whatever goes wrong. `compare` shows the untuned model's answer beside the tuned one's
(the adapter switched off, or the base loaded for it); the functions that follow `obey` are what each slash command
does.
"""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import torch
from pydantic import ValidationError

from prompts import Encoded, Message, PromptError, Rules
from prompts.tools import spell_answer
from sft.config.decoding import Decoding
from sft.console import AnswerWriter, has_cursor, make_visible, on_interrupt, quiet_keyboard, say, tell
from sft.console.markdown import show_columns
from sft.console.narration import show_path
from sft.conversation import Conversation, FittedPrompt, fit_prompt
from sft.errors import ConfigError, ModelError, UserError, nearest_name
from sft.generation import TextStream, stream
from sft.models.loaded import LoadedModel
from sft.talk.lines import COMMANDS, Command, describe_commands, read_line
from sft.talk.saved import SavedChats

AUTOSAVE_INTERVAL_S = 2.0  # while an answer is written: the most that a crash loses of it
ERASE_LINE = "\r\x1b[K"
NONE_WORD = "none"


class Reader(Protocol):
    """The source of typed lines; sft.console.LineReader is one."""

    is_terminal: bool

    def read(self) -> str | None:
        """The next line, None at the end; Ctrl-C raises KeyboardInterrupt."""


class Writer(Protocol):
    """The display of an answer: AnswerWriter, or MarkdownWriter."""

    def write(self, piece: str, *, is_thought: bool = False) -> None:
        """Show one more piece."""

    def close(self) -> None:
        """End the answer."""


class Session:
    """One chat: a model, a conversation, and how answers are drawn and shown."""

    def __init__(
        self,
        loaded: LoadedModel,
        conversation: Conversation,
        decoding: Decoding,
        reader: Reader,
        chats: SavedChats,
        *,
        make_writer: Callable[[], Writer] = AnswerWriter,
        head_share: float = 0.5,
        trained_length: int | None = None,
    ) -> None:
        self.loaded, self.conversation, self.decoding = loaded, conversation, decoding
        self.reader, self.chats = reader, chats
        self.last_prompt: FittedPrompt | None = None
        self.saved_as: Path | None = None  # the file that holds the conversation as it is under a name
        self.is_saved = False
        self._make_writer, self._head_share, self._trained_length = make_writer, head_share, trained_length
        self._leaves = False  # Ctrl-C came a second time while an answer was being stopped

    def run(self) -> None:
        """Read and answer lines until the input ends or the user leaves; Ctrl-C twice raises KeyboardInterrupt."""
        self._offer_cut_off()
        try:
            self._read_lines()
        except KeyboardInterrupt:
            self.put_aside()
            raise
        self.put_aside()

    def answer(self, question: str, results: tuple[str, ...] = ()) -> bool:
        """Stream the answer to a question and remember it, also a part of it; True if Ctrl-C stopped it.

        results: of called functions, which are answered instead of a question.
        """
        seed = (
            self.decoding.seed + self.conversation.num_asked
        )  # asking the same question again may give another answer
        messages = self.conversation.ask(question, results)
        self.is_saved = False
        try:
            self.last_prompt = self.fit(messages)
            self.keep()
            return self._stream_answer(self.last_prompt, self.decoding.model_copy(update={"seed": seed}))
        except BaseException:
            self.conversation.keep_answer("")  # a question without answer is taken back; /retry's former answer returns
            raise
        finally:
            self.keep()

    def fit(self, messages: list[Message]) -> FittedPrompt:
        """The prompt of messages; says what had to be left out."""
        limits = Rules(
            max_length=self.loaded.max_context,
            head_share=self._head_share,
            answer_room=self.decoding.max_new_tokens,
        )
        prompt = fit_prompt(self.loaded.chat, messages, limits)
        if prompt.num_cut:
            tell(f"(the model reads {self.loaded.max_context:,} tokens: the oldest {prompt.num_cut:,} were left out)")
        elif self._trained_length and len(prompt.ids) > self._trained_length:
            tell(
                f"(longer now than the {self._trained_length:,} tokens that rows had in training, and that evaluate.py "
                "measured)"
            )
            self._trained_length = None  # said once
        return prompt

    def start(self, prompt: FittedPrompt, decoding: Decoding, loaded: LoadedModel | None = None) -> TextStream:
        """The answer to a prompt, not yet begun, by the session's model or another."""
        return stream(loaded or self.loaded, prompt.ids, decoding, tools=self.conversation.tools)

    def show_again(self, answer: str) -> None:
        """An answer of a conversation that is taken up: at a terminal as it was shown when it was written."""
        if not self.reader.is_terminal:
            tell(f"last answer: {answer}")
            return
        tell("last answer:")
        writer = self._make_writer()
        writer.write(answer)
        writer.close()

    def facts(self) -> dict[str, object]:
        """What the conversation is held with, for its file."""
        return {"model": self.loaded.source.name, "decoding": self.decoding.model_dump()}

    def keep(self) -> None:
        """Write the conversation down as it is now; a disk that is full must not end it."""
        try:
            self.chats.keep(self.conversation, self.facts())
        except OSError as error:
            tell(f"(the conversation could not be written down: {error.strerror})")

    def put_aside(self) -> None:
        """The conversation ends here: if it has no name, /load last finds it."""
        try:
            self.chats.put_aside(self.conversation, self.facts(), is_saved=self.is_saved)
        except OSError as error:
            tell(f"(the conversation could not be written down: {error.strerror})")

    def _offer_cut_off(self) -> None:
        for chat in self.chats.cut_off()[:1]:
            tell(f"a conversation was cut off; /load takes it up: {chat.describe()}")

    def _read_lines(self) -> None:
        was_interrupted = False
        while True:
            try:
                line = self.reader.read()
                if line is None:
                    return
                was_interrupted = False
                typed = read_line(line)
                if typed == Command("exit"):
                    return
                if isinstance(typed, Command):
                    was_interrupted = obey(self, typed)
                elif typed is not None and self.conversation.open_calls:
                    was_interrupted = self._take_result(typed.text)
                elif typed is not None:
                    was_interrupted = self.answer(typed.text)
            except (UserError, PromptError) as error:  # a question that is too long must not end the conversation
                tell(f"error: {error}")
            except KeyboardInterrupt:
                if was_interrupted or self._leaves:
                    raise
                was_interrupted = True
            if was_interrupted and not self.reader.is_terminal:
                raise KeyboardInterrupt
            if was_interrupted:
                tell("(Ctrl-C once more leaves; so do exit and Ctrl-D)")

    def _stream_answer(self, prompt: FittedPrompt, decoding: Decoding) -> bool:
        started = kept_at = time.monotonic()
        with quiet_keyboard(), self.start(prompt, decoding) as pieces, on_interrupt(pieces.stop) as interrupted:
            writer = self._make_writer()
            if self.reader.is_terminal:  # marks where an answer starts
                say("model>")
            try:
                for piece in pieces:
                    writer.write(piece, is_thought=pieces.is_thought)
                    if time.monotonic() - kept_at > AUTOSAVE_INTERVAL_S:
                        self._keep_part(pieces)
                        kept_at = time.monotonic()
            except KeyboardInterrupt:
                self._leaves = interrupted.is_set()
                interrupted.set()
            except torch.OutOfMemoryError:
                raise ModelError("the GPU has no memory left for this answer; /clear, or /set max_new_tokens") from None
            finally:
                message = pieces.message
                calls = message.get("tool_calls", ())
                self.conversation.keep_answer(message["content"], message.get("reasoning_content", ""), calls)
                writer.close()
        num_tokens, duration_s = len(pieces.token_ids), time.monotonic() - started
        stopped = ", stopped" if interrupted.is_set() else ""
        ending = stopped or ("" if pieces.finished else ", cut off: raise it with /set max_new_tokens")
        tokens = "1 token" if num_tokens == 1 else f"{num_tokens} tokens"
        tell(f"({tokens}, {num_tokens / duration_s:.1f} tokens/s{ending})")
        self._tell_calls()
        if self._leaves:
            raise KeyboardInterrupt
        return interrupted.is_set()

    def _take_result(self, result: str) -> bool:
        """Take typed text as the result of a called function; once all results are there, the model continues."""
        results = self.conversation.give_result(result)
        if results:
            return self.answer("\n".join(results), results)
        self._tell_calls()
        return False

    def _tell_calls(self) -> None:
        if calls := self.conversation.open_calls:
            names = ", ".join(call["name"] for call in calls)
            what = "its result" if len(calls) == 1 else f"the result of {calls[0]['name']}"
            tell(f"({names} called: what you type next is {what}; /undo takes the call back)")

    def _keep_part(self, pieces: TextStream) -> None:
        """Write down an answer that is not finished yet, so that a crash costs two seconds of it."""
        part = Conversation.from_messages([*self.conversation.messages(), pieces.message])
        try:
            self.chats.keep(part, self.facts())
        except OSError:
            return  # keep() says it at the end of the answer


def compare(session: Session, argument: str) -> bool:
    """/compare What is LoRA? — alone: the last question. Nothing of it is remembered; True if it was stopped."""
    if not session.loaded.is_tuned:
        tell("(this is the untuned model: there is nothing to compare it with; start chat.py with a run)")
        return False
    asked = Conversation.from_messages(session.conversation.messages())
    question = argument or asked.retry()
    if question is None:
        tell("(there is no question yet; /compare QUESTION asks one)")
        return False
    results = () if argument else asked.open_results
    prompt = session.fit(asked.ask(question, results))
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


def obey(session: Session, command: Command) -> bool:
    """Run a command; True if Ctrl-C stopped it. Raises UserErrors that say what to type instead."""
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
    return session.answer(question, session.conversation.open_results)


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
    say(f"saved: {show_path(path.resolve())}")  # not wrapped: it is there to be copied


def load(session: Session, argument: str) -> None:
    """/load holiday; alone: the interrupted chat, or a list"""
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
        session.show_again(spell_answer(conversation.last.answer, conversation.last.calls))
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
    """{"/undo": "forget the last question"}: what each means is in a column of its own."""
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
