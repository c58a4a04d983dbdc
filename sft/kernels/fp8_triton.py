"""Triton kernels of sft.kernels.fp8, which describes them: quantising, transposing, adding what adapters add.

Imported where a GPU is used. They run on a CPU, too, in Triton's interpreter: TRITON_INTERPRET=1.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

COLUMNS_AT_ONCE = 2048  # of a row that is quantised
TILE = 128  # rows and columns of a weight that is transposed
SUM_ROWS, SUM_COLUMNS, SUM_RANKS = 64, 128, 16  # of a tile of a sum, and of the adapter's part added at once
MOST_PRODUCTS = 3  # query, key and value read one input


@triton.jit
def _load_part(row, factor, columns, num_columns, HAS_FACTOR: tl.constexpr):
    value = tl.load(row + columns, mask=columns < num_columns, other=0).to(tl.float32)
    if HAS_FACTOR:
        value *= tl.load(factor + columns, mask=columns < num_columns, other=0)
    return value


@triton.jit
def _quantise(
    x, factor, values, scales, num_columns, stride, LARGEST: tl.constexpr, SMALLEST: tl.constexpr,
    HAS_FACTOR: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    largest = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, num_columns, BLOCK):
        value = _load_part(x + row * stride, factor, start + tl.arange(0, BLOCK), num_columns, HAS_FACTOR)
        largest = tl.maximum(largest, tl.abs(value), propagate_nan=tl.PropagateNan.ALL)
    scale = tl.maximum(tl.max(largest) / LARGEST, SMALLEST, propagate_nan=tl.PropagateNan.ALL)
    tl.store(scales + row, scale)
    for start in range(0, num_columns, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        value = _load_part(x + row * stride, factor, columns, num_columns, HAS_FACTOR) / scale
        value = tl.clamp(value, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)
        tl.store(values + row * num_columns + columns, value.to(tl.float8e4nv), mask=columns < num_columns)


def quantise(
    x: torch.Tensor, factor: torch.Tensor | None, *, largest: float, smallest: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """x (T, K), or x * factor (K,) -> values in e4m3 (T, K), scales (T, 1) in fp32.

    largest: of e4m3; smallest: a scale.
    """
    x = x if x.stride(1) == 1 else x.contiguous()
    values = torch.empty(x.shape, dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(len(x), 1, dtype=torch.float32, device=x.device)
    if len(x):
        _quantise[(len(x),)](
            x, x if factor is None else factor, values, scales, x.shape[1], x.stride(0), largest, smallest,
            factor is not None, min(COLUMNS_AT_ONCE, triton.next_power_of_2(x.shape[1])), num_warps=8,
        )  # fmt: skip
    return values, scales


@triton.jit
def _transpose(source, target, num_rows, num_columns, TILE: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    columns = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
    tile = tl.load(source + rows[:, None] * num_columns + columns[None, :], mask=inside)
    turned = (columns < num_columns)[:, None] & (rows < num_rows)[None, :]
    tl.store(target + columns[:, None] * num_rows + rows[None, :], tl.trans(tile), mask=turned)


def transpose(weight: torch.Tensor) -> torch.Tensor:
    """(O, I) of one byte a value -> (I, O), laid out anew."""
    num_rows, num_columns = weight.shape
    target = torch.empty(num_columns, num_rows, dtype=weight.dtype, device=weight.device)
    grid = triton.cdiv(num_rows, TILE), triton.cdiv(num_columns, TILE)
    _transpose[grid](weight.view(torch.uint8), target.view(torch.uint8), num_rows, num_columns, TILE, num_warps=8)
    return target


@triton.jit(do_not_specialize=["salt"])  # else it would be compiled for each layer
def _add_shares(
    first, second, third, narrow, small, out, num_rows, num_columns, num_ranks, narrow_stride, rank_stride,
    column_stride, salt, COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, RANKS: tl.constexpr,
):  # fmt: skip
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    rows = tl.program_id(1).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, num_ranks, RANKS):
        ranks = start + tl.arange(0, RANKS)
        known = ranks < num_ranks
        left = tl.load(
            narrow + rows[:, None] * narrow_stride + ranks[None, :],
            mask=(rows < num_rows)[:, None] & known[None, :], other=0,
        )  # fmt: skip
        right = tl.load(
            small + ranks[:, None] * rank_stride + columns[None, :] * column_stride,
            mask=known[:, None] & (columns < num_columns)[None, :], other=0,
        )  # fmt: skip
        total = tl.dot(left.to(tl.float32), right.to(tl.float32), total)  # as tf32, which holds every bf16
    inside = (rows < num_rows)[:, None] & (columns < num_columns)[None, :]
    index = rows[:, None] * num_columns + columns[None, :]
    total += tl.load(first + index, mask=inside, other=0).to(tl.float32)
    if COUNT > 1:
        total += tl.load(second + index, mask=inside, other=0).to(tl.float32)
    if COUNT > 2:
        total += tl.load(third + index, mask=inside, other=0).to(tl.float32)
    mixed = ((index ^ salt) & 0xFFFFFFFF).to(tl.uint32)
    mixed = (mixed ^ (mixed >> 16)) * 0x21F0AAAD
    mixed = (mixed ^ (mixed >> 15)) * 0xD35A2D97
    mixed = (mixed ^ (mixed >> 15)) & 0xFFFF
    bits = total.to(tl.uint32, bitcast=True)
    rounded = (bits + mixed) & 0xFFFF0000
    is_finite = tl.abs(total) <= 3.4028234e38
    tl.store(out + index, tl.where(is_finite, rounded, bits).to(tl.float32, bitcast=True).to(tl.bfloat16), mask=inside)


def add_shares(products: Sequence[torch.Tensor], narrow: torch.Tensor, small: torch.Tensor, salt: int) -> torch.Tensor:
    """The sum of products (T, N), at most three, and narrow (T, R) @ small (R, N), rounded once; salt: below 2**31."""
    num_rows, num_columns = products[0].shape
    out = torch.empty_like(products[0])
    first, second, third = [*products, *[products[0]] * MOST_PRODUCTS][:MOST_PRODUCTS]
    grid = triton.cdiv(num_columns, SUM_COLUMNS), triton.cdiv(num_rows, SUM_ROWS)
    _add_shares[grid](
        first, second, third, narrow, small, out, num_rows, num_columns, narrow.shape[1], narrow.stride(0),
        *small.stride(), salt, len(products), SUM_ROWS, SUM_COLUMNS, SUM_RANKS,
    )  # fmt: skip
    return out
