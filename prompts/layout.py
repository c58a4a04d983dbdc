"""A conversation as a sequence of pieces, control tokens separate from text, in the order of a model family.

No tokenizer is needed: for clean text the joined pieces are exactly what the family's chat template writes. `Encoded`
is what becomes of them: one conversation as the model sees it, token by token.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from prompts.errors import PromptError
from prompts.family import THINK_END, THINK_START, TURN_END, TURN_START, Family, ThinkPolicy
from prompts.messages import Message
from prompts.tools import MARKS, Span, ToolForm, write_calls, write_results, write_system

Supervise = Literal["all", "last", "none"]  # none: a prompt, which ends with a user turn


class Piece(NamedTuple):
    """A control token, or a stretch of text that is encoded as one: Piece("<|im_end|>", True, is_supervised=True)."""

    text: str
    is_control: bool = False
    is_supervised: bool = False


START, END, NEWLINE = Piece(TURN_START, True), Piece(TURN_END, True), Piece("\n")  # made once: they are most pieces
HEADER = (START, Piece("assistant\n"))
EMPTY_BLOCK = (Piece(THINK_START, True), Piece("\n\n"), Piece(THINK_END, True), Piece("\n\n"))
OPEN_BLOCK = (Piece(THINK_START, True), Piece("\n"))
MARK = re.compile(f"({'|'.join(map(re.escape, MARKS))})")


def lay_out(
    family: Family,
    think: ThinkPolicy,
    messages: Sequence[Message],
    supervise: Supervise = "all",
    *,
    asks: bool = False,
) -> list[Piece]:
    """The pieces of a conversation; if it ends with a user turn, they end with the header of the answer to come.

    asks: end with that header whoever spoke last. Raises PromptError for tools in a form that the family's template
    does not have, and for a call that its form cannot express.

    [{"role": "user", "content": "hi"}] -> <|im_start|> "user\\nhi" <|im_end|> "\\n" <|im_start|> "assistant\\n"
    """
    asks = asks or messages[-1]["role"] != "assistant"
    if family.default_system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": family.default_system}, *messages]
    last_question = len(messages)
    if family.think_block == "recent":
        last_question = max((index for index, message in enumerate(messages) if message["role"] == "user"), default=-1)
    pieces: list[Piece] = []
    for index, message in enumerate(messages):
        role, is_last = message["role"], index == len(messages) - 1 and not asks
        if role == "assistant":
            is_supervised = is_last or (supervise == "all" and supervises_every_answer(family, think))
            is_supervised = is_supervised and message.get("supervised", True)
            # The header is encoded apart from the answer, as at inference, so that the tokens at the boundary agree.
            pieces += [
                *_lay_out_header(family, think, is_last=is_last, is_recent=index > last_question),
                *lay_out_answer(family, think, message, is_supervised),
                NEWLINE,
            ]
        elif role == "tools":
            system = family.clean(messages[index - 1]["content"]) if index else None
            written = write_system(_form_of(family), message.get("tools", ()), system)
            pieces += [START, *_join(family, [Span("system\n"), *written]), END, NEWLINE]
        elif role == "tool":
            if index and messages[index - 1]["role"] == "tool":
                continue  # written with the first of them
            results = itertools.takewhile(lambda turn: turn["role"] == "tool", itertools.islice(messages, index, None))
            written = write_results([family.clean(turn["content"]) for turn in results])
            pieces += [START, *_join(family, [Span("user\n"), *written]), END, NEWLINE]
        elif role == "user" or [turn["role"] for turn in messages[index + 1 : index + 2]] != ["tools"]:
            pieces += [START, Piece(f"{role}\n{family.clean(message['content'])}"), END, NEWLINE]
    if asks:
        pieces += _lay_out_header(family, think, is_last=True, is_recent=True)
    elif not family.ends_with_newline:
        pieces.pop()
    return pieces


def lay_out_answer(family: Family, think: ThinkPolicy, message: Message, is_supervised: bool = True) -> list[Piece]:
    """All that the model writes itself, the end token included: "hello" <|im_end|>."""
    content, calls = family.clean(message["content"]), message.get("tool_calls", ())
    end = Piece(TURN_END, True, is_supervised)
    if think != "keep" and not calls:
        return [Piece(content, False, is_supervised), end]
    said = [Span(content), *(write_calls(_form_of(family), calls, content) if calls else ())]
    if think != "keep":
        return [*_join(family, said, is_supervised), end]
    reasoning = message.get("reasoning_content", "").strip(None if family.trims else "\n")  # as the templates do
    opening = Piece(THINK_START, True, is_supervised), Piece(f"\n{reasoning}\n", False, is_supervised)
    if family.opens_block:  # the prompt holds it already
        opening = (Piece(f"{reasoning}\n", False, is_supervised),)  # type: ignore[assignment]
    return [
        *opening,
        Piece(THINK_END, True, is_supervised),
        *_join(family, [Span("\n\n"), *said], is_supervised),
        end,
    ]


def supervises_every_answer(family: Family, think: ThinkPolicy) -> bool:
    """Whether every answer of a row follows the same context as at inference; if not, only the last one does."""
    return not (think == "auto" and family.think_block in ("last", "recent"))


def _lay_out_header(family: Family, think: ThinkPolicy, *, is_last: bool, is_recent: bool) -> tuple[Piece, ...]:
    """What is before an answer: the turn's header and, where family and policy want one, an empty think block."""
    if not family.has_think_block:
        return HEADER
    if think == "keep":
        return HEADER + OPEN_BLOCK if family.opens_block else HEADER
    has_block = is_last or think == "off" or family.think_block == "every"
    return HEADER + EMPTY_BLOCK if has_block or (is_recent and family.think_block == "recent") else HEADER


def _form_of(family: Family) -> ToolForm:
    if family.tool_form is None:
        raise PromptError(family.tool_problem)
    return family.tool_form


def _join(family: Family, spans: Sequence[Span], is_supervised: bool = False) -> list[Piece]:
    """Spans as pieces: the words of markup that are the model's tokens apart, all text between two of them as one."""
    if len(spans) == 1:
        return [Piece(spans[0].text, False, is_supervised)]
    pieces, text = [], ""
    for span in spans:
        for word in re.split(MARK, span.text) if span.is_markup else [span.text]:
            if word in family.marks and span.is_markup:
                pieces += [Piece(text, False, is_supervised)] if text else []
                pieces.append(Piece(word, True, is_supervised))
                text = ""
            else:
                text += word
    return [*pieces, Piece(text, False, is_supervised)] if text else pieces


@dataclass(frozen=True)
class Encoded:
    """Token ids of one row and which of them are learned.

    Encoded(input_ids=[1, 4093, 198, 5303, 2, 198], loss_mask=[0, 0, 0, 1, 1, 0]): an answer and its end token.
    """

    input_ids: list[int]
    loss_mask: list[int]  # 1 = supervised; as long as input_ids
    num_cut: int = 0  # tokens of the whole row that are not here, because it was too long
    label: int | None = None  # the class that a classification head is to say of it

    @property
    def num_supervised(self) -> int:
        """Tokens that are learned, end tokens among them."""
        return sum(self.loss_mask)

    @property
    def prompt_ids(self) -> list[int]:
        """The tokens before the last answer, which inference sends; the whole row if it has no answer."""
        if not any(self.loss_mask):
            return self.input_ids
        end = len(self.loss_mask) - self.loss_mask[::-1].index(1)  # one after the last supervised token
        start = end
        while start > 0 and self.loss_mask[start - 1]:
            start -= 1
        return self.input_ids[:start]
