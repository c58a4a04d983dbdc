"""Quantisation for GGUF files: the number format of each tensor, as llama.cpp's own quantiser chooses, and its bytes.

    choose_type("q4_k_m", "blk.0.ffn_down.weight", (576, 1536), num_layers=30, tied=True)    # GGMLQuantizationType.Q6_K
    quantise_q4_k(weights)      # (rows, cols), cols a multiple of 256 -> bytes (rows, cols / 256 * 144)

The gguf package decodes llama.cpp's k-quants but cannot write them; Q4_K and Q6_K are written here, on any device torch
has. Source: ggml-quants.c, quantize_row_q4_K_ref and quantize_row_q6_K_ref (without an importance matrix). The search
for the best scale is the same, all blocks at once; sums in another order may settle a near tie the other way.
"""

import math

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

from sft.config.export import GgufType
from sft.errors import ModelError

FILE_TYPES: dict[GgufType, gguf.LlamaFileType] = {
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M,
}
NARROWER = {Type.Q4_K: Type.Q5_0, Type.Q6_K: Type.Q8_0, Type.Q8_0: Type.F16, Type.Q5_0: Type.F16}
LARGEST_F16 = 65504.0
SUPER_BLOCK = 256
Q4_STEPS, Q4_FIRST, Q4_STEP = 20, -1.0, 0.1  # make_qkx2_quants' grid around the plain scale
Q6_RANGE = range(-9, 10)  # make_qx_quants' grid, in tenths
TINY = 1e-15  # GROUP_MAX_EPS: below it a block counts as zero
ROWS_AT_ONCE = 1 << 16  # super-blocks: 16.8 million weights, 70 MB for each temporary


def choose_type(kind: GgufType, name: str, shape: tuple[int, ...], *, num_layers: int, tied: bool) -> Type:
    """The type of one tensor. Vectors and norms stay fp32; q4_k_m gives 6 bits to the head and to half of the values
    and down projections. A row that is no multiple of a type's block takes the next type with smaller blocks.

    Source: llama-quant.cpp, llama_tensor_get_type.
    """
    if len(shape) < 2 or name.endswith("_norm.weight"):
        return Type.F32
    if kind == "f16":
        return Type.F16
    chosen = Type.Q8_0
    if kind == "q4_k_m":
        is_head = name == "output.weight" or (tied and name == "token_embd.weight")
        is_sensitive = name.endswith(("attn_v.weight", "ffn_down.weight"))
        six_bits = is_head or (is_sensitive and _takes_more_bits(int(name.split(".")[1]), num_layers))
        chosen = Type.Q6_K if six_bits else Type.Q4_K
    while shape[-1] % gguf.GGML_QUANT_SIZES[chosen][0]:
        chosen = NARROWER[chosen]
    return chosen


def _takes_more_bits(layer: int, num_layers: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    eighth = num_layers // 8
    return layer < eighth or layer >= 7 * num_layers // 8 or (layer - eighth) % 3 == 2


def count_bytes(shape: tuple[int, ...], chosen: Type) -> int:
    """Bytes of a tensor in a type: ((576, 1536), Q6_K) -> 725,760."""
    block, size = gguf.GGML_QUANT_SIZES[chosen]
    return math.prod(shape) // block * size


def encode_tensor(name: str, tensor: torch.Tensor, chosen: Type) -> np.ndarray:
    """A tensor's bytes in a type, as GGUF stores them. Raises ModelError for a weight that the type cannot hold."""
    if not torch.isfinite(tensor).all():
        raise ModelError(f"{name}: contains weights that are not finite; train again")
    if chosen is Type.Q4_K:
        return quantise_q4_k(_on_fastest_device(tensor)).numpy()
    if chosen is Type.Q6_K:
        return quantise_q6_k(_on_fastest_device(tensor)).numpy()
    if chosen is Type.F16 and tensor.abs().max() > LARGEST_F16:
        raise ModelError(f"{name}: a weight of {tensor.abs().max():.3g} does not fit f16; use --gguf q8_0")
    return np.ascontiguousarray(gguf.quantize(tensor.float().numpy(), chosen))


def _on_fastest_device(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cuda() if torch.cuda.is_available() else tensor


def quantise_q4_k(weights: torch.Tensor) -> torch.Tensor:
    """4.5 bits a weight: 8 blocks of 32, each with a 6-bit scale and minimum. Returns uint8, on the CPU."""
    return _by_super_block(weights, _q4_k, 144)


def quantise_q6_k(weights: torch.Tensor) -> torch.Tensor:
    """6.56 bits a weight: 16 blocks of 16, each with an 8-bit scale. Returns uint8, on the CPU."""
    return _by_super_block(weights, _q6_k, 210)


def _by_super_block(weights: torch.Tensor, quantise, num_bytes: int) -> torch.Tensor:  # type: ignore[no-untyped-def]
    rows, cols = weights.shape
    if cols % SUPER_BLOCK:
        raise ValueError(f"{cols} columns are no multiple of {SUPER_BLOCK}")
    blocks = weights.reshape(-1, SUPER_BLOCK)
    packed = [quantise(part.float()).cpu() for part in blocks.split(ROWS_AT_ONCE)]
    return torch.cat(packed).reshape(rows, cols // SUPER_BLOCK * num_bytes)


def _q4_k(x: torch.Tensor) -> torch.Tensor:
    """(S, 256) -> (S, 144): d and dmin in fp16, 12 bytes of 6-bit scales and minima, 128 bytes of nibbles."""
    blocks = x.reshape(-1, 8, 32)
    scales, minima = _search_scale_and_minimum(blocks)  # (S, 8) each
    largest_scale, largest_minimum = scales.amax(1, keepdim=True), minima.amax(1, keepdim=True)  # (S, 1)
    scale_steps = _divide(63, largest_scale) * scales
    minimum_steps = _divide(63, largest_minimum) * minima
    sc, mn = scale_steps.round().clamp(0, 63), minimum_steps.round().clamp(0, 63)  # 6 bits each
    d, dmin = (largest_scale / 63).half(), (largest_minimum / 63).half()
    scale, minimum = (d.float() * sc)[..., None], (dmin.float() * mn)[..., None]  # (S, 8, 1)
    quants = ((blocks + minimum) / scale.where(scale != 0, 1.0)).round().clamp(0, 15)
    quants = quants.where(scale != 0, 0.0).to(torch.uint8).reshape(-1, 4, 2, 32)
    nibbles = (quants[:, :, 0] | (quants[:, :, 1] << 4)).reshape(-1, 128)
    sc, mn = sc.to(torch.uint8), mn.to(torch.uint8)
    low = torch.cat([sc[:, :4] | ((sc[:, 4:] >> 4) << 6), mn[:, :4] | ((mn[:, 4:] >> 4) << 6)], 1)
    high = (sc[:, 4:] & 15) | ((mn[:, 4:] & 15) << 4)
    return torch.cat([_bytes_of(d), _bytes_of(dmin), low, high, nibbles], 1)


def _search_scale_and_minimum(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(S, 8, 32) -> the scale and the minimum's size of each block that lose least: x = scale * q - minimum."""
    weight = x.square().mean(-1, keepdim=True).sqrt() + x.abs()  # large weights count more
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True)
    flat = high == low
    span = (high - low).where(~flat, 1.0)
    sum_w, sum_x = weight.sum(-1, keepdim=True), (weight * x).sum(-1, keepdim=True)

    def round_by(steps: float, minimum: torch.Tensor) -> torch.Tensor:
        reach = (high - minimum).where(~flat, 1.0)
        return (steps / reach * (x - minimum)).round().clamp(0, 15)

    scale, minimum = span / 15, low
    quants = round_by(15, low)
    error = (weight * (scale * quants + minimum - x).square()).sum(-1, keepdim=True)
    for step in range(Q4_STEPS + 1):
        quants = round_by(Q4_FIRST + Q4_STEP * step + 15, minimum)  # around the best minimum so far, as ggml does
        sum_l, sum_l2 = (weight * quants).sum(-1, keepdim=True), (weight * quants.square()).sum(-1, keepdim=True)
        sum_xl = (weight * x * quants).sum(-1, keepdim=True)
        determinant = sum_w * sum_l2 - sum_l.square()
        solvable = determinant > 0
        determinant = determinant.where(solvable, 1.0)
        new_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant
        new_minimum = (sum_l2 * sum_x - sum_l * sum_xl) / determinant
        above_zero = new_minimum > 0
        new_scale = new_scale.where(~above_zero, _divide(1, sum_l2) * sum_xl)
        new_minimum = new_minimum.where(~above_zero, 0.0)
        new_error = (weight * (new_scale * quants + new_minimum - x).square()).sum(-1, keepdim=True)
        better = solvable & (new_error < error)
        error = new_error.where(better, error)
        scale, minimum = new_scale.where(better, scale), new_minimum.where(better, minimum)
    return scale.where(~flat, 0.0).squeeze(-1), (0.0 - minimum).squeeze(-1)  # no -0.0, whose sign would be stored


def _q6_k(x: torch.Tensor) -> torch.Tensor:
    """(S, 256) -> (S, 210): 128 bytes of low nibbles, 64 of high bit pairs, 16 signed scales, d in fp16."""
    blocks = x.reshape(-1, 16, 16)
    scales = _search_scale(blocks)  # (S, 16)
    largest = scales.gather(1, scales.abs().argmax(1, keepdim=True))  # (S, 1), with its sign
    is_zero = largest.abs() < TINY
    inverse = _divide(-128, largest)
    d = _divide(1, inverse).where(~is_zero, 0.0).half()
    sc = (inverse * scales).round().clamp(max=127)
    scale = (d.float() * sc)[..., None]  # (S, 16, 1)
    quants = (blocks / scale.where(scale != 0, 1.0)).round().clamp(-32, 31).where(scale != 0, 0.0)
    quants = (quants + 32).where(~is_zero[..., None], 0.0).to(torch.uint8).reshape(-1, 2, 4, 32)
    sc = sc.where(~is_zero, 0.0)
    low = quants & 15
    nibbles = torch.cat([low[:, :, 0] | (low[:, :, 2] << 4), low[:, :, 1] | (low[:, :, 3] << 4)], -1).reshape(-1, 128)
    high = quants >> 4
    pairs = (high[:, :, 0] | (high[:, :, 1] << 2) | (high[:, :, 2] << 4) | (high[:, :, 3] << 6)).reshape(-1, 64)
    return torch.cat([nibbles, pairs, sc.to(torch.int8).view(torch.uint8), _bytes_of(d)], 1)


def _search_scale(x: torch.Tensor) -> torch.Tensor:
    """(S, 16, 16) -> the signed scale of each block that loses least, errors weighted by the square: x = scale * q."""
    extreme = x.gather(-1, x.abs().argmax(-1, keepdim=True))  # (S, 16, 1), with its sign
    weight = x.square()
    best = torch.full_like(extreme, -torch.inf)
    scale = torch.zeros_like(extreme)
    for tenth in sorted(Q6_RANGE, key=lambda tenth: (tenth != 0, tenth)):  # the plain scale first; ties leave it
        quants = (_divide(-(32 + 0.1 * tenth), extreme) * x).round().clamp(-32, 31)
        sum_lx, sum_l2 = (weight * x * quants).sum(-1, keepdim=True), (weight * quants.square()).sum(-1, keepdim=True)
        gain = sum_lx.square() * _divide(1, sum_l2)
        better = (sum_l2 > 0) & (gain > best)
        best, scale = gain.where(better, best), (sum_lx * _divide(1, sum_l2)).where(better, scale)
    return scale.where(extreme.abs() >= TINY, 0.0).squeeze(-1)


def _divide(numerator: float, denominator: torch.Tensor) -> torch.Tensor:
    """numerator / denominator, 0 if the denominator is 0."""
    return torch.where(denominator == 0, 0.0, numerator / denominator.where(denominator != 0, 1.0))


def _bytes_of(halves: torch.Tensor) -> torch.Tensor:
    """(S, 1) fp16 -> (S, 2) bytes, little-endian."""
    return halves.contiguous().view(torch.uint8)
