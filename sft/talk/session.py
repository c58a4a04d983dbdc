"""Question and answer until the user leaves; whatever goes wrong in between, what was said is kept."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch

from prompts import Message, PromptError
from sft.config.decoding import Decoding
from sft.console import AnswerWriter, on_interrupt, quiet_keyboard, tell
from sft.conversation import Conversation, FittedPrompt, PromptLimits, fit_prompt
from sft.errors import ModelError, UserError
from sft.generation import TextStream, stream
from sft.models.loaded import LoadedModel
from sft.talk.lines import Command, read_line
from sft.talk.saved import SavedChats

AUTOSAVE_INTERVAL_S = 2.0  # while an answer is written: what a crash may cost of it


class Reader(Protocol):
    """What the session reads from; sft.console.LineReader is one."""

    is_terminal: bool

    def read(self) -> str | None:
        """The next line, None at the end; Ctrl-C raises KeyboardInterrupt."""


class Writer(Protocol):
    """What shows an answer: AnswerWriter, or MarkdownWriter."""

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

    def answer(self, question: str) -> bool:
        """Stream the answer to a question and remember it, also a part of it; True where Ctrl-C stopped it."""
        seed = self.decoding.seed + self.conversation.num_asked  # the same question twice may be answered in two ways
        messages = self.conversation.ask(question)
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
        limits = PromptLimits(
            self.loaded.max_context, head_share=self._head_share, answer_room=self.decoding.max_new_tokens
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
        return stream(loaded or self.loaded, prompt.ids, decoding)

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
        """The conversation ends here: where it has no name, /load last finds it."""
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
                    from sft.talk.commands import obey  # commands know the session

                    was_interrupted = obey(self, typed)
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
                self.conversation.keep_answer(message["content"], message.get("reasoning_content", ""))
                writer.close()
        num_tokens, duration_s = len(pieces.token_ids), time.monotonic() - started
        stopped = ", stopped" if interrupted.is_set() else ""
        ending = stopped or ("" if pieces.finished else ", cut off: raise it with /set max_new_tokens")
        tokens = "1 token" if num_tokens == 1 else f"{num_tokens} tokens"
        tell(f"({tokens}, {num_tokens / duration_s:.1f} tokens/s{ending})")
        if self._leaves:
            raise KeyboardInterrupt
        return interrupted.is_set()

    def _keep_part(self, pieces: TextStream) -> None:
        """Write down an answer that is not finished yet, so that a crash costs two seconds of it."""
        part = Conversation.from_messages([*self.conversation.messages(), pieces.message])
        try:
            self.chats.keep(part, self.facts())
        except OSError:
            return  # keep() says it at the end of the answer
