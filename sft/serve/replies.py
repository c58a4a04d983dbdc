"""A request's answer: prompt, decoding, tokens from the engine, text up to a stop word, and the task's reading of it.

The event loop's side of the engine: everything here is awaited, nothing computes.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from prompts import Rules, ToolCall
from prompts.tasks import Unparseable
from prompts.tools import CALL
from sft.config.decoding import Decoding
from sft.config.serve import ServeSettings
from sft.conversation import FittedPrompt, fit_prompt
from sft.generation.streaming import AnswerAssembler
from sft.models.loaded import LoadedModel
from sft.serve.engine import Engine, EngineEnded, EngineError, QueueFull
from sft.serve.protocol import JSON, ApiError, ChatRequest
from sft.serve.served import Asked

OPENAI_TEMPERATURE = 1.0  # is OpenAI's default, for a request that names top_p or a seed alone


@dataclass
class Answer:
    """One answer on its way; `finish_reason` holds once its pieces have ended."""

    asked: Asked
    prompt_ids: list[int]
    decoding: Decoding
    max_new_tokens: int
    stops: list[str]
    num_written: int = 0
    finish_reason: str = "length"
    extra: JSON = field(default_factory=dict)


def prepare_answer(
    loaded: LoadedModel, settings: ServeSettings, request: ChatRequest, asked: Asked, limits: Rules
) -> Answer:
    """Prompt and limits of a request. Raises ApiError 400 for what does not fit the model or the server's limits.

    The text of a task is shortened like the run's rows, and reported; a chat is never shortened.
    """
    limit = request.token_limit
    if limit is not None and limit > settings.max_tokens_limit:
        raise ApiError(
            400, f"max_tokens: at most {settings.max_tokens_limit:,}", code="invalid_value", param="max_tokens"
        )
    decoding = decide_decoding(settings, request, asked)
    prompt = _prompt_of(loaded, asked, limits)
    prompt_ids = prompt.ids
    wanted = limit or min(decoding.max_new_tokens, settings.max_tokens_limit)
    room, needed = loaded.max_context - len(prompt_ids), 0 if loaded.head else limit or 1
    if room < needed:
        raise ApiError(
            400,
            f"the model reads {loaded.max_context:,} tokens; the messages have {len(prompt_ids):,} and the answer may "
            f"have {needed:,}; shorten the messages or max_tokens",
            code="context_length_exceeded",
            param="messages",
        )
    extra: JSON = {"num_cut": prompt.num_cut} if prompt.num_cut else {}
    return Answer(asked, prompt_ids, decoding, min(wanted, room), request.stops, extra=extra)


def _prompt_of(loaded: LoadedModel, asked: Asked, limits: Rules) -> FittedPrompt:
    if asked.task is None:
        return FittedPrompt(loaded.chat.encode_prompt(asked.messages), 0)
    return fit_prompt(loaded.chat, asked.messages, limits, head=loaded.head)


def decide_decoding(settings: ServeSettings, request: ChatRequest, asked: Asked) -> Decoding:
    """The decoding of an answer: the request's values, else the server's flags.

    A request that says how to draw gets OpenAI's defaults for the rest: temperature 1, top_p 1, no penalties. One that
    does not gets --decoding, greedy by default; entities and labels are always greedy.
    """
    fields = ("temperature", "top_p", "seed", "repetition_penalty", "no_repeat_ngram_size")
    wanted = {name: value for name in fields if (value := getattr(request, name)) is not None}
    is_text = asked.task is None or asked.task.kind == "text"
    if not wanted.keys() & {"temperature", "top_p", "seed"}:
        return settings.decoding_of(settings.decoding if is_text else "precise").model_copy(update=wanted)
    unsaid = {} if settings.temperature is not None else {"temperature": OPENAI_TEMPERATURE}
    return settings.decoding_of("precise").model_copy(update=unsaid | wanted)


class Piece(NamedTuple):
    """A piece of an answer: whole characters of its text or of its thought, or all of its calls."""

    kind: Literal["content", "reasoning_content", "tool_calls"]
    text: str = ""
    calls: Sequence[ToolCall] = ()


async def write_answer(engine: Engine, answer: Answer) -> AsyncGenerator[Piece]:
    """The answer in pieces, up to a stop word in its text; calls come last. Closing it stops the model.

    Raises ApiError 429 where too many wait, 500 where the model fails, and 503 where the engine has ended.
    """
    if answer.asked.labels:
        yield Piece("content", await _choose_label(engine, answer))
        return
    loop, tokens = asyncio.get_running_loop(), asyncio.Queue[int | Exception | None]()

    def deliver(item: int | Exception | None) -> None:
        loop.call_soon_threadsafe(tokens.put_nowait, item)

    try:
        ticket = engine.submit(
            answer.prompt_ids, answer.decoding, answer.max_new_tokens, deliver, untuned=answer.asked.is_base
        )
    except (QueueFull, EngineEnded) as error:
        raise _explain(engine, error) from None
    chat, tools = engine.loaded.chat, answer.asked.tools
    assembler, text = AnswerAssembler(chat), StopFilter(answer.stops)
    said, thought = HeldText(CALL if tools else ""), HeldText(strips_head=True)
    token_ids: list[int] = []

    def sort_pieces(pieces: Iterable[tuple[str, bool]]) -> Iterator[Piece]:
        for piece, is_thought in pieces:
            if is_thought:
                said.strips_head = True
                found = Piece("reasoning_content", thought.feed(piece))
            else:
                found = Piece("content", said.feed(text.feed(piece)))
            if found.text:
                yield found

    try:
        while (token_id := await tokens.get()) is not None:
            if isinstance(token_id, Exception):
                raise ApiError(500, str(token_id))
            if token_id in chat.end_ids:
                answer.finish_reason = "stop"
                continue
            answer.num_written += 1
            token_ids.append(token_id)
            for found in sort_pieces(assembler.feed(token_id)):
                yield found
            if text.has_stopped:
                answer.finish_reason = "stop"
                break
        else:
            for found in sort_pieces(assembler.flush()):
                yield found
        said.feed(text.flush())
        message = chat.read_answer(token_ids if tools and not text.has_stopped else [], tools)
        if calls := message.get("tool_calls"):
            content = message["content"]
            if content.startswith(said.passed) and content != said.passed:  # text after the calls
                yield Piece("content", content.removeprefix(said.passed))
            yield Piece("tool_calls", calls=calls)
            answer.finish_reason = "tool_calls"
        elif rest := said.rest:
            yield Piece("content", rest)
    finally:
        ticket.cancel()


class HeldText:
    """Passes text but for what follows a mark, and for newlines at its end as long as nothing follows them."""

    def __init__(self, mark: str = "", *, strips_head: bool = False) -> None:
        self.strips_head = strips_head  # leading newlines are left out
        self._mark, self._text, self._num_passed = mark, "", 0

    def feed(self, piece: str) -> str:
        """The text that can be shown now."""
        self._text += piece
        if self.strips_head and not self._num_passed:
            self._text = self._text.lstrip("\n")
        end = len(self._text)
        if self._mark:
            found = self._text.find(self._mark, self._num_passed)
            end = found if found >= 0 else end - self._overlap()
        while (self._mark or self.strips_head) and end > self._num_passed and self._text[end - 1] == "\n":
            end -= 1
        shown, self._num_passed = self._text[self._num_passed : end], max(end, self._num_passed)
        return shown

    @property
    def passed(self) -> str:
        """The text shown so far."""
        return self._text[: self._num_passed]

    @property
    def rest(self) -> str:
        """The text held back."""
        return self._text[self._num_passed :]

    def _overlap(self) -> int:
        """Number of characters at the end that may start the mark."""
        return next((n for n in range(len(self._mark) - 1, 0, -1) if self._text.endswith(self._mark[:n])), 0)


def read_parsed(answer: Answer, text: str) -> JSON:
    """The task's reading of the answer: {"parsed": "正面"}, entities as objects, None if it is invalid."""
    task, row = answer.asked.task, answer.asked.row
    if task is None or row is None:
        return {}
    parsed = task.parse_answer(text, row)
    if isinstance(parsed, Unparseable):
        return {"parsed": None, "problem": parsed.reason, **answer.extra}
    if not isinstance(parsed, str):
        entities = [{"entity_text": found.text, "entity_label": found.label} for found in parsed]
        return {"parsed": entities, **answer.extra}
    return {"parsed": parsed, **answer.extra}


async def _choose_label(engine: Engine, answer: Answer) -> str:
    asked, labels = answer.asked, answer.asked.labels
    try:
        scores = await asyncio.wrap_future(
            engine.score(answer.prompt_ids, labels, asked.classes, untuned=asked.is_base)
        )
    except (QueueFull, EngineEnded, EngineError) as error:
        raise _explain(engine, error) from None
    weights = [math.exp(score - max(scores)) for score in scores]
    shares = [weight / sum(weights) for weight in weights]
    best = max(range(len(labels)), key=lambda place: shares[place])
    written = 0 if engine.loaded.head else len(engine.loaded.chat.encode_answer(labels[best])) - 1
    answer.finish_reason, answer.num_written = "stop", written
    answer.extra |= {"confidence": shares[best], "probabilities": dict(zip(labels, shares, strict=True))}
    return labels[best]


def _explain(engine: Engine, error: QueueFull | EngineEnded | EngineError) -> ApiError:
    if isinstance(error, QueueFull):
        return ApiError(429, f"{engine.num_waiting} requests are waiting; try again later", code="queue_full")
    if isinstance(error, EngineEnded):
        return ApiError(503, "the engine has ended; the server has to be restarted", code="engine_ended")
    return ApiError(500, str(error))


class StopFilter:
    """Passes text through until a stop word; holds back a possible prefix of one."""

    def __init__(self, stops: list[str]) -> None:
        self._stops = stops
        self._held = ""
        self.has_stopped = False

    def feed(self, text: str) -> str:
        """The part of the text so far that is certainly no stop word; "" after one."""
        if self.has_stopped:
            return ""
        self._held += text
        found = [place for place in map(self._held.find, self._stops) if place >= 0]
        if found:
            self.has_stopped = True
            passed, self._held = self._held[: min(found)], ""
            return passed
        keep = max((self._overlap(stop) for stop in self._stops), default=0)
        place = len(self._held) - keep
        passed, self._held = self._held[:place], self._held[place:]
        return passed

    def flush(self) -> str:
        """The text held back, at the end of the answer."""
        passed, self._held = self._held, ""
        return passed

    def _overlap(self, stop: str) -> int:
        """Number of characters at the end of the held text that start the stop word: "...EN", "END" -> 2."""
        return next((n for n in range(min(len(stop) - 1, len(self._held)), 0, -1) if self._held.endswith(stop[:n])), 0)
