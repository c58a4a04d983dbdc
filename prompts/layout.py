"""A conversation as a row of pieces, control tokens apart from text: which piece stands where for a model family.

No tokenizer is needed: for clean text the joined pieces are exactly what the family's chat template writes. `Encoded`
is what becomes of them: one conversation as the model sees it, token by token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from prompts.family import THINK_END, THINK_START, TURN_END, TURN_START, Family, ThinkPolicy
from prompts.messages import Message

Supervise = Literal["all", "last", "none"]  # none: a prompt, which ends with a user turn


class Piece(NamedTuple):
    """A control token, or a stretch of text that is encoded as one: Piece("<|im_end|>", True, is_supervised=True)."""

    text: str
    is_control: bool = False
    is_supervised: bool = False


START, END, NEWLINE = Piece(TURN_START, True), Piece(TURN_END, True), Piece("\n")  # made once: they are most pieces
HEADER = (START, Piece("assistant\n"))
EMPTY_BLOCK = (Piece(THINK_START, True), Piece("\n\n"), Piece(THINK_END, True), Piece("\n\n"))


def lay_out(
    family: Family,
    think: ThinkPolicy,
    messages: Sequence[Message],
    supervise: Supervise = "all",
    *,
    asks: bool = False,
) -> list[Piece]:
    """The pieces of a conversation; if it ends with a user turn, they end with the header of the answer to come.

    asks: they do so whoever spoke last.

    [{"role": "user", "content": "hi"}] -> <|im_start|> "user\\nhi" <|im_end|> "\\n" <|im_start|> "assistant\\n"
    """
    asks = asks or messages[-1]["role"] != "assistant"
    if family.default_system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": family.default_system}, *messages]
    pieces: list[Piece] = []
    for index, message in enumerate(messages, start=1):
        is_last = index == len(messages) and not asks
        if message["role"] == "assistant":
            is_supervised = is_last or (supervise == "all" and supervises_every_answer(family, think))
            is_supervised = is_supervised and message.get("supervised", True)
            # The header is encoded apart from the answer: so it was when the answer was asked for.
            pieces += [
                *_lay_out_header(family, think, is_last),
                *lay_out_answer(think, message, is_supervised),
                NEWLINE,
            ]
        else:
            pieces += [START, Piece(f"{message['role']}\n{message['content']}"), END, NEWLINE]
    if asks:
        pieces += _lay_out_header(family, think, is_last=True)
    elif not family.ends_with_newline:
        pieces.pop()
    return pieces


def lay_out_answer(think: ThinkPolicy, message: Message, is_supervised: bool = True) -> list[Piece]:
    """All that the model writes itself, the end token included: "hello" <|im_end|>."""
    end = Piece(TURN_END, True, is_supervised)
    if think != "keep":
        return [Piece(message["content"], False, is_supervised), end]
    reasoning = message.get("reasoning_content", "").strip("\n")  # as Qwen3's template does
    return [
        Piece(THINK_START, True, is_supervised),
        Piece(f"\n{reasoning}\n", False, is_supervised),
        Piece(THINK_END, True, is_supervised),
        Piece(f"\n\n{message['content']}", False, is_supervised),
        end,
    ]


def supervises_every_answer(family: Family, think: ThinkPolicy) -> bool:
    """Whether each answer of a row stands behind the context it is asked with; if not, only the last does."""
    return not (think == "auto" and family.think_block == "last")


def _lay_out_header(family: Family, think: ThinkPolicy, is_last: bool) -> tuple[Piece, ...]:
    """What stands before an answer: the turn's header and, where family and policy want one, an empty think block."""
    has_block = is_last or think == "off" or family.think_block == "every"
    if not family.has_think_block or think == "keep" or not has_block:
        return HEADER
    return HEADER + EMPTY_BLOCK


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
        """What stands before the last answer: the ids inference sends to get it; all of a row without an answer."""
        if not any(self.loss_mask):
            return self.input_ids
        end = len(self.loss_mask) - self.loss_mask[::-1].index(1)  # one behind the last supervised token
        start = end
        while start > 0 and self.loss_mask[start - 1]:
            start -= 1
        return self.input_ids[:start]
