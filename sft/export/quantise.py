"""Which number format each tensor of a GGUF file gets, as llama.cpp's own quantiser chooses, and its bytes.

choose_type("q4_k_m", "blk.0.ffn_down.weight", (576, 1536), num_layers=30, tied=True)    # GGMLQuantizationType.Q6_K
"""

import math

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type

from sft.config.export import GgufType
from sft.errors import ModelError
from sft.export.k_quants import quantise_q4_k, quantise_q6_k

FILE_TYPES: dict[GgufType, gguf.LlamaFileType] = {
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_k_m": gguf.LlamaFileType.MOSTLY_Q4_K_M,
}
NARROWER = {Type.Q4_K: Type.Q5_0, Type.Q6_K: Type.Q8_0, Type.Q8_0: Type.F16, Type.Q5_0: Type.F16}
LARGEST_F16 = 65504.0


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
        raise ModelError(f"{name}: holds weights that are not finite; train again")
    if chosen is Type.Q4_K:
        return quantise_q4_k(_on_fastest_device(tensor)).numpy()
    if chosen is Type.Q6_K:
        return quantise_q6_k(_on_fastest_device(tensor)).numpy()
    if chosen is Type.F16 and tensor.abs().max() > LARGEST_F16:
        raise ModelError(f"{name}: a weight of {tensor.abs().max():.3g} does not fit f16; use --gguf q8_0")
    return np.ascontiguousarray(gguf.quantize(tensor.float().numpy(), chosen))


def _on_fastest_device(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cuda() if torch.cuda.is_available() else tensor
