"""Attention over several rows laid end to end, without padding and without looking across rows.

Registered with transformers under the name "flat" (AttentionInterface, its public extension point). The model is
called with one long row (1, T) and `cu_seq_lens_q`, the places where rows begin: [0, 5, 12] for rows of 5 and 7.

    with flat_attention(model):
        model(input_ids=..., position_ids=..., cu_seq_lens_q=torch.tensor([0, 5, 12]), max_length_q=7, use_cache=False)
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # before torch 2.10
    varlen_attn = None

NAME = "flat"


def attend_flat(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row: query (1, H, T, D), key and value (1, K, T, D) -> (1, T, H, D).

    Uses PyTorch's variable-length kernel where it runs (CUDA, 16 bit), else one call of SDPA per row.
    """
    if cu_seq_lens_q is None or max_length_q is None:
        raise TypeError(
            "flat attention needs cu_seq_lens_q and max_length_q: call it through sft.batching.flatten_rows"
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # grouped-query attention: each key head serves several query heads
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if varlen_attn is not None and query.is_cuda and query.dtype is not torch.float32:
        rows = [tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value)]  # (1, H, T, D) -> (T, H, D)
        mixed = varlen_attn(*rows, cu_seq_lens_q, cu_seq_lens_q, max_length_q, max_length_q, scale=scaling, **_CAUSAL)
        return mixed[None], None
    bounds = cu_seq_lens_q.tolist()
    mixed = torch.cat(
        [
            scaled_dot_product_attention(
                query[:, :, start:end], key[:, :, start:end], value[:, :, start:end], is_causal=True, scale=scaling
            )
            for start, end in pairwise(bounds)
        ],
        dim=2,
    )
    return mixed.transpose(1, 2), None


@contextmanager
def flat_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model attend row by row inside this context; outside, its usual attention (generation, padded batches)."""
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def _causal_argument() -> dict[str, object]:
    """torch 2.11 asks for a window, earlier versions for a flag."""
    if varlen_attn is None:
        return {}
    return {"is_causal": True} if "is_causal" in inspect.signature(varlen_attn).parameters else {"window_size": (-1, 0)}


_CAUSAL = _causal_argument()
AttentionInterface.register(NAME, attend_flat)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)  # rows are kept apart by cu_seq_lens_q instead
