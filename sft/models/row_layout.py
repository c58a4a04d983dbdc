"""Rows laid end to end, (T, H, D), as batches of lines for matrix products, and back: one gather each way.

Where the rows lie depends on their lengths alone, so it is found once for all layers. A row that has its beginning in
common with others sees more keys than it has queries, which stand at the last places of its keys.

    layout = find_layout((5, 7), (5, 7), num_heads=4, num_key_heads=2)
    batches = layout.queries.lay_out(query)      # (T, H, D) -> one for each of layout.batches, (B, H, L, D)
    layout.queries.put_back(batches)             # (T, H, D)
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch

MAX_PADDED_WORK = 1.5  # rows share a batch while padding costs at most so many times more


class RowBatch(NamedTuple):
    """Rows that are computed together, a line each."""

    rows: list[int]
    first: int  # no row has a query at a place before
    longest: int  # places of a line of keys; of queries, less first


class Line(NamedTuple):
    """Tokens that lie side by side in a line of a batch."""

    start: int  # the first of them, among all tokens
    number: int
    at: int  # its place in the line


class Places:
    """Which of the tokens' heads (T * H) lie where in the lines of all batches, one behind the other."""

    def __init__(self, batches: Sequence[Sequence[Line]], widths: Sequence[int], num_heads: int) -> None:
        """batches: the lines of each. widths: how long they are filled up to."""
        heads, laid, filled = torch.arange(num_heads)[:, None], [], []
        for lines, width in zip(batches, widths, strict=True):
            start, number, at = torch.tensor(lines).T[:, :, None, None]  # (B, 1, 1)
            place = torch.arange(width)
            is_token = (place >= at) & (place < at + number)  # (B, 1, L)
            tokens = torch.where(is_token, start - at + place, 0)  # nobody looks at what lies beside a row
            laid.append((tokens * num_heads + heads).flatten())  # (B, H, L)
            filled.append(is_token.expand(-1, num_heads, -1).flatten())
        self.laid, is_filled = torch.cat(laid), torch.cat(filled)
        self.empty = (~is_filled).nonzero()[:, 0]
        self.back = torch.empty(int(is_filled.sum()), dtype=torch.int64)
        self.back[self.laid[is_filled]] = is_filled.nonzero()[:, 0]
        self.sizes = [len(part) for part in laid]
        self.shapes = [(len(lines), num_heads, width) for lines, width in zip(batches, widths, strict=True)]

    def lay_out(self, tokens: torch.Tensor, *, fills: bool = False) -> list[torch.Tensor]:
        """(T, H, D) -> (B, H, L, D) for each batch; fills: zeros beside the rows."""
        lines = tokens.reshape(-1, tokens.shape[-1]).index_select(0, self.laid)
        if fills:
            lines.index_fill_(0, self.empty, 0)
        parts = zip(lines.split(self.sizes), self.shapes, strict=True)
        return [part.view(*shape, tokens.shape[-1]) for part, shape in parts]

    def put_back(self, batches: Sequence[torch.Tensor]) -> torch.Tensor:
        """What lay_out returns -> (T, H, D)."""
        lines = [batch.reshape(-1, batch.shape[-1]) for batch in batches]
        tokens = (lines[0] if len(lines) == 1 else torch.cat(lines)).index_select(0, self.back)
        return tokens.view(-1, self.shapes[0][1], tokens.shape[-1])


class Layout(NamedTuple):
    """The batches of some rows, and where their queries and keys lie in them."""

    batches: list[RowBatch]
    queries: Places
    keys: Places


@lru_cache(maxsize=8)
@torch.inference_mode(mode=False)  # what is kept here serves training as well
def find_layout(lengths: tuple[int, ...], seen: tuple[int, ...], num_heads: int, num_key_heads: int) -> Layout:
    """lengths: queries of each row. seen: keys of each, whose last ones are at the places of its queries."""
    batches = batch_rows(lengths, seen)
    ends, key_ends = list(accumulate(lengths)), list(accumulate(seen))
    queries = [
        [Line(ends[row] - lengths[row], lengths[row], seen[row] - lengths[row] - first) for row in rows]
        for rows, first, _ in batches
    ]
    keys = [[Line(key_ends[row] - seen[row], seen[row], 0) for row in batch.rows] for batch in batches]
    return Layout(
        batches,
        Places(queries, [batch.longest - batch.first for batch in batches], num_heads),
        Places(keys, [batch.longest for batch in batches], num_key_heads),
    )


def batch_rows(lengths: Sequence[int], seen: Sequence[int]) -> list[RowBatch]:
    """Rows of like lengths in one batch: [5, 100, 6] queries that see as many keys -> rows [1], and [2, 0]."""
    batches: list[RowBatch] = []
    work = 0
    for row in sorted(range(len(seen)), key=lambda row: (-seen[row], seen[row] - lengths[row])):
        place = seen[row] - lengths[row]  # of its first query
        if batches:
            rows, first, longest = batches[-1]
            joined = RowBatch([*rows, row], min(first, place), longest)
            padded = len(joined.rows) * (longest - joined.first) * longest
            if padded <= MAX_PADDED_WORK * (work + lengths[row] * seen[row]):
                batches[-1] = joined
                work += lengths[row] * seen[row]
                continue
        batches.append(RowBatch([row], place, seen[row]))
        work = lengths[row] * seen[row]
    return batches
