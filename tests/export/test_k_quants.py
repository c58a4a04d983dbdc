"""ggml_k_quants.npz holds what llama.cpp's own quantiser (ggml_quantize_chunk, libggml 0.25) makes of these weights."""

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from hypothesis import given
from hypothesis import strategies as st

from sft.export.k_quants import quantise_q4_k, quantise_q6_k

GGML = np.load(Path(__file__).parent / "ggml_k_quants.npz")


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
