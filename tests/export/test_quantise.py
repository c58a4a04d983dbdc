import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from sft.errors import ModelError
from sft.export.quantise import choose_type, count_bytes, encode_tensor


def chosen(kind: str, name: str, shape: tuple[int, ...], tied: bool = True) -> Type:
    return choose_type(kind, name, shape, num_layers=30, tied=tied)


def test_vectors_and_norms_stay_fp32_in_every_type():
    for kind in ("f16", "q8_0", "q4_k_m"):
        assert chosen(kind, "blk.0.attn_q.bias", (576,)) is Type.F32
        assert chosen(kind, "blk.0.attn_norm.weight", (576,)) is Type.F32


def test_q4_k_m_gives_six_bits_to_the_head_and_to_half_of_the_sensitive_layers():
    wide = (1024, 1024)
    assert chosen("q4_k_m", "token_embd.weight", wide) is Type.Q6_K
    assert chosen("q4_k_m", "token_embd.weight", wide, tied=False) is Type.Q4_K
    assert chosen("q4_k_m", "output.weight", wide, tied=False) is Type.Q6_K
    assert chosen("q4_k_m", "blk.0.attn_q.weight", wide) is Type.Q4_K
    # The layers llama.cpp names for 30: the first three, the last four, every third between.
    six_bits = [n for n in range(30) if chosen("q4_k_m", f"blk.{n}.ffn_down.weight", wide) is Type.Q6_K]
    assert six_bits == [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29]


def test_rows_too_narrow_for_a_k_quant_take_the_next_smaller_block():
    assert chosen("q4_k_m", "blk.0.attn_q.weight", (576, 576)) is Type.Q5_0
    assert chosen("q4_k_m", "token_embd.weight", (49152, 576)) is Type.Q8_0
    assert chosen("q8_0", "blk.0.attn_q.weight", (40, 40)) is Type.F16


@pytest.mark.parametrize("kind", [Type.F32, Type.F16, Type.Q8_0, Type.Q5_0, Type.Q4_K, Type.Q6_K])
def test_a_tensor_takes_the_bytes_counted_and_reads_back(kind):
    weights = torch.linspace(-1, 1, 2 * 256).reshape(2, 256)
    data = encode_tensor("x", weights, kind)
    assert data.nbytes == count_bytes((2, 256), kind)
    assert np.abs(gguf.dequantize(data, kind) - weights.numpy()).max() < 0.05


def test_weights_that_a_type_cannot_hold_are_refused_by_name():
    with pytest.raises(ModelError, match=r"^blk\.0: holds weights that are not finite; train again$"):
        encode_tensor("blk.0", torch.tensor([[float("nan")]]), Type.F32)
    with pytest.raises(ModelError, match=r"^blk\.0: a weight of 7e\+04 does not fit f16; use --gguf q8_0$"):
        encode_tensor("blk.0", torch.full((1, 1), 7e4), Type.F16)
