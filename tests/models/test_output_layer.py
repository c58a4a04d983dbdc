"""Logits from hidden states are the model's own, whatever it does behind its output layer."""

import pytest
import torch

from benchmarks.families import build
from sft.models.output_layer import OutputLayer


@pytest.mark.parametrize(
    ("family", "is_plain"),
    [("qwen3", True), ("llama", True), ("gemma2", False), ("granite", False), ("cohere", False), ("opt", True)],
)
def test_logits_are_those_of_the_whole_model(family, is_plain):
    model = build(family).eval()
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        wanted = model(input_ids=ids).logits[0]
        hidden = model.base_model(input_ids=ids).last_hidden_state[0]
        layer = OutputLayer(model)
        found = layer(hidden)
    assert layer.is_plain == is_plain
    torch.testing.assert_close(found, wanted)


def test_gradients_flow_through_the_output_layer():
    model = build("granite")
    hidden = torch.randn(3, 64, requires_grad=True)
    OutputLayer(model)(hidden).sum().backward()
    wanted = model.get_output_embeddings().weight.sum(0) / model.config.logits_scaling
    torch.testing.assert_close(hidden.grad, wanted.detach().expand(3, -1))
