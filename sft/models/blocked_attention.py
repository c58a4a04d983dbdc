"""Attention within rows in bf16 on a CPU: plain matrix products over blocks of queries, each with the keys before it.

PyTorch's own attention for CPUs multiplies at a fifth of the rate of its matrix products, and wants fp32 for that. Here
rows of like lengths are padded into one batch, heads that share keys lie beside each other as further queries, and 96
queries at a time see the keys up to their own: little is computed of what causality forbids. Scores and their softmax
are fp32; probabilities are rounded to the type of the values.

    attend_blocks(query, key, value, lengths=[5, 7], scaling=0.125)
"""

from collections.abc import Sequence
from itertools import accumulate

import torch

BLOCK = 96  # queries at a time: of 48 the products are too small, of 256 more is computed in vain
KEEP_UP_TO = 1024  # tokens of a row whose probabilities are kept for the backward pass; of longer ones, computed again
MAX_PADDED_WORK = 1.5  # rows share a batch while padding costs at most so many times more

Span = tuple[int, int]  # where a row begins, and where the next one does


def attend_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int], scaling: float | None = None
) -> torch.Tensor:
    """Causal attention of rows laid end to end: query (1, H, T, D), key and value (1, K, T, D) -> (1, T, H, D)."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))  # (1, H, T, D) -> (T, H, D)
    mixed: torch.Tensor
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        mixed = _AttendBlocks.apply(q, k, v, lengths, scaling)
    else:
        mixed, _ = _attend(q, k, v, lengths, scaling, keeps=False)
    return mixed.unsqueeze(0)


class _AttendBlocks(torch.autograd.Function):
    """Keeps probabilities for its backward pass where rows are short, and nothing else of the size of the scores."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        lengths: Sequence[int],
        scaling: float,
    ) -> torch.Tensor:
        """query (T, H, D), key and value (T, K, D) -> (T, H, D)."""
        mixed, kept = _attend(query, key, value, lengths, scaling, keeps=True)
        ctx.save_for_backward(*(tensor for batch in kept for tensor in batch))
        ctx.sizes, ctx.lengths, ctx.scaling = [len(batch) for batch in kept], lengths, scaling
        return mixed

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """grad (T, H, D) -> the gradients of query, key and value."""
        saved = iter(ctx.saved_tensors)
        grads: list[torch.Tensor] = []
        for rows, size in zip(_batch_rows(ctx.lengths), ctx.sizes, strict=True):
            q, k, v, *probabilities = (next(saved) for _ in range(size))
            num_key_heads = len(k) // len(rows)
            grads = grads or [
                grad.new_empty(len(grad), heads, q.shape[-1]) for heads in (grad.shape[1], num_key_heads, num_key_heads)
            ]
            laid = _lay_out(grad, rows, num_key_heads)
            found = _differentiate(q, k, v, laid, probabilities, ctx.scaling)
            for part, whole, factor in zip(found, grads, (ctx.scaling, ctx.scaling, 1.0), strict=True):
                _put_back(part, whole, rows, factor)
        return *grads, None, None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: Sequence[int], scaling: float, *, keeps: bool
) -> tuple[torch.Tensor, list[list[torch.Tensor]]]:
    """As _AttendBlocks.forward; and of each batch of rows what the backward pass needs: its queries (B * K, G, L, D),
    keys and values (B * K, L, D), and the probabilities of each block of queries (B * K, G * N, keys)."""
    mixed = torch.empty_like(query, memory_format=torch.contiguous_format)
    kept: list[list[torch.Tensor]] = []
    for rows in _batch_rows(lengths):
        q = _lay_out(query, rows, key.shape[1])
        k, v = (_lay_out(tensor, rows, key.shape[1])[:, 0] for tensor in (key, value))
        keys, out, probabilities = _widen(k), torch.empty_like(q), []
        for start, end in _blocks(q.shape[2]):
            found = _find_probabilities(q[:, :, start:end], keys[:, :end], scaling, v.dtype)
            out[:, :, start:end] = torch.bmm(found, v[:, :end]).view(len(q), -1, end - start, q.shape[3])
            if keeps and q.shape[2] <= KEEP_UP_TO:
                probabilities.append(found)
        _put_back(out, mixed, rows)
        if keeps:
            kept.append([q, k, v, *probabilities])
    return mixed, kept


def _differentiate(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    grad: torch.Tensor,
    probabilities: Sequence[torch.Tensor],
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The gradients of a batch's queries (B * K, G, L, D) and keys (B * K, L, D), both without the factor scaling, and
    of its values (B * K, L, D). What blocks add to keys and values is summed in fp32."""
    keys, grad_q = (None if probabilities else _widen(k)), torch.empty_like(q)
    grad_k, grad_v = torch.zeros(2, *k.shape, dtype=_wide(k.dtype))
    for number, (start, end) in enumerate(_blocks(q.shape[2])):
        queries, grads = (tensor[:, :, start:end].flatten(1, 2) for tensor in (q, grad))  # (B * K, G * N, D)
        if keys is None:
            found = probabilities[number]
        else:
            found = _find_probabilities(q[:, :, start:end], keys[:, :end], scaling, v.dtype)
        grad_found = torch.bmm(grads, v[:, :end].transpose(1, 2))
        grad_scores = torch._softmax_backward_data(grad_found, found, -1, found.dtype)
        grad_q[:, :, start:end] = torch.bmm(grad_scores, k[:, :end]).view(len(q), -1, end - start, q.shape[3])
        grad_k[:, :end] += torch.bmm(grad_scores.transpose(1, 2), queries)
        grad_v[:, :end] += torch.bmm(found.transpose(1, 2), grads)
    return grad_q, grad_k, grad_v


def _find_probabilities(queries: torch.Tensor, keys: torch.Tensor, scaling: float, dtype: torch.dtype) -> torch.Tensor:
    """Of queries (B, G, N, D) and keys (B, T, D), fp32, the last N of which stand at the queries' own places:
    (B, G * N, T)."""
    batch, groups, num_queries, _ = queries.shape
    scores = torch.bmm(_widen(queries).flatten(1, 2).mul_(scaling), keys.transpose(1, 2))
    later = scores.new_full((num_queries, num_queries), float("-inf")).triu_(1)
    scores.view(batch, groups, num_queries, -1)[..., -num_queries:] += later
    return torch.softmax(scores, -1, out=scores).to(dtype)  # in place: it is all that would not fit the caches


def _widen(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy of a type in which scores are exact enough."""
    return tensor.to(_wide(tensor.dtype), copy=True, memory_format=torch.contiguous_format)


def _wide(dtype: torch.dtype) -> torch.dtype:
    """fp32, or what is wider."""
    return torch.promote_types(dtype, torch.float32)


def _blocks(length: int) -> list[Span]:
    """300 -> (0, 96), (96, 192), (192, 288), (288, 300)."""
    return [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def _batch_rows(lengths: Sequence[int]) -> list[list[Span]]:
    """Rows of like lengths, which are computed as one batch: [5, 100, 6] -> [[(5, 105)], [(105, 111), (0, 5)]]."""
    spans = [(end - length, end) for end, length in zip(accumulate(lengths), lengths, strict=True)]
    batches: list[list[Span]] = []
    longest = work = 0
    for start, end in sorted(spans, key=lambda span: span[0] - span[1]):
        work += (end - start) ** 2
        if not batches or (len(batches[-1]) + 1) * longest**2 > MAX_PADDED_WORK * work:
            batches.append([])
            longest, work = end - start, (end - start) ** 2
        batches[-1].append((start, end))
    return batches


def _lay_out(tensor: torch.Tensor, rows: Sequence[Span], num_key_heads: int) -> torch.Tensor:
    """(T, H, D) -> (B * K, G, L, D), padded on the right with zeros: causal attention never looks there."""
    longest = max(end - start for start, end in rows)
    shape = (len(rows), num_key_heads, tensor.shape[1] // num_key_heads, longest, tensor.shape[2])
    laid = tensor.new_empty(shape)
    for row, (start, end) in zip(laid, rows, strict=True):  # (K, G, L, D)
        row[:, :, : end - start] = tensor[start:end].unflatten(1, shape[1:3]).permute(1, 2, 0, 3)
        row[:, :, end - start :] = 0
    return laid.flatten(0, 1)


def _put_back(laid: torch.Tensor, whole: torch.Tensor, rows: Sequence[Span], factor: float = 1.0) -> None:
    """What _lay_out did, undone into its places in (T, H, D), times a factor."""
    for row, (start, end) in zip(laid.view(len(rows), whole.shape[1], -1, whole.shape[2]), rows, strict=True):
        torch.mul(row[:, : end - start].transpose(0, 1), factor, out=whole[start:end])
