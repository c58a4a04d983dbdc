"""Makes a prompt fit: drops the oldest exchanges first, then the middle of the document in the user's turn.

What is cut depends on the prompt alone. Room is left for any allowed answer, not for the right one: a prompt cut until
the right answer fits would reveal its length, and a model learns to use that. Never touched: the system prompt, the
tools, their calls and results, and what surrounds the document (instruction, options). The shortened messages are
encoded again like any others, so nothing can be cut inside a token or a character.
"""

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import NamedTuple

from prompts.errors import TooLong
from prompts.messages import LEADING, Message

MIN_DOCUMENT_TOKENS = 8  # a document cut to less says nothing; the row is dropped instead
ANSWER_ROOM = 512  # tokens kept free for free text: the default limit of evaluate.py and inference.py

CountTokens = Callable[[Sequence[Message]], int]
Locate = Callable[[str], Sequence[tuple[int, int]]]


class Room(NamedTuple):
    """Tokens that a shortened prompt leaves for its answer: Room(6, 6) for labels, Room(1, 512) for free text.

    `wished` is given if it is at most half of what the fixed parts of the prompt leave; `needed` always.
    """

    needed: int
    wished: int


def fit_messages(
    messages: Sequence[Message],
    max_length: int,
    room: Room,
    count_tokens: CountTokens,
    locate: Locate,
    head_share: float,
) -> list[Message]:
    """A prompt's messages, shortened until they take at most max_length tokens less the room for the answer.

    count_tokens counts those of a prompt; locate(text) gives the characters of each token of a text. Raises TooLong
    where nothing more may be cut.
    """
    if not 0.0 <= head_share <= 1.0:
        raise ValueError(f"head_share is {head_share}, expected 0 to 1")
    system, exchanges = split_exchanges(messages)

    def without_oldest(count: int) -> list[Message]:
        return [*system, *(message for exchange in exchanges[count:] for message in exchange)]

    last = without_oldest(len(exchanges) - 1)
    num_fixed = count_tokens(_without_document(last))
    limit = max_length - max(room.needed, min(room.wished, (max_length - num_fixed) // 2))
    candidates = range(len(exchanges) - 1)  # how many exchanges to drop; the last one always stays
    num_dropped = bisect_left(candidates, True, key=lambda count: count_tokens(without_oldest(count)) <= limit)
    kept = without_oldest(num_dropped)
    num_tokens = count_tokens(kept)
    if num_tokens <= limit:
        return kept
    shortened = _shorten_document(kept, num_tokens - limit, limit, count_tokens, locate, head_share)
    if shortened is None:
        has_document = any(_document_length(message) for message in kept if message["role"] == "user")
        reason = (
            "the document is too short to give that many up" if has_document else "it has no part that may be shortened"
        )
        raise TooLong(num_tokens + room.needed, max_length, f"{reason}; raise the length or shorten the row")
    return shortened


def split_exchanges(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """System message and tools apart from the exchanges, each begun by a user: [s, u, a, u] -> [s], [[u, a], [u]]."""
    num_system = next((index for index, turn in enumerate(messages) if turn["role"] not in LEADING), len(messages))
    exchanges: list[list[Message]] = []
    for index in range(num_system, len(messages)):
        begins = messages[index]["role"] == "user" and messages[index - 1]["role"] != "user"
        if begins or not exchanges:
            exchanges.append([])
        exchanges[-1].append(messages[index])
    return list(messages[:num_system]), exchanges


def _shorten_document(
    messages: list[Message],
    num_over: int,
    limit: int,
    count_tokens: CountTokens,
    locate: Locate,
    head_share: float,
) -> list[Message] | None:
    """Cut the middle out of the longest document until the whole fits; None if too little of it would be left."""
    index = _longest_document(messages)
    message = messages[index]
    start, end = _document_of(message)
    spans = locate(message["content"])
    first = bisect_left(spans, start, key=lambda span: span[0])  # tokens wholly inside the document: [first, last)
    last = bisect_right(spans, end, key=lambda span: span[1])
    num_kept = last - first - num_over
    while num_kept >= MIN_DOCUMENT_TOKENS:
        num_head = round(num_kept * head_share)
        cut_start, cut_end = spans[first + num_head][0], spans[last - (num_kept - num_head) - 1][1]
        shortened = [*messages[:index], _cut_out(message, cut_start, cut_end), *messages[index + 1 :]]
        excess = count_tokens(shortened) - limit
        if excess <= 0:
            return shortened
        num_kept -= excess  # the ends grew together into other tokens
    return None


def _without_document(messages: list[Message]) -> list[Message]:
    """The messages with nothing of the document that may be shortened."""
    index = _longest_document(messages)
    return [*messages[:index], _cut_out(messages[index], *_document_of(messages[index])), *messages[index + 1 :]]


def _longest_document(messages: Sequence[Message]) -> int:
    """Index of the user turn with the longest document."""
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    return max(users, key=lambda index: _document_length(messages[index]))


def _document_length(message: Message) -> int:
    start, end = _document_of(message)
    return end - start


def _document_of(message: Message) -> tuple[int, int]:
    return message.get("document", (0, len(message["content"])))


def _cut_out(message: Message, cut_start: int, cut_end: int) -> Message:
    """A user message without the characters [cut_start, cut_end) of its document, marks kept with their letters."""
    start, end = _document_of(message)
    content = message["content"]
    while cut_start > start and unicodedata.combining(content[cut_start]):
        cut_start -= 1
    while cut_end < end and unicodedata.combining(content[cut_end]):
        cut_end += 1
    shortened = content[:cut_start] + content[cut_end:]
    return {**message, "content": shortened, "document": (start, end - (cut_end - cut_start))}
