"""Flat attention: rows laid end to end are computed as if each were alone."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from prompts import Encoded
from sft.batching import flatten_rows
from sft.models import attention
from sft.models.attention import attend_flat
from sft.models.loading import load_base


def attend_alone(query, key, value, lengths):
    """Each row by itself, in float64: (1, H, T, D) -> (1, T, H, D)."""
    groups = query.shape[1] // key.shape[1]
    rows = zip(*(tensor.double().split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    mixed = [
        scaled_dot_product_attention(q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), is_causal=True)
        for q, k, v in rows
    ]
    return torch.cat(mixed, dim=2).transpose(1, 2)


@pytest.mark.parametrize("max_padded_work", [0, 3, 1e9], ids=["row by row", "by length", "always padded"])
@settings(max_examples=30, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), seed=st.integers(0, 999))
def test_every_row_is_attended_to_as_if_it_were_alone(max_padded_work, lengths, seed):
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(1, heads, sum(lengths), 8, generator=generator) for heads in (4, 2, 2))
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    before = attention.MAX_PADDED_WORK
    attention.MAX_PADDED_WORK = max_padded_work
    try:
        mixed, _ = attend_flat(
            torch.nn.Module(), query, key, value, None, cu_seq_lens_q=bounds, max_length_q=max(lengths)
        )
    finally:
        attention.MAX_PADDED_WORK = before
    torch.testing.assert_close(mixed.double(), attend_alone(query, key, value, lengths), atol=1e-6, rtol=1e-5)


def test_changing_one_row_does_not_change_another(tiny_model_folder: Path):
    loaded = load_base(str(tiny_model_folder), dtype="fp32")
    first, second, other = (Encoded(list(range(start, start + 9)), [0, *[1] * 8]) for start in (10, 60, 120))

    def logits_of_first(rows: list[Encoded]) -> torch.Tensor:
        batch = {name: value for name, value in flatten_rows(rows).items() if name not in ("labels", "row_lengths")}
        with torch.no_grad(), loaded.flat_rows():
            return loaded.causal_lm(**batch, use_cache=False).logits[0, :8]

    assert torch.equal(logits_of_first([first, second]), logits_of_first([first, other]))


def test_outside_the_context_the_model_has_its_usual_attention_again(tiny_model_folder: Path):
    loaded = load_base(str(tiny_model_folder), dtype="fp32")

    def fail_inside() -> None:
        with loaded.flat_rows():
            assert loaded.causal_lm.config._attn_implementation == "flat"
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail_inside()
    assert loaded.causal_lm.config._attn_implementation == "shared_heads"


def test_flat_attention_without_row_bounds_is_refused(tiny_model_folder: Path):
    loaded = load_base(str(tiny_model_folder), dtype="fp32")
    with pytest.raises(TypeError, match="flatten_rows"), loaded.flat_rows():
        loaded.causal_lm(input_ids=torch.tensor([[1, 2, 3]]))
