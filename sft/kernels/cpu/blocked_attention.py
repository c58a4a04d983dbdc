"""Attention within rows in bf16 on a CPU: plain matrix products over blocks of queries, each with the keys before it.

PyTorch's own attention for CPUs multiplies at a fifth of the rate of its matrix products, and wants fp32 for that. Here
rows of similar length are padded into one batch, and 96 queries at a time see the keys up to their own: little is
computed of what causality forbids. Scores and their softmax are fp32; probabilities are rounded to the values' dtype.

    attend_blocks(query, key, value, lengths=[5, 7], scaling=0.125)

A layout takes rows concatenated, (T, H, D), to padded batches and back, by one gather each way. It depends on the
lengths alone, so it is found once for all layers. A row that shares its prefix with others sees more keys than it has
queries; its queries belong to the last of its keys.

    layout = find_layout((5, 7), (5, 7), num_heads=4, num_key_heads=2)
    batches = layout.queries.lay_out(query)      # (T, H, D) -> one for each of layout.batches, (B, H, L, D)
    layout.queries.put_back(batches)             # (T, H, D)
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch

BLOCK = 96  # queries at a time, about: of 48 the products are too small, of 256 more is computed in vain
KEEP_UP_TO = 1024  # tokens of a row whose probabilities are kept for the backward pass; of longer ones, computed again
Span = tuple[int, int]  # start, and start of the next
MAX_PADDED_WORK = 1.5  # rows share a batch while padding costs at most this many times more


def attend_blocks(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: Sequence[int],
    scaling: float | None = None,
    seen: Sequence[int] | None = None,
) -> torch.Tensor:
    """Causal attention of rows concatenated: query (1, H, T, D), key and value (1, K, S, D) -> (1, T, H, D).

    lengths: queries of each row. seen: keys of each, whose last ones are at the places of its queries; None: as many.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    layout = find_layout(tuple(lengths), tuple(seen or lengths), query.shape[1], key.shape[1])
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))  # (1, H, T, D) -> (T, H, D)
    mixed: torch.Tensor
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        mixed = _AttendBlocks.apply(q, k, v, layout, scaling)
    else:
        mixed, _ = _attend(q, k, v, layout, scaling, keeps=False)
    return mixed.unsqueeze(0)


class Line(NamedTuple):
    """Consecutive tokens in a row of a batch."""

    start: int  # the first of them, among all tokens
    number: int
    at: int  # index in the row of the batch


class Places:
    """Indices of the tokens' heads (T * H) in the rows of all batches, concatenated."""

    def __init__(self, batches: Sequence[Sequence[Line]], widths: Sequence[int], num_heads: int) -> None:
        """batches: the lines of each. widths: how long they are filled up to."""
        heads, laid, filled = torch.arange(num_heads)[:, None], [], []
        for lines, width in zip(batches, widths, strict=True):
            start, number, at = torch.tensor(lines).T[:, :, None, None]  # (B, 1, 1)
            place = torch.arange(width)
            is_token = (place >= at) & (place < at + number)  # (B, 1, L)
            tokens = torch.where(is_token, start - at + place, 0)  # padding is never attended to
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


class RowBatch(NamedTuple):
    """Rows that are computed together, a line each."""

    rows: list[int]
    first: int  # no row has a query before this index
    longest: int  # places of a line of keys; of queries, less first


class Layout(NamedTuple):
    """The batches of some rows, and the indices of their queries and keys."""

    batches: list[RowBatch]
    queries: Places
    keys: Places


class _AttendBlocks(torch.autograd.Function):
    """Keeps probabilities for its backward pass where rows are short, and nothing else of the size of the scores."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        layout: Layout,
        scaling: float,
    ) -> torch.Tensor:
        """query (T, H, D), key and value (S, K, D) -> (T, H, D)."""
        mixed, kept = _attend(query, key, value, layout, scaling, keeps=True)
        ctx.save_for_backward(*(tensor for batch in kept for tensor in batch))
        ctx.sizes, ctx.layout, ctx.scaling = [len(batch) for batch in kept], layout, scaling
        return mixed

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """grad (T, H, D) -> the gradients of query, key and value."""
        saved, layout = iter(ctx.saved_tensors), ctx.layout
        laid = zip(layout.batches, layout.queries.lay_out(grad, fills=True), ctx.sizes, strict=True)
        found = [
            _differentiate(grads, *(next(saved) for _ in range(size)), scaling=ctx.scaling, first=rows.first)
            for rows, grads, size in laid
        ]
        grad_q, grad_k, grad_v = zip(*found, strict=True)
        return (
            layout.queries.put_back(grad_q).mul_(ctx.scaling),
            layout.keys.put_back(grad_k).mul_(ctx.scaling).to(grad.dtype),
            layout.keys.put_back(grad_v).to(grad.dtype),
            None,
            None,
        )


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float,
    *,
    keeps: bool,
) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
    """As _AttendBlocks.forward; and of each batch of rows what the backward pass needs: its queries (B * K, G, L, D),
    keys and values (B * K, M, D), and the probabilities of each block of queries (B * K, G * N, keys)."""
    mixed: list[torch.Tensor] = []
    kept: list[list[torch.Tensor]] = []
    laid = (places.lay_out(t) for places, t in ((layout.queries, query), (layout.keys, key), (layout.keys, value)))
    for rows, q, k, v in zip(layout.batches, *laid, strict=True):
        q, k, v = q.unflatten(1, (k.shape[1], -1)).flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
        keys, outputs, probabilities = _widen(k), [], []
        for start, end in _blocks(q.shape[2]):
            seen = rows.first + end
            found = _find_probabilities(q[:, :, start:end], keys[:, :seen], scaling, v.dtype)
            outputs.append(_by_heads(torch.bmm(found, v[:, :seen]), q))
            if keeps and rows.longest <= KEEP_UP_TO:
                probabilities.append(found)
        mixed.append(_join(outputs))
        if keeps:
            kept.append([q, k, v, *probabilities])
    return layout.queries.put_back(mixed), kept


def _differentiate(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *probabilities: torch.Tensor,
    scaling: float,
    first: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of a batch's queries (B * K, G, L, D) and keys (B * K, M, D), both without the factor scaling, and
    of its values (B * K, M, D). What blocks add to keys and values is summed in fp32."""
    grad, keys = grad.view_as(q), (None if probabilities else _widen(k))
    grads_q: list[torch.Tensor] = []
    grad_k, grad_v = k.new_empty(0), v.new_empty(0)
    for number, (start, end) in reversed(list(enumerate(_blocks(q.shape[2])))):  # the last one sees all keys
        queries, grads = (tensor[:, :, start:end].flatten(1, 2) for tensor in (q, grad))  # (B * K, G * N, D)
        seen = first + end
        if keys is None:
            found = probabilities[number]
        else:
            found = _find_probabilities(q[:, :, start:end], keys[:, :seen], scaling, v.dtype)
        grad_found = torch.bmm(grads, v[:, :seen].transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_found, found, -1, found.dtype)
        grads_q.append(_by_heads(torch.bmm(grad_scores, k[:, :seen]), q))
        grad_k = _add_to(grad_k, torch.bmm(grad_scores.transpose(1, 2), queries))
        grad_v = _add_to(grad_v, torch.bmm(found.transpose(1, 2), grads))
    return _join(grads_q[::-1]), grad_k, grad_v


def _add_to(total: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """What a block adds to the first of the keys, total being empty before it where it is the first block; what is one
    alone stays in its type."""
    if not total.numel():
        return part
    total = total.to(_wide(part.dtype))
    total[:, : part.shape[1]] += part
    return total


def _by_heads(rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(B * K, G * N, D) -> (B * K, G, N, D)."""
    return rows.view(len(like), like.shape[1], -1, like.shape[3])


def _join(blocks: Sequence[torch.Tensor]) -> torch.Tensor:
    """(B * K, G, N, D) each -> (B * K, G, L, D)."""
    return blocks[0] if len(blocks) == 1 else torch.cat(list(blocks), dim=2)


def _find_probabilities(queries: torch.Tensor, keys: torch.Tensor, scaling: float, dtype: torch.dtype) -> torch.Tensor:
    """Of queries (B, G, N, D) and keys (B, T, D), fp32, the last N of which are at the queries' own places:
    (B, G * N, T)."""
    batch, groups, num_queries, _ = queries.shape
    wide = _widen(queries).flatten(1, 2)
    scores = torch.baddbmm(wide.new_empty(()), wide, keys.transpose(1, 2), beta=0, alpha=scaling)
    scores.view(batch, groups, num_queries, -1)[..., -num_queries:] += _later(num_queries, scores.dtype)
    return torch.softmax(scores, -1, out=scores).to(dtype)  # in place, so that it fits the caches


@lru_cache(maxsize=64)
@torch.inference_mode(mode=False)
def _later(num_queries: int, dtype: torch.dtype) -> torch.Tensor:
    """(N, N): the causal mask of queries and keys at the same positions."""
    return torch.full((num_queries, num_queries), float("-inf"), dtype=dtype).triu_(1)


def _widen(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy of a type in which scores are exact enough."""
    return tensor.to(_wide(tensor.dtype), copy=True, memory_format=torch.contiguous_format)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """fp32, or a wider type."""
    return torch.promote_types(dtype, torch.float32)


def _blocks(length: int) -> list[Span]:
    """Spans of similar sizes, about BLOCK long: 100 -> (0, 100); 300 -> (0, 100), (100, 200), (200, 300)."""
    number = max(1, round(length / BLOCK))
    return list(pairwise(length * cut // number for cut in range(number + 1)))


@lru_cache(maxsize=8)
@torch.inference_mode(mode=False)  # cached tensors are also used in training
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
    """Rows of similar lengths in one batch: [5, 100, 6] queries that see as many keys -> rows [1], and [2, 0]."""
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
