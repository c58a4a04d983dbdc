"""Makes a conversation fit: oldest exchanges go first, then the middle of the document in the user's turn.

Never touched: the system prompt, what surrounds the document (instruction, options), the answer. The shortened
messages are encoded again like any others, so nothing can be cut inside a token or a character.
"""

import unicodedata
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

from prompts.errors import TooLong
from prompts.messages import Message

MIN_DOCUMENT_TOKENS = 8  # a document cut to less says nothing; the row is dropped instead

CountTokens = Callable[[Sequence[Message]], int]
Locate = Callable[[str], Sequence[tuple[int, int]]]


def fit_messages(
    messages: Sequence[Message], max_length: int, count_tokens: CountTokens, locate: Locate, head_share: float
) -> list[Message]:
    """The messages, shortened to max_length tokens or fewer as count_tokens counts them.

    locate(text) gives the characters of each token of a text. Raises TooLong where nothing more may be cut.
    """
    if not 0.0 <= head_share <= 1.0:
        raise ValueError(f"head_share is {head_share}, expected 0 to 1")
    system, exchanges = split_exchanges(messages)

    def without_oldest(count: int) -> list[Message]:
        return [*system, *(message for exchange in exchanges[count:] for message in exchange)]

    candidates = range(len(exchanges) - 1)  # how many exchanges to drop; the last one always stays
    num_dropped = bisect_left(candidates, True, key=lambda count: count_tokens(without_oldest(count)) <= max_length)
    kept = without_oldest(num_dropped)
    num_tokens = count_tokens(kept)
    if num_tokens <= max_length:
        return kept
    return _shorten_document(kept, num_tokens, max_length, count_tokens, locate, head_share)


def split_exchanges(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system message apart from the exchanges, each beginning with a user: [s, u, a, u] -> [s], [[u, a], [u]]."""
    num_system = 1 if messages[0]["role"] == "system" else 0
    exchanges: list[list[Message]] = []
    for index in range(num_system, len(messages)):
        begins = messages[index]["role"] == "user" and messages[index - 1]["role"] != "user"
        if begins or not exchanges:
            exchanges.append([])
        exchanges[-1].append(messages[index])
    return list(messages[:num_system]), exchanges


def _shorten_document(
    messages: list[Message],
    num_tokens: int,
    max_length: int,
    count_tokens: CountTokens,
    locate: Locate,
    head_share: float,
) -> list[Message]:
    """Cut the middle out of the longest document among the user turns until the whole fits."""
    users = [index for index, message in enumerate(messages) if message["role"] == "user"]
    place = max(users, key=lambda index: _document_length(messages[index]))
    message = messages[place]
    start, end = message.get("document", (0, len(message["content"])))
    spans = locate(message["content"])
    first = bisect_left(spans, start, key=lambda span: span[0])  # tokens that lie wholly in the document: [first, last)
    last = bisect_right(spans, end, key=lambda span: span[1])
    num_kept = last - first - (num_tokens - max_length)
    while num_kept >= MIN_DOCUMENT_TOKENS:
        num_head = round(num_kept * head_share)
        cut_start, cut_end = spans[first + num_head][0], spans[last - (num_kept - num_head) - 1][1]
        shortened = [*messages[:place], _cut_out(message, (start, end), cut_start, cut_end), *messages[place + 1 :]]
        excess = count_tokens(shortened) - max_length
        if excess <= 0:
            return shortened
        num_kept -= excess  # the ends grew together into other tokens
    reason = (
        "the document is too short to give that many up" if first < last else "it has no part that may be shortened"
    )
    raise TooLong(num_tokens, max_length, f"{reason}; raise the length or shorten the row")


def _document_length(message: Message) -> int:
    start, end = message.get("document", (0, len(message["content"])))
    return end - start


def _cut_out(message: Message, document: tuple[int, int], cut_start: int, cut_end: int) -> Message:
    """A user message without the characters [cut_start, cut_end) of its document, marks kept with their letters."""
    start, end = document
    content = message["content"]
    while cut_start > start and unicodedata.combining(content[cut_start]):
        cut_start -= 1
    while cut_end < end and unicodedata.combining(content[cut_end]):
        cut_end += 1
    shortened = content[:cut_start] + content[cut_end:]
    return {**message, "content": shortened, "document": (start, end - (cut_end - cut_start))}
