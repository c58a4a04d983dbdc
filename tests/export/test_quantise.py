from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.errors import ModelError
from sft.export.quantise import choose_type, count_bytes, encode_tensor, quantise_q4_k, quantise_q6_k

GGML = np.load(Path(__file__).parent / "ggml_k_quants.npz")


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
    with pytest.raises(ModelError, match=r"^blk\.0: contains weights that are not finite; train again$"):
        encode_tensor("blk.0", torch.tensor([[float("nan")]]), Type.F32)
    with pytest.raises(ModelError, match=r"^blk\.0: a weight of 7e\+04 does not fit f16; use --gguf q8_0$"):
        encode_tensor("blk.0", torch.full((1, 1), 7e4), Type.F16)


def hashed_weights(rows: int = 64) -> np.ndarray:
    """(rows, 256): the same numbers everywhere; zeros, a flat block, and blocks of one sign among them."""
    hashes = np.arange(rows * 256, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(2**32)
    weights = ((hashes.astype(np.float64) / 2**32 - 0.5) ** 3).reshape(rows, 256)
    weights = (weights * np.linspace(0.01, 3, rows)[:, None]).astype(np.float32)
    weights[0], weights[1, :32], weights[2], weights[3] = 0, 0.5, np.abs(weights[2]), -np.abs(weights[3])
    return weights


def loss(weights: np.ndarray, packed: np.ndarray, kind: Type) -> float:
    return float(np.sqrt(np.square(gguf.dequantize(packed, kind) - weights).mean()))


@pytest.mark.parametrize(
    ("quantise", "kind", "name"), [(quantise_q4_k, Type.Q4_K, "q4_k"), (quantise_q6_k, Type.Q6_K, "q6_k")]
)
def test_the_bytes_are_ggmls_but_for_near_ties_and_lose_no_more(quantise, kind, name):
    weights, expected = hashed_weights(), GGML[name]
    found = quantise(torch.from_numpy(weights)).numpy()
    assert (found == expected).all(axis=1).mean() > 0.9
    assert loss(weights, found, kind) == pytest.approx(loss(weights, expected, kind), rel=1e-3)
    assert (found[0] == expected[0]).all()  # zeros


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-30, 1e-6, 0.02, 1.0, 1e4]))
def test_what_is_read_back_is_near_what_was_written(seed, scale):
    weights = torch.randn((2, 512), generator=torch.Generator().manual_seed(seed)) * scale
    for quantise, kind, share in ((quantise_q4_k, Type.Q4_K, 0.1), (quantise_q6_k, Type.Q6_K, 0.03)):
        back = gguf.dequantize(quantise(weights).numpy(), kind)
        assert np.isfinite(back).all()
        if scale > 1e-6:
            assert np.abs(back - weights.numpy()).max() < share * float(weights.abs().max())


def test_rows_that_are_no_multiple_of_256_are_refused():
    with pytest.raises(ValueError, match=r"^576 columns are no multiple of 256$"):
        quantise_q4_k(torch.zeros(1, 576))
