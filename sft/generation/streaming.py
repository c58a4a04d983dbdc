"""One answer, read while it is written: transformers' generate in a thread, with every setting spelled out.

    for piece in stream(loaded, prompt_ids, decoding): print(piece, end="")

For many answers at once see sft.generation.decode.
"""

import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from prompts import Message
from prompts.family import THINK_END, THINK_START
from sft.config.decoding import Decoding
from sft.errors import ModelError
from sft.generation.prefix import pad_behind
from sft.generation.sampling import make_processors
from sft.models.loaded import LoadedModel, in_eval_mode

INCOMPLETE = "\ufffd"  # what a tokenizer decodes the first bytes of a character to
THINK_TOKENS = (THINK_START, THINK_END)
WAIT_S = 0.05  # how often one who waits for the model looks whether it was told to stop


def stream(
    loaded: "LoadedModel", prompt_ids: Sequence[int], decoding: Decoding, *, lock: "threading.Lock | None" = None
) -> "TextStream":
    """The answer to a prompt as pieces of text, each of whole characters: "Hel", "lo", "好".

    Joined they are what generate_batch gives. An error of the model is raised where the pieces are read. Closing the
    stream (or leaving its `with` block) stops the model within one token. While the model writes it holds `lock`, also
    where nobody reads: who reads slowly keeps nobody waiting. Raises ModelError for a prompt that fills the model's
    context.
    """
    return TextStream(loaded, prompt_ids, decoding, count_room(loaded, prompt_ids, decoding), lock)


@dataclass
class _Written:
    """What has been read of the answer so far; shared by the stream and its source, so that neither holds the other."""

    token_ids: list[int] = field(default_factory=list)
    finished: bool = False
    is_thought: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None  # the model's; None before the first piece


class TextStream(Iterator[str]):
    """Pieces of one answer; made by stream(). Generation starts with the first piece that is asked for."""

    def __init__(
        self,
        loaded: "LoadedModel",
        prompt_ids: Sequence[int],
        decoding: Decoding,
        max_new_tokens: int,
        lock: "threading.Lock | None" = None,
    ) -> None:
        self._chat = loaded.chat
        self._written = _Written()
        # A generator, because Python closes it, and so stops the model, also when the stream is merely forgotten.
        self._pieces = _read_pieces(loaded, prompt_ids, decoding, max_new_tokens, self._written, lock)

    @property
    def token_ids(self) -> list[int]:
        """What the model has written so far, the end token left out."""
        return list(self._written.token_ids)

    @property
    def finished(self) -> bool:
        """Whether the model ended the answer itself; False while it writes, and where it was cut off or stopped."""
        return self._written.finished

    @property
    def is_thought(self) -> bool:
        """Whether the piece given last stands in a think block; the block's own tokens are in no piece."""
        return self._written.is_thought

    @property
    def message(self) -> Message:
        """What was written so far as a turn: {"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}."""
        return self._chat.read_answer(self._written.token_ids)

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
    """Token ids one by one -> text in whole characters: a Chinese character may span several tokens."""

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._shown: list[int] = []  # the tokens of the last piece: some decoders drop a blank at a text's beginning
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


def _read_pieces(
    loaded: "LoadedModel",
    prompt_ids: Sequence[int],
    decoding: Decoding,
    max_new_tokens: int,
    written: _Written,
    lock: "threading.Lock | None",
) -> Generator[str, None, None]:
    tokens = _TokenQueue()

    def generate() -> None:
        try:
            with _held(lock, written.stop) as may_write:
                if may_write:
                    stopping = StoppingCriteriaList([_StopOnEvent(written.stop)])
                    call_generate(loaded, [prompt_ids], decoding, max_new_tokens, streamer=tokens, stopping=stopping)
            tokens.close(None)
        except BaseException as error:  # raised again where the text is read
            tokens.close(error)

    assembler = TextAssembler(loaded.chat.decode)
    think_ids = {loaded.chat.encoder.control_tokens.get(token): token == THINK_START for token in THINK_TOKENS}
    written.thread = threading.Thread(target=generate, name="generation")
    try:
        written.thread.start()
        for token_id in tokens:
            written.finished = token_id in loaded.chat.end_ids
            if written.finished:
                continue
            written.token_ids.append(token_id)
            if token_id in think_ids:
                if piece := assembler.flush():
                    yield piece
                written.is_thought = think_ids[token_id]
            elif piece := assembler.feed(token_id):
                yield piece
        if piece := assembler.flush():
            yield piece
    finally:
        written.stop.set()  # the thread sees it after the token it is at; to wait for that is close()'s part


@contextmanager
def _held(lock: "threading.Lock | None", stop: threading.Event) -> Iterator[bool]:
    """Hold a lock; False where the wait for it was given up, because a stop was asked for."""
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


class _TokenQueue(BaseStreamer):
    """Where generate() puts its tokens, on one thread, and the text is made of them, on another."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[list[int] | BaseException | None] = queue.SimpleQueue()
        self._is_prompt = True  # generate() puts the prompt first

    def put(self, value: torch.Tensor) -> None:
        if not self._is_prompt:
            self._queue.put(value.flatten().tolist())
        self._is_prompt = False

    def end(self) -> None:
        """generate() is through; close() says so, or what went wrong."""

    def close(self, error: BaseException | None) -> None:
        self._queue.put(error)

    def __iter__(self) -> Iterator[int]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield from item


class _StopOnEvent(StoppingCriteria):
    """Ends the answer as soon as an event is set."""

    def __init__(self, event: threading.Event) -> None:
        self.event = event

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: object) -> torch.BoolTensor:
        return torch.full((input_ids.shape[0],), self.event.is_set(), device=input_ids.device)


class ExplicitConfig(GenerationConfig):
    """A generation config that takes over nothing from the one in the model's folder.

    generate() fills every value that is None from model.generation_config: a Qwen2.5 folder would add its own
    repetition penalty, another one suppressed tokens. Here such values stay what transformers' neutral defaults say.
    """

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **values: object) -> dict:
        """Set values, as transformers' own; with defaults_only, neutral ones in the place of the model's."""
        if defaults_only:
            values = GenerationConfig._get_default_generation_params()
            del values["max_length"]  # it would only raise a warning beside max_new_tokens
        return super().update(defaults_only=defaults_only, **values)


def call_generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    max_new_tokens: int,
    *,
    streamer: BaseStreamer | None = None,
    stopping: StoppingCriteriaList | None = None,
) -> list[list[int]]:
    """New token ids of each prompt, up to and with its end token where it wrote one: [[5303, 2], [17, 4, 2]].

    The prompts are padded on the left, so that every answer continues from the last column.
    """
    width = max(map(len, prompts))
    pad_id, end_ids = loaded.chat.pad_id, loaded.chat.end_ids
    ids, mask = pad_behind(prompts, 0, pad_id)
    device = torch.device(loaded.device)
    config = ExplicitConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,  # the last processor draws; what is left to do is an argmax
        num_beams=1,
        eos_token_id=list(end_ids),
        pad_token_id=pad_id,
        use_cache=True,
    )
    with in_eval_mode(loaded.model):
        output = loaded.model.generate(
            input_ids=ids.to(device),  # (B, width)
            attention_mask=mask.to(device),
            generation_config=config,
            logits_processor=make_processors(decoding, prompts, width, device),
            stopping_criteria=stopping,
            streamer=streamer,
        )  # (B, width + new)
    return [cut_at_end(row, end_ids) for row in output[:, width:].tolist()]


def cut_at_end(ids: list[int], end_ids: Sequence[int]) -> list[int]:
    """Ids up to and with the first end token; padding follows it in a batch: [7, 8, 2, 0, 0], (2,) -> [7, 8, 2]."""
    end = next((place for place, token in enumerate(ids) if token in end_ids), len(ids) - 1)
    return ids[: end + 1]


def count_room(loaded: LoadedModel, prompt: Sequence[int], decoding: Decoding) -> int:
    """Tokens the answer to a prompt may have: decoding.max_new_tokens, fewer where the model's context ends.

    Raises ModelError where the prompt leaves no room at all.
    """
    room = loaded.max_context - len(prompt)
    if room < 1 or not prompt:
        raise ModelError(
            f"the prompt takes {len(prompt):,} tokens, the model reads {loaded.max_context:,}, question and answer "
            "together; shorten the text"
        )
    return min(decoding.max_new_tokens, room)
