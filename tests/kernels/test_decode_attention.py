import pytest
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from sft.kernels import decode_attention
from sft.models.loading import load_base


class Layer(torch.nn.Module):
    num_key_value_groups = 3


@pytest.mark.parametrize("num_queries", [1, 4, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_heads_that_share_keys_attend_as_in_transformers_with_the_keys_repeated(num_queries, dtype):
    torch.manual_seed(0)
    query = torch.randn(2, 6, num_queries, 8, dtype=dtype)
    key, value = torch.randn(2, 2, 2, 24, 8, dtype=dtype)
    mask = torch.ones(24, 24, dtype=torch.bool).tril()[-num_queries:].expand(2, 1, -1, -1).clone()
    mask[1, :, :, 2:3] = False  # padding of the second row
    found, _ = decode_attention.attend_shared(Layer(), query, key, value, mask, scaling=0.3)
    expected, _ = sdpa_attention_forward(Layer(), query, key, value, mask, scaling=0.3)
    assert found.shape == (2, num_queries, 6, 8)
    torch.testing.assert_close(found, expected)


def test_without_a_mask_transformers_own_attention_computes():
    query, key, value = torch.randn(1, 6, 5, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
    found, _ = decode_attention.attend_shared(Layer(), query, key, value, None, scaling=0.3)
    expected, _ = sdpa_attention_forward(Layer(), query, key, value, None, scaling=0.3)
    assert torch.equal(found, expected)


def test_a_loaded_model_answers_as_with_transformers_attention(tiny_model_folder):
    loaded = load_base(str(tiny_model_folder), dtype="fp32")
    assert loaded.causal_lm.config._attn_implementation == decode_attention.NAME
    batch = {"input_ids": torch.randint(3, 200, (3, 9)), "attention_mask": torch.ones(3, 9, dtype=torch.long)}
    batch["attention_mask"][1, :4] = 0
    with torch.inference_mode():
        found = loaded.model(**batch).logits
        loaded.model.set_attn_implementation("sdpa")
        expected = loaded.model(**batch).logits
    torch.testing.assert_close(found[:, -1], expected[:, -1])
