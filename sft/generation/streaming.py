"""One answer, read while it is written: the decoding loop (sft.generation.decode) in a thread, its tokens as text.

for piece in stream(loaded, prompt_ids, decoding): print(piece, end="")
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

from prompts import ChatFormat, Message, Tool
from prompts.family import THINK_END, THINK_START
from sft.config.decoding import Decoding
from sft.generation.decode import Row, count_room, write_answer
from sft.models.loaded import LoadedModel

INCOMPLETE = "\ufffd"  # decoded from an incomplete character
THINK_TOKENS = (THINK_START, THINK_END)
WAIT_S = 0.05  # interval at which a waiting stream checks whether it was stopped


def stream(
    loaded: "LoadedModel",
    prompt_ids: Sequence[int],
    decoding: Decoding,
    *,
    lock: "threading.Lock | None" = None,
    tools: Sequence[Tool] = (),
) -> "TextStream":
    """The answer to a prompt as pieces of text, each of whole characters: "Hel", "lo", "好".

    Joined they are what generate_batch gives. An error of the model is raised where the pieces are read. Closing the
    stream (or leaving its `with` block) stops the model within one token. While the model writes it holds `lock`, also
    where nobody reads: who reads slowly keeps nobody waiting. tools: those the prompt offers; calls are in the pieces
    as the model spells them, and read in `message`. Raises ModelError for a prompt that fills the model's context.
    """
    return TextStream(loaded, prompt_ids, decoding, count_room(loaded, prompt_ids, decoding), lock, tools)


@dataclass
class _Written:
    """The answer read so far; shared by the stream and its source, so that neither keeps the other alive."""

    token_ids: list[int] = field(default_factory=list)
    finished: bool = False
    is_thought: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None  # the model's; None before the first piece


class TextStream(Iterator[str]):
    """Pieces of one answer; made by stream(). Generation starts when the first piece is requested."""

    def __init__(
        self,
        loaded: "LoadedModel",
        prompt_ids: Sequence[int],
        decoding: Decoding,
        max_new_tokens: int,
        lock: "threading.Lock | None" = None,
        tools: Sequence[Tool] = (),
    ) -> None:
        self._chat, self._tools = loaded.chat, tools
        self._written = _Written()
        # A generator, because Python closes it, and so stops the model, also when the stream is merely forgotten.
        self._pieces = _read_pieces(loaded, prompt_ids, decoding, max_new_tokens, self._written, lock)

    @property
    def token_ids(self) -> list[int]:
        """The text so far, without the end token."""
        return list(self._written.token_ids)

    @property
    def finished(self) -> bool:
        """Whether the model ended the answer itself; False while it generates, or if it was cut off or stopped."""
        return self._written.finished

    @property
    def is_thought(self) -> bool:
        """Whether the piece given last is in a think block; the block's own tokens are in no piece."""
        return self._written.is_thought

    @property
    def message(self) -> Message:
        """The answer so far as a turn: {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}."""
        return self._chat.read_answer(self._written.token_ids, self._tools)

    def stop(self) -> None:
        """Let the answer end with the token the model is at; does not wait, so a signal handler may call it."""
        self._written.stop.set()

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop the model; returns when it has stopped. Interrupted (Ctrl-C), it need not be called again."""
        self._pieces.close()
        if self._written.thread is not None:
            self._written.thread.join()

    def __enter__(self) -> "TextStream":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TextAssembler:
    """Token ids one at a time -> text in whole characters: a Chinese character may span several tokens."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._shown: list[int] = []  # tokens of the last piece, because some decoders drop a leading space
        self._waiting: list[int] = []

    def feed(self, token_id: int) -> str:
        """The text that a token completes, "" while a character is incomplete."""
        self._waiting.append(token_id)
        piece = self._read()
        return "" if piece.endswith(INCOMPLETE) else self._take(piece)

    def flush(self) -> str:
        """What is left at the end, incomplete characters as U+FFFD."""
        return self._take(self._read())

    def _read(self) -> str:
        return self._decode(self._shown + self._waiting)[len(self._decode(self._shown)) :]

    def _take(self, piece: str) -> str:
        if self._waiting:
            self._shown, self._waiting = self._waiting, []
        return piece


class AnswerAssembler:
    """Token ids one at a time -> pieces of text in whole characters, each with whether it is thought: ("2 + 2", True).

    The tokens of a think block are in no piece, the marks of calls are spelled out.
    """

    def __init__(self, chat: ChatFormat) -> None:
        self._text = TextAssembler(chat.spell)
        self._is_thought = chat.is_thought_first
        self._think_ids = {chat.encoder.control_tokens.get(token): token == THINK_START for token in THINK_TOKENS}

    def feed(self, token_id: int) -> Iterator[tuple[str, bool]]:
        """The characters that a token completes."""
        if token_id in self._think_ids:
            yield from self.flush()
            self._is_thought = self._think_ids[token_id]
        elif piece := self._text.feed(token_id):
            yield piece, self._is_thought

    def flush(self) -> Iterator[tuple[str, bool]]:
        """What is left at the end, incomplete characters as U+FFFD."""
        if piece := self._text.flush():
            yield piece, self._is_thought


def _read_pieces(
    loaded: "LoadedModel",
    prompt_ids: Sequence[int],
    decoding: Decoding,
    max_new_tokens: int,
    written: _Written,
    lock: "threading.Lock | None",
) -> Generator[str, None, None]:
    tokens: queue.SimpleQueue[int | BaseException | None] = queue.SimpleQueue()

    def hand_on(token_id: int | Exception | None) -> None:
        if token_id is not None:  # the end is reported below, when the lock is free again
            tokens.put(token_id)

    def generate() -> None:
        try:
            with _held(lock, written.stop) as may_write:
                if may_write:
                    row = Row(prompt_ids, decoding, max_new_tokens, hand_on, written.stop.is_set)
                    write_answer(loaded, row)
            tokens.put(None)
        except BaseException as error:  # raised again where the text is read
            tokens.put(error)

    assembler = AnswerAssembler(loaded.chat)
    written.thread = threading.Thread(target=generate, name="generation")
    try:
        written.thread.start()
        while (token_id := tokens.get()) is not None:
            if isinstance(token_id, BaseException):
                raise token_id
            written.finished = token_id in loaded.chat.end_ids
            if written.finished:
                continue
            written.token_ids.append(token_id)
            for piece, written.is_thought in assembler.feed(token_id):
                yield piece
        for piece, written.is_thought in assembler.flush():
            yield piece
    finally:
        written.stop.set()  # the thread sees it after the token it is at; to wait for that is close()'s part


@contextmanager
def _held(lock: "threading.Lock | None", stop: threading.Event) -> Iterator[bool]:
    """Hold a lock; False if a stop was requested while waiting for it."""
    if lock is None:
        yield True
        return
    while not lock.acquire(timeout=WAIT_S):
        if stop.is_set():
            yield False
            return
    try:
        yield not stop.is_set()
    finally:
        lock.release()
