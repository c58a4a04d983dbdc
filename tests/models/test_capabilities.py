"""What layers can do is read from the config, and what is not known is padded."""

import pytest

from benchmarks.families import build, load
from benchmarks.random_models import make_random_tokenizer
from sft.models.capabilities import read_layers


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("qwen3_5", "linear_attention layers carry a state"),
        ("recurrent_gemma", "convolution layers carry a state"),
        ("gemma2", "soft caps on attention scores"),
        ("gpt_oss", "attention that PyTorch's does not compute"),
        ("bloom", "the attention of BloomForCausalLM cannot be exchanged"),
        ("deepseek_v4", "are not known here"),
    ],
)
def test_what_prevents_flat_rows_is_named(family, why):
    found = read_layers(build(family))
    assert (found.flat, found.shares, found.records) == (False, False, False)
    assert why in found.why


def test_a_kind_of_layer_that_nobody_knows_yet_is_padded():
    model = build("qwen3")
    model.config.__dict__["layer_types"] = ["full_attention", "telepathy"] * 2
    assert read_layers(model).why == "layers of the kind telepathy are not known here"


def test_attention_that_draws_is_not_recorded():
    model = build("qwen3")
    model.config.attention_dropout = 0.1
    found = read_layers(model)
    assert (found.flat, found.records) == (True, False)


def test_unsloth_takes_no_flat_rows_and_is_not_checked(monkeypatch):
    loaded = load(build("qwen3"), make_random_tokenizer())
    loaded.backend = "unsloth"
    assert loaded.layers.why == "Unsloth has an attention of its own, which wants rows padded"
