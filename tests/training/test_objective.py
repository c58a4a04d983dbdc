"""The loss in chunks: the numbers and gradients of PyTorch's cross-entropy, and no logits that outlive their chunk."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from sft.training import objective
from sft.training.objective import chunked_nll, is_frozen_linear


@settings(max_examples=40, deadline=None)
@given(num=st.integers(1, 40), chunk=st.integers(1, 50), in_fp32=st.integers(1, 50), seed=st.integers(0, 999))
def test_loss_and_gradient_are_those_of_cross_entropy(num, chunk, in_fp32, seed):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num, 6, generator=generator, requires_grad=True)
    head = torch.nn.Linear(6, 11, bias=False).requires_grad_(False)
    targets = torch.randint(0, 11, (num,), generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objective, "CHUNK_BYTES", {"cpu": 4 * 11 * chunk})
        patch.setattr(objective, "FP32_BYTES", {"cpu": 4 * 11 * in_fp32})
        loss = chunked_nll(hidden, head, targets)
        (gradient,) = torch.autograd.grad(loss / 7, hidden)
    expected = cross_entropy(head(hidden), targets, reduction="sum")
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected / 7, hidden)[0], atol=1e-6, rtol=1e-5)


def test_nothing_of_the_size_of_the_vocabulary_is_kept_for_the_backward_pass():
    hidden, head = torch.randn(50, 8, requires_grad=True), torch.nn.Linear(8, 1000, bias=False).requires_grad_(False)
    kept: list[torch.Size] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.shape) or tensor, lambda t: t):
        chunked_nll(hidden, head, torch.arange(50)).backward()
    assert kept == [torch.Size([50, 8])]


def test_a_head_that_is_trained_or_has_a_bias_is_left_to_pytorch():
    assert is_frozen_linear(torch.nn.Linear(2, 3, bias=False).requires_grad_(False))
    assert not is_frozen_linear(torch.nn.Linear(2, 3, bias=False))
    assert not is_frozen_linear(torch.nn.Linear(2, 3).requires_grad_(False))
    assert not is_frozen_linear(torch.nn.Identity())
    assert not is_frozen_linear(None)
