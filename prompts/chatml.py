"""Messages -> token ids and loss mask: the one place where a conversation becomes tokens.

Training, evaluation, inference and chat all come here. Control tokens are inserted as ids; text is encoded with all
added tokens switched off. What is before an answer in training is, id for id, what inference sends to get one.

    chat = ChatFormat.from_tokenizer(tokenizer)
    chat.encode([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}])

Plain text is a conversation of one message, {"role": "document", ...}: it ends in one end-of-text token. If it is
longer than an example may be, it is cut into windows, each of which starts with the last token of the one before it,
so that every token but a document's first is predicted exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby, islice
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from prompts.errors import PromptError, TooLong
from prompts.family import TEXT_END, THINK_END, THINK_POLICIES, THINK_START, TURN_END, TURN_START, Family, ThinkPolicy
from prompts.layout import NEWLINE, Encoded, Piece, Supervise, lay_out, lay_out_answer, supervises_every_answer
from prompts.messages import Message, Tool, ToolCall, check_conversation, is_document
from prompts.shorten import ANSWER_ROOM, Room, fit_messages
from prompts.template import read_family
from prompts.text_encoder import TextEncoder
from prompts.tools import CALL, CALL_END, MARKS, BrokenCall, join_content, read_answer_text, read_call

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHUNK_SIZE = 512  # conversations encoded in one call: enough for all cores, a few MB

OnTooLong = Literal["shorten", "drop", "error"]
KnownTexts = dict[str, list[int]]  # texts encoded before: {"user\nhi": [4093, 198, 5303]}


class Rules(NamedTuple):
    """How conversations become tokens: Rules("last", max_length=2048).

    supervise: all answers, the last one, or none (a prompt). A row over max_length tokens (None: no limit) is dropped
    with `drop`, ends the command with `error`, and with `shorten` loses its oldest whole exchanges, then the middle of
    the document in the user turn, keeping head_share of it at the head. Room is left for the longest label that the
    user turn allows, or answer_room tokens for free text (less if the fixed parts leave less than twice that).
    """

    supervise: Supervise = "all"
    max_length: int | None = None
    on_too_long: OnTooLong = "shorten"
    head_share: float = 0.5
    answer_room: int = ANSWER_ROOM


NO_LIMIT = Rules()


class _Started(NamedTuple):
    """A chunk of conversations whose texts are being encoded."""

    chunk: list[Sequence[Message]]
    rows: list[list[Piece] | PromptError]
    texts: list[str]
    ids: Future[list[list[int]]]


class ChatTokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The tokenizer from the Rust library, without transformers' wrapper."""

    @property
    def chat_template(self) -> str | None:
        """Jinja text; None if the tokenizer has no template."""


class ChatFormat:
    """A tokenizer's ChatML dialect: ChatFormat.from_tokenizer(tokenizer).encode_prompt(messages) -> [1, 4093, ...]."""

    def __init__(self, family: Family, encoder: TextEncoder, *, think: ThinkPolicy = "auto", template: str = ""):
        if think not in THINK_POLICIES:
            raise PromptError(f"think={think!r} is no policy; choose from {', '.join(THINK_POLICIES)}")
        if think == "keep" and not family.has_think_block:
            raise PromptError("think='keep', but the chat template knows no <think> block; use think='auto'")
        if think == "keep" and not family.writes_thoughts:
            raise PromptError("think='keep', but the chat template writes thoughts in another way; use 'auto' or 'off'")
        tokens = encoder.control_tokens
        needed = [TURN_START, TURN_END] + ([THINK_START, THINK_END] if family.has_think_block else [])
        missing = [token for token in needed if token not in tokens]
        if missing:
            raise PromptError(f"the tokenizer has no token {', '.join(missing)}; use a model of a ChatML family")
        self.family = replace(family, marks=frozenset(mark for mark in MARKS if mark in tokens))
        self.think: ThinkPolicy = think
        self.template = template
        self.encoder = encoder
        self.control_ids: frozenset[int] = encoder.control_ids
        self.end_ids: tuple[int, ...] = tuple(tokens[token] for token in (TURN_END, TEXT_END) if token in tokens)
        self.pad_id: int = tokens[TEXT_END] if TEXT_END in tokens else min(self.control_ids - {tokens[TURN_END]})

    @classmethod
    def from_tokenizer(cls, tokenizer: ChatTokenizer, *, think: ThinkPolicy = "auto") -> ChatFormat:
        """The dialect of a tokenizer, recognised by what its chat template writes. The tokenizer is not changed.

        Raises PromptError for a template that is not ChatML, missing control tokens, or a tokenizer that splits
        the probe conversations another way than this class.
        """
        template = tokenizer.chat_template
        special_tokens = getattr(tokenizer, "special_tokens_map", {})  # a template may write eos_token
        family = read_family(template, special_tokens)
        assert isinstance(template, str)  # read_family refuses anything else
        chat = cls(family, TextEncoder(tokenizer.backend_tokenizer), think=think, template=template)
        if not _splits_alike(chat, tokenizer.backend_tokenizer):
            raise PromptError(
                "the tokenizer splits a conversation in another way when its parts are encoded one by one; "
                "use a model with a byte-level tokenizer (Qwen, SmolLM2, ...)"
            )
        return chat

    @property
    def supervises_every_answer(self) -> bool:
        """Whether one example can supervise all answers of a row; if not, each gets its own (see ThinkPolicy)."""
        return supervises_every_answer(self.family, self.think)

    def encode(self, messages: Sequence[Message], rules: Rules = NO_LIMIT) -> Encoded:
        """A conversation that ends with an answer (supervise "none": with a user turn, a prompt) -> ids and mask.

        If a conversation makes several examples (see encode_batch), returns the last one. Raises TooLong if it does not
        fit and cannot be shortened, or must not be (`drop`); PromptError with `error`, and for a conversation that
        cannot be rendered.
        """
        examples = self._encode_row(messages, self._lay_out_row(messages, rules.supervise), {}, rules)
        if isinstance(examples, PromptError):
            raise examples
        return examples[-1]

    def encode_batch(
        self, conversations: Iterable[Sequence[Message]], rules: Rules = NO_LIMIT
    ) -> Iterator[list[Encoded] | PromptError]:
        """The training examples of each conversation, in order, computed on all cores; an error is returned at its
        row's index.

        Each answer (or the last) and its end token are supervised. Answers that follow the same prompt as at inference
        share one example; the others get their own.
        """
        remaining = iter(conversations)
        # While the rows of one chunk are put together, the texts of the next are encoded: tokenizers needs no GIL.
        with ThreadPoolExecutor(max_workers=1) as beside:

            def start(chunk: list[Sequence[Message]]) -> _Started:
                rows = [self._lay_out_row(messages, rules.supervise) for messages in chunk]
                texts = _texts_of(row for row in rows if not isinstance(row, PromptError))
                return _Started(chunk, rows, texts, beside.submit(self.encoder.encode, texts))

            started = map(start, iter(lambda: list(islice(remaining, CHUNK_SIZE)), []))
            following = next(started, None)
            while following is not None:
                current, following = following, next(started, None)
                known = dict(zip(current.texts, current.ids.result(), strict=True))
                for messages, row in zip(current.chunk, current.rows, strict=True):
                    yield self._encode_row(messages, row, known, rules)

    def encode_prompt(self, messages: Sequence[Message], rules: Rules = NO_LIMIT) -> list[int]:
        """A conversation that ends with a user turn -> the ids after which the model answers.

        It ends with the assistant's header (and, if the model shall not think, an empty think block). With max_length
        it is shortened as encode_batch does; raises TooLong where that does not help. A prompt that has less than
        max_length tokens stays whole where on_too_long is `drop` or `error`: so do the rows it was trained on.
        Supervise "none" says that a head reads it and nothing is written, so that no room is left. Of a document, which
        is continued, the ids are those of its text; of one that is too long the last, with the same room after them.
        """
        if is_document(messages):
            return self._begin_document(messages[0]["content"], rules.max_length, rules.answer_room)
        check_conversation(messages, last_role="user")
        if rules.max_length is not None:
            messages = self._fit(messages, rules, {})
        return self._encode_pieces(lay_out(self.family, self.think, messages), {}).input_ids

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text in which nothing is a control token: "<|im_end|>" -> six or so ordinary ids."""
        return self.encoder.encode([text])[0]

    def encode_answer(self, text: str) -> list[int]:
        """What training supervises of an answer, after encode_prompt's ids: its ids and the end token."""
        answer: Message = {"role": "assistant", "content": text}
        return self._encode_pieces(lay_out_answer(self.family, self.think, answer), {}).input_ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids without control tokens: [5303, 2] -> "hi"."""
        return self.encoder.decode(ids)

    def spell(self, ids: Sequence[int]) -> str:
        """The text of ids as decode gives it, the marks of calls (<tool_call>) spelled out among it."""
        marks = {
            index: mark for mark in (CALL, CALL_END) if (index := self.encoder.control_tokens.get(mark)) is not None
        }
        if marks.keys().isdisjoint(ids):
            return self.decode(ids)
        runs = groupby(ids, key=marks.get)
        return "".join(self.decode(run) if mark is None else mark * len(list(run)) for mark, run in runs)

    def spell_answer(self, ids: Sequence[int]) -> str:
        """What the model wrote (generated ids) after its thought, as one text with its calls spelled out."""
        thought, said = self.split_thought(ids)
        text = self.spell(said)
        return text if thought is None else text.removeprefix("\n\n")

    def read_answer(self, ids: Sequence[int], tools: Sequence[Tool] = ()) -> Message:
        """What the model wrote (generated ids) as a turn: {"role": "assistant", "content": "hello"}.

        A think block, closed or not, goes into reasoning_content. If tools were offered, calls go into tool_calls; a
        call that cannot be parsed stays in the text with its marks.
        """
        thought, said = self.split_thought(ids)
        answer: Message = {"role": "assistant", "content": self.spell(said)}
        if tools:
            try:
                content, calls = self._read_calls(said, tools)
            except BrokenCall:
                content, calls = answer["content"], []
            answer["content"] = content
            if calls:
                answer["tool_calls"] = calls
        if thought is not None:
            answer["reasoning_content"] = self.decode(thought).strip("\n")
            answer["content"] = answer["content"].removeprefix("\n\n")
        return answer

    @property
    def is_thought_first(self) -> bool:
        """Whether the model's first words are its thought, since the prompt has opened the block."""
        return self.think == "keep" and self.family.opens_block

    def split_thought(self, ids: Sequence[int]) -> tuple[Sequence[int] | None, Sequence[int]]:
        """The ids of a think block and those after it; None if there is no block. An open one takes all."""
        start, end = (self.encoder.control_tokens.get(token) for token in (THINK_START, THINK_END))
        num_thought = next((place + 1 for place in reversed(range(len(ids))) if ids[place] == end), 0)
        if not num_thought and (start in ids or self.is_thought_first):
            num_thought = len(ids)
        return (ids[:num_thought], ids[num_thought:]) if num_thought else (None, ids)

    def _read_calls(self, ids: Sequence[int], tools: Sequence[Tool]) -> tuple[str, list[ToolCall]]:
        """Content and calls of an answer. If the marks are tokens, only those tokens make a call, not text like
        them."""
        start, end = (self.encoder.control_tokens.get(mark) for mark in (CALL, CALL_END))
        if start is None or end is None:
            return read_answer_text(self.decode(ids), tools)
        behind: list[int] = []
        calls = []
        first = next((index for index, token in enumerate(ids) if token in (start, end)), len(ids))
        place = first
        while place < len(ids):
            if ids[place] == start:
                closing = next((index for index in range(place + 1, len(ids)) if ids[index] in (start, end)), None)
                if closing is None or ids[closing] == start:
                    raise BrokenCall("a call is not closed")
                calls.append(read_call(self.decode(ids[place + 1 : closing]), tools))
                place = closing
            elif ids[place] == end:
                raise BrokenCall("a call ends that was not begun")
            else:
                behind.append(ids[place])
            place += 1
        before = self.decode(ids[:first])
        return (join_content(before, self.decode(behind)) if calls else before), calls

    def show(self, encoded: Encoded) -> list[Piece]:
        """The row for a reader: control tokens one at a time, the text between them in one piece each."""
        names = {index: token for token, index in self.encoder.control_tokens.items()}
        pieces = []
        marked = zip(encoded.input_ids, map(bool, encoded.loss_mask), strict=True)
        for (is_control, is_supervised), run in groupby(marked, key=lambda item: (item[0] in names, item[1])):
            ids = [index for index, _ in run]
            texts = [names[index] for index in ids] if is_control else [self.decode(ids)]
            pieces += [Piece(text, is_control, is_supervised) for text in texts]
        return pieces

    def _begin_document(self, text: str, max_length: int | None, answer_room: int) -> list[int]:
        ids = self.encode_text(text)
        return ids if max_length is None else ids[-max(1, max_length - min(answer_room, max_length // 2)) :]

    def _lay_out_row(self, messages: Sequence[Message], supervise: Supervise) -> list[Piece] | PromptError:
        try:
            check_conversation(messages, last_role="user" if supervise == "none" else "assistant")
            if is_document(messages):
                end = TEXT_END if TEXT_END in self.encoder.control_tokens else TURN_END
                return [Piece(messages[0]["content"], False, True), Piece(end, True, True)]
            return lay_out(self.family, self.think, messages, supervise)
        except PromptError as error:
            return error

    def _encode_row(
        self, messages: Sequence[Message], pieces: list[Piece] | PromptError, known: KnownTexts, rules: Rules
    ) -> list[Encoded] | PromptError:
        """The examples of a conversation whose pieces are laid out."""
        if isinstance(pieces, PromptError):
            return pieces
        if is_document(messages):
            return self._encode_document(pieces, known, rules)
        try:
            if rules.supervise == "none":
                return [self._encode_last(messages, known, rules, pieces)]
            ends = [index for index, message in enumerate(messages, start=1) if _is_learned(message)]
            if rules.supervise == "last" or ends == [len(messages)]:
                return [self._encode_last(messages, known, rules, pieces)]
            if not ends:
                return [self._encode_pieces(pieces, known)]
            if ends[-1] < len(messages):  # nothing after the last learned answer affects it
                messages = messages[: ends[-1]]
                pieces = lay_out(self.family, self.think, messages)
            num_together = self._count_together(messages, ends, known, rules) if self.supervises_every_answer else 0
            if num_together == len(ends):
                return [self._encode_pieces(pieces, known)]
            together = [messages[: ends[num_together - 1]]] if num_together else []
            return [
                *(self._encode_pieces(lay_out(self.family, self.think, part), known) for part in together),
                *(self._encode_last(messages[:end], known, rules) for end in ends[num_together:]),
            ]
        except PromptError as error:
            return error

    def _encode_document(self, pieces: list[Piece], known: KnownTexts, rules: Rules) -> list[Encoded] | PromptError:
        ids = self._encode_pieces(pieces, known).input_ids
        if rules.max_length is not None and len(ids) > rules.max_length and rules.on_too_long != "shorten":
            too_long = TooLong(len(ids), rules.max_length, "a document is split where on_too_long is shorten")
            return too_long if rules.on_too_long == "drop" else PromptError(str(too_long))
        return cut_windows(ids, rules.max_length)

    def _count_together(self, messages: Sequence[Message], ends: Sequence[int], known: KnownTexts, rules: Rules) -> int:
        """How many of the answers, which end at these indices, can be learned from one example: all if it fits.

        Later ones come after a prompt that is shortened, or would make the example too long.
        """
        if rules.max_length is None:
            return len(ends)
        if rules.on_too_long != "shorten":  # as one, or not at all
            self._encode_last(messages, known, rules)
            return len(ends)
        widest = max(self._room_behind(messages[: end - 1], known, rules).wished for end in ends)
        if max(self._count(messages, known), self._count(messages[:-1], known, asks=True) + widest) <= rules.max_length:
            return len(ends)
        for number, end in enumerate(ends):
            asked = list(messages[: end - 1])
            if self._count(messages[:end], known) > rules.max_length or self._fit(asked, rules, known) != asked:
                return number
        return len(ends)

    def _encode_last(
        self, messages: Sequence[Message], known: KnownTexts, rules: Rules, pieces: list[Piece] | None = None
    ) -> Encoded:
        """An example of the last answer alone, after its prompt; or of a prompt that nothing answers.

        What the prompt is does not depend on the answer. Raises TooLong, or PromptError as on_too_long says.
        """
        whole = self._encode_pieces(pieces or lay_out(self.family, self.think, messages, "last"), known)
        max_length, answer = rules.max_length, list(messages[-1:] if rules.supervise != "none" else [])
        if max_length is None:
            return whole
        asked = messages[: len(messages) - len(answer)]
        room, num_asked = self._room_behind(asked, known, rules), len(whole.prompt_ids)
        num_tokens = max(len(whole.input_ids), num_asked + room.needed)  # whichever of its labels is right
        if num_asked + room.wished <= max_length and num_tokens <= max_length:
            return whole
        if rules.on_too_long == "error" and num_tokens > max_length:
            raise PromptError(
                f"{num_tokens:,} tokens, but at most {max_length:,} are allowed; raise the length or shorten"
            )
        if rules.on_too_long == "drop" and num_tokens > max_length:
            raise TooLong(num_tokens, max_length, "dropped, as on_too_long says")
        try:
            fitted = self._fit(asked, rules, known)
        except TooLong as error:
            raise TooLong(num_tokens, max_length, error.reason) from None
        encoded = self._encode_pieces(lay_out(self.family, self.think, [*fitted, *answer], "last"), known)
        if len(encoded.input_ids) > max_length:
            num_left, num_over = max_length - len(encoded.prompt_ids), len(encoded.input_ids) - max_length
            raise TooLong(
                num_tokens,
                max_length,
                f"its prompt leaves {num_left:,}, its answer has {num_over:,} more; raise the length or the room for "
                "answers, or shorten the row",
            )
        return replace(encoded, num_cut=len(whole.input_ids) - len(encoded.input_ids))

    def _fit(self, asked: Sequence[Message], rules: Rules, known: KnownTexts) -> list[Message]:
        """The turns of a prompt, shortened if necessary; raises TooLong."""
        assert rules.max_length is not None
        room = self._room_behind(asked, known, rules)
        least = room.wished if rules.on_too_long == "shorten" else room.needed
        if all(turn["role"] != "user" for turn in asked):  # the assistant speaks first: nothing can be shortened
            return list(asked)
        if self._count(asked, known, asks=True) + least <= rules.max_length:
            return list(asked)

        def count_tokens(candidate: Sequence[Message]) -> int:
            return self._count(candidate, known, asks=True)

        return fit_messages(asked, rules.max_length, room, count_tokens, self.encoder.locate, rules.head_share)

    def _room_behind(self, asked: Sequence[Message], known: KnownTexts, rules: Rules) -> Room:
        """What the turns of a prompt must leave: exactly the longest label that the last one allows, or free text."""
        if rules.supervise == "none":
            return Room(0, 0)
        labels = asked[-1].get("answers", ()) if asked else ()
        newline = [NEWLINE] if self.family.ends_with_newline else []
        needed = 1
        for label in labels:
            answer: Message = {"role": "assistant", "content": label}
            pieces = [*lay_out_answer(self.family, self.think, answer), *newline]
            self._encode_texts([pieces], known)
            needed = max(needed, _count_ids(pieces, known))
        is_free = not labels or self.think == "keep"  # which thinks aloud first
        return Room(needed, max(needed, rules.answer_room) if is_free else needed)

    def _count(self, messages: Sequence[Message], known: KnownTexts, *, asks: bool = False) -> int:
        """Tokens of a conversation, or of a prompt."""
        pieces = lay_out(self.family, self.think, messages, asks=asks)
        self._encode_texts([pieces], known)
        return _count_ids(pieces, known)

    def _encode_texts(self, rows: Iterable[list[Piece]], known: KnownTexts) -> None:
        """Encode the texts of the rows that are not known yet, in one call, and remember them."""
        new = [text for text in _texts_of(rows) if text not in known]
        if new:
            known.update(zip(new, self.encoder.encode(new), strict=True))

    def _encode_pieces(self, pieces: list[Piece], known: KnownTexts) -> Encoded:
        self._encode_texts([pieces], known)
        tokens = self.encoder.control_tokens
        input_ids: list[int] = []
        loss_mask: list[int] = []
        for text, is_control, is_supervised in pieces:
            ids = [tokens[text]] if is_control else known[text]
            input_ids += ids
            loss_mask += [int(is_supervised)] * len(ids)
        return Encoded(input_ids, loss_mask)


def _is_learned(message: Message) -> bool:
    return message["role"] == "assistant" and message.get("supervised", True)


def _texts_of(rows: Iterable[list[Piece]]) -> list[str]:
    """Each text of the rows once; a system prompt or a header is in all of them."""
    return list({piece.text for row in rows for piece in row if not piece.is_control})


def _count_ids(pieces: Iterable[Piece], known: KnownTexts) -> int:
    return sum(1 if piece.is_control else len(known[piece.text]) for piece in pieces)


def _splits_alike(chat: ChatFormat, backend: Tokenizer) -> bool:
    """Whether the tokenizer itself, control tokens switched on, makes the same ids of a conversation's text."""
    if backend.truncation is not None or backend.padding is not None:  # left over from an earlier call of the tokenizer
        from tokenizers import Tokenizer

        backend = Tokenizer.from_str(backend.to_str())
        backend.no_truncation()
        backend.no_padding()
    for content in ("probe text, 1 of 2", "一段文字。\n\n  def f(x): return x\n"):
        turns: list[Message] = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
        text = "".join(piece.text for piece in lay_out(chat.family, chat.think, turns * 2))
        if chat.encode(turns * 2).input_ids != backend.encode(text, add_special_tokens=False).ids:
            return False
    return True


def cut_windows(ids: Sequence[int], max_length: int | None) -> list[Encoded]:
    """The examples of a document's ids: one, or windows of at most max_length tokens (two or more) that lose none.

    cut_windows([5, 6, 7, 8, 9, 0], 4) -> [5, 6, 7, 8], of which 6 to 8 are learned, and [8, 9, 0]: 9 and 0
    """
    step = max(1, (max_length or len(ids)) - 1)
    windows = [list(ids[start : start + step + 1]) for start in range(0, max(1, len(ids) - 1), step)]
    return [Encoded(window, [0] + [1] * (len(window) - 1)) for window in windows]
