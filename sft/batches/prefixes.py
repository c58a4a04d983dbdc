"""Find the prefixes shared by the rows of a batch (system prompt, instruction), so that they are computed once.

Causal layers compute the same for equal prefixes. So a batch can be a forest of token segments, each placed after
the segments that precede it in its rows. Four rows of two tasks, which share system prompt and instructions:

    find_segments(rows)    # [(0, 0, 20, ()), (0, 20, 41, (0,)), (1, 20, 38, (0,)),            shared
                           #  (0, 41, 80, (0, 1)), (1, 38, 77, (0, 2)), (2, 41, 90, (0, 1)), (3, 38, 60, (0, 2))]
"""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from prompts import Encoded

FEWEST_TOKENS = 8  # of a segment in common: each is one more row for attention, which a few tokens do not pay for


class Segment(NamedTuple):
    """Tokens that are computed together: row.input_ids[start:end], for every row that has them."""

    row: int
    start: int
    end: int
    above: tuple[int, ...]  # the segments, by their places in the list, that make up the tokens before start


def whole_rows(rows: Sequence[Encoded]) -> list[Segment]:
    """A segment for each row, nothing in common."""
    return [Segment(place, 0, len(row.input_ids), ()) for place, row in enumerate(rows)]


def find_segments(rows: Sequence[Encoded]) -> list[Segment]:
    """Segments in common, and after them one of its own for each row, in the order of the rows.

    A row's own segment begins before the token that predicts its first supervised one: what has a loss, and what
    predicts it, is never in common and always side by side.
    """
    prompts = [row.input_ids[: max(0, _first_supervised(row) - 1)] for row in rows]
    shared: list[Segment] = []
    own: dict[int, Segment] = {}
    # Rows, sorted by their prompts, that agree up to a place; and the segments that reach to it.
    todo: list[tuple[list[int], int, tuple[int, ...]]] = [(sorted(range(len(rows)), key=prompts.__getitem__), 0, ())]
    while todo:
        members, start, above = todo.pop()
        common = count_in_common(prompts[members[0]], prompts[members[-1]])  # of all: they are sorted
        if len(members) > 1 and common - start >= FEWEST_TOKENS:
            shared.append(Segment(members[0], start, common, above))
            start, above = common, (*above, len(shared) - 1)
        for following, group in groupby(members, key=lambda row: prompts[row][common : common + 1]):
            branch = list(group)
            if following and len(branch) > 1:
                todo.append((branch, start, above))
            else:
                own.update((row, Segment(row, start, len(rows[row].input_ids), above)) for row in branch)
    return shared + [own[row] for row in range(len(rows))]


def count_tokens(segments: Sequence[Segment]) -> int:
    """Tokens that are computed."""
    return sum(part.end - part.start for part in segments)


def count_in_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Tokens with which both begin: [1, 2, 3], [1, 2, 4, 5] -> 2."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))


def _first_supervised(row: Encoded) -> int:
    return row.loss_mask.index(1) if 1 in row.loss_mask else len(row.input_ids)
