"""Plain text, learned whole: a document is a conversation of one message, {"role": "document", "content": "..."}.

Its text is encoded like any other, without control tokens, and ends in one end-of-text token. What is longer than an
example may be is cut into windows; each begins with the last token of the one before it, so that every token but a
document's first is predicted exactly once.

    cut_windows([5, 6, 7, 8, 9, 0], 4)      # [5, 6, 7, 8], of which 6 to 8 are learned, and [8, 9, 0]: 9 and 0
"""

from collections.abc import Sequence

from prompts.layout import Encoded


def cut_windows(ids: Sequence[int], max_length: int | None) -> list[Encoded]:
    """The examples of a document's ids: one, or windows of at most max_length tokens (two or more) that lose none."""
    step = max(1, (max_length or len(ids)) - 1)
    windows = [list(ids[start : start + step + 1]) for start in range(0, max(1, len(ids) - 1), step)]
    return [Encoded(window, [0] + [1] * (len(window) - 1)) for window in windows]
