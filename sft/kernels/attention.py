"""Attention over several rows concatenated, without padding and without looking across rows.

Registered with transformers under the name "flat" (AttentionInterface, its public extension point). The model is
called with one long row (1, T) and `cu_seq_lens_q`, the start of each row: [0, 5, 12] for rows of 5 and 7.

    with flat_attention(model):
        model(input_ids=..., position_ids=..., cu_seq_lens_q=torch.tensor([0, 5, 12]), max_length_q=7, use_cache=False)
"""

import inspect
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel

from sft.kernels.arguments import UnknownArgument, refuse_unknown
from sft.kernels.cpu import attend_blocks

NAME = "flat"
MAX_PADDED_WORK = 3  # rows are padded for attention alone while that costs at most this many times more


def attend_flat(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    cu_seq_lens_k: torch.Tensor | None = None,
    max_length_k: int | None = None,
    key_places: torch.Tensor | None = None,
    sliding_window: int | None = None,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each row: query (1, H, T, D), key and value (1, K, T, D) -> (1, T, H, D).

    key_places (S,), cu_seq_lens_k, max_length_k: the tokens that each segment sees, where rows have a beginning in
    common (sft.batches.flatten_rows). sliding_window: tokens that a token sees at most, itself among them.

    Uses PyTorch's variable-length kernel where it runs (CUDA, 16 bit), else SDPA: once for all rows where their lengths
    are alike, row by row where they are not. Raises UnknownArgument for attention of any other kind.
    """
    refuse_unknown(more)
    if attention_mask is not None and attention_mask.numel() > 1:  # a recorded pass brings one number
        raise UnknownArgument("attention with a mask of its own")
    if not getattr(module, "is_causal", True):
        raise UnknownArgument("attention to later tokens")
    if cu_seq_lens_q is None or max_length_q is None:
        raise TypeError("flat attention needs cu_seq_lens_q and max_length_q: call it through sft.batches.flatten_rows")
    if cu_seq_lens_k is None or max_length_k is None:  # as many keys as queries
        cu_seq_lens_k, max_length_k = cu_seq_lens_q, max_length_q
    window = sliding_window if sliding_window is not None and sliding_window < max_length_k else None
    if torch.is_autocast_enabled(query.device.type):  # rotating by fp32 angles made fp32 of them; SDPA does the same
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if has_varlen(query.device, query.dtype) and not dropout and fits_varlen(query, value):
        if key_places is not None:
            key, value = pick(key, key_places), pick(value, key_places)  # (1, K, S, D)
        # (1, H, T, D) -> (T, H, D), as it lies in memory. squeeze: the gradient of [0] would be copied into zeros
        rows = [tensor.squeeze(0).transpose(0, 1).contiguous() for tensor in (query, key, value)]
        more_of_it = _varlen_arguments(window)
        mixed = _find_varlen()(
            *rows, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k, scale=scaling, **more_of_it
        )
        return mixed[None], None
    lengths, seen = cu_seq_lens_q.diff().tolist(), cu_seq_lens_k.diff().tolist()
    places = None if key_places is None else key_places[: sum(seen)]  # without padding
    if places is not None:
        key, value = pick(key, places), pick(value, places)
    is_plain = window is None and not dropout and query.shape[-1] == value.shape[-1]
    if query.device.type == "cpu" and query.dtype is torch.bfloat16 and is_plain:
        return attend_blocks(query, key, value, lengths, scaling, seen), None
    how = Sdpa(scaling, dropout, window)
    if places is None:
        return _attend_rows(query, key, value, lengths, how), None
    mixed = _attend_rows(pick(query, places), key, value, seen, how)  # whole rows; of each its own part
    ends = zip(accumulate(seen), lengths, strict=True)
    return torch.cat([mixed[:, end - length : end] for end, length in ends], dim=1), None


class Sdpa(NamedTuple):
    """How PyTorch's attention for all devices is to be computed."""

    scaling: float | None
    dropout: float
    window: int | None

    def __call__(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Queries, keys and values of equally many tokens, (B, H, L, D) each -> (B, H, L, D)."""
        if self.window is None:
            return scaled_dot_product_attention(query, key, value, None, self.dropout, True, scale=self.scaling)
        place = torch.arange(query.shape[2], device=query.device)
        behind = place[:, None] - place  # (L, L)
        seen = (behind >= 0) & (behind < self.window)
        return scaled_dot_product_attention(query, key, value, seen, self.dropout, scale=self.scaling)


def _attend_rows(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], attend: Sdpa
) -> torch.Tensor:
    """By PyTorch's attention for all devices: (1, H, T, D), (1, K, T, D) -> (1, T, H, D)."""
    key, value = (_repeat_heads(tensor, query.shape[1], dim=1) for tensor in (key, value))
    if len(lengths) * max(lengths) ** 2 <= MAX_PADDED_WORK * sum(length**2 for length in lengths):
        return _attend_padded(query, key, value, lengths, attend)
    each_row = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    return torch.cat([attend(q, k, v) for q, k, v in each_row], dim=2).transpose(1, 2)


def _attend_padded(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int], attend: Sdpa
) -> torch.Tensor:
    """All rows in one call, padded on the right for this one operation: (1, H, T, D) each -> (1, T, H, D).

    Causal attention never looks at the padding after a row, so no mask is needed.
    """
    q, k, v = (
        pad_sequence(list(tensor[0].transpose(0, 1).split(lengths)), batch_first=True).transpose(1, 2)
        for tensor in (query, key, value)  # (T, H, D) -> (B, L, H, D) -> (B, H, L, D)
    )
    mixed = attend(q, k, v).transpose(1, 2)  # (B, L, H, D)
    return torch.cat([row[:length] for row, length in zip(mixed.unbind(0), lengths, strict=True)])[None]


def pick(heads: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Tokens by index, any number of times: (1, K, T, D), (S,) -> (1, K, S, D).

    At -1 is some token or other, of which nothing is learned.
    """
    picked: torch.Tensor = _Pick.apply(heads.squeeze(0).transpose(0, 1), places)
    return picked.transpose(0, 1)[None]


class _Pick(torch.autograd.Function):
    """Whose backward pass adds in fp32 what several rows say of one token."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, tokens: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """tokens (T, K, D), places (S,) -> (S, K, D)."""
        ctx.save_for_backward(places)
        ctx.shape = tokens.shape
        return tokens.index_select(0, places.clamp(min=0))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor, None]:
        """grad (S, K, D) -> the gradient of tokens (T, K, D)."""
        (places,) = ctx.saved_tensors
        tokens, *rest = ctx.shape
        total = grad.new_zeros(tokens + 1, *rest, dtype=torch.promote_types(grad.dtype, torch.float32))
        total.index_add_(0, places.remainder(tokens + 1), grad.to(total.dtype))  # -1: the last one, which is padding
        return total[:tokens].to(grad.dtype), None


def time_attention(
    config: PreTrainedConfig, length: int, device: torch.device, dtype: torch.dtype
) -> tuple[float, float]:
    """Seconds of attention, forward and backward, in one layer of a model over one row of that many tokens."""
    num_heads = int(getattr(config, "num_attention_heads", 0))
    if not num_heads:
        return 0.0, 0.0
    num_keys = int(getattr(config, "num_key_value_heads", None) or num_heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // num_heads)
    query, key, value = (
        torch.randn(1, heads, length, size, dtype=dtype, device=device).requires_grad_()
        for heads in (num_heads, num_keys, num_keys)
    )
    bounds, layer, ended = torch.tensor([0, length], dtype=torch.int32, device=device), torch.nn.Module(), [0.0] * 3
    for _ in range(2):  # the first time, libraries are loaded
        ended[0] = _now(device)
        mixed, _ = attend_flat(layer, query, key, value, None, cu_seq_lens_q=bounds, max_length_q=length)
        ended[1] = _now(device)
        torch.autograd.grad(mixed, (query, key, value), mixed.detach())
        ended[2] = _now(device)
    return ended[1] - ended[0], ended[2] - ended[1]


def _now(device: torch.device) -> float:
    """The clock in seconds, after all queued work of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


@contextmanager
def flat_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let a model attend row by row inside this context; outside, its usual attention (generation, padded batches)."""
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before


def has_varlen(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether PyTorch's variable-length kernel runs there: 16 bits, on a card since Ampere (2020; a T4 is older)."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16) or _find_varlen() is None:
        return False
    return bool(torch.cuda.get_device_capability(device) >= (8, 0))


@cache
def _find_varlen() -> Any:
    """PyTorch's kernel, None before torch 2.10. Imported only with a GPU, because it imports torch's compiler."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn


@cache
def _varlen_parameters() -> Collection[str]:
    return inspect.signature(_find_varlen()).parameters


def _repeat_heads(tensor: torch.Tensor, num_heads: int, dim: int) -> torch.Tensor:
    """Grouped-query attention: each key and value head once for every query head that it serves."""
    groups = num_heads // tensor.shape[dim]
    return tensor.repeat_interleave(groups, dim=dim) if groups > 1 else tensor


def fits_varlen(query: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether the kernel takes heads of these sizes: up to 256, values as wide as queries."""
    return bool(query.shape[-1] == value.shape[-1] <= 256)


def _varlen_arguments(window: int | None) -> dict[str, object]:
    """The kernel's arguments for causality and a window (an argument since torch 2.11; before, a flag, and no windows)
    and of key heads that several query heads share (a flag since 2.12; before, it takes them as they come)."""
    gqa: dict[str, object] = {"enable_gqa": True} if "enable_gqa" in _varlen_parameters() else {}
    if "window_size" in _varlen_parameters():
        return gqa | {"window_size": (-1 if window is None else window - 1, 0)}
    if window is not None:
        raise UnknownArgument(f"attention with sliding_window={window} (needs torch 2.11)")
    return gqa | {"is_causal": True}


AttentionInterface.register(NAME, attend_flat)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)  # rows are kept apart by cu_seq_lens_q instead
