"""Attention in blocks: what PyTorch's own attention says to each row alone, in both directions, whatever the cut."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from sft.kernels.attention import attend_flat
from sft.kernels.cpu import blocked_attention
from sft.kernels.cpu.blocked_attention import attend_blocks


def attend_alone(query, key, value, lengths, scaling):
    """Each row by itself: (1, H, T, D) -> (1, T, H, D)."""
    rows = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    mixed = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True).transpose(1, 2)
        for q, k, v in rows
    ]
    return torch.cat(mixed, dim=1)


def make_heads(lengths, heads, groups, seed, dtype=torch.float64):
    """query (1, H, T, D), key and value (1, K, T, D), as a model's projections lie in memory."""
    generator = torch.Generator().manual_seed(seed)
    counts = (heads * groups, heads, heads)
    return [
        torch.randn(1, sum(lengths), count, 8, generator=generator, dtype=dtype).transpose(1, 2).requires_grad_()
        for count in counts
    ]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 13), min_size=1, max_size=5),
    heads=st.integers(1, 2),
    groups=st.integers(1, 3),
    block=st.integers(1, 14),
    kept=st.sampled_from([0, 6, 1024]),
    padded_work=st.sampled_from([0.0, 1.5, 1e9]),
    seed=st.integers(0, 999),
)
def test_rows_and_their_gradients_are_those_of_each_row_alone(lengths, heads, groups, block, kept, padded_work, seed):
    inputs = make_heads(lengths, heads, groups, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked_attention, "BLOCK", block)
        patch.setattr(blocked_attention, "KEEP_UP_TO", kept)
        patch.setattr(blocked_attention, "MAX_PADDED_WORK", padded_work)
        blocked_attention.find_layout.cache_clear()  # it goes by the lengths alone
        found = attend_blocks(*inputs, lengths, 0.3)
        weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed), dtype=found.dtype)
        gradients = torch.autograd.grad((found * weights).sum(), inputs)
        with torch.no_grad():
            assert torch.equal(attend_blocks(*inputs, lengths, 0.3), found)
    expected = attend_alone(*inputs, lengths, 0.3)
    torch.testing.assert_close(found, expected)
    for gradient, wanted in zip(gradients, torch.autograd.grad((expected * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(gradient, wanted)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=5),
    block=st.integers(1, 14),
    kept=st.sampled_from([0, 6, 1024]),
    padded_work=st.sampled_from([0.0, 1.5, 1e9]),
    seed=st.integers(0, 999),
)
def test_rows_that_see_more_keys_than_they_have_queries_are_the_ends_of_whole_rows(
    rows, block, kept, padded_work, seed
):
    lengths = [own for _, own in rows]
    seen = [sum(row) for row in rows]
    inputs = make_heads(seen, 2, 3, seed)
    ends = torch.cat([torch.arange(seen[i] - lengths[i], seen[i]) + sum(seen[:i]) for i in range(len(rows))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocked_attention, "BLOCK", block)
        patch.setattr(blocked_attention, "KEEP_UP_TO", kept)
        patch.setattr(blocked_attention, "MAX_PADDED_WORK", padded_work)
        blocked_attention.find_layout.cache_clear()
        found = attend_blocks(inputs[0][:, :, ends], *inputs[1:], lengths, 0.3, seen)
        weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed), dtype=found.dtype)
        gradients = torch.autograd.grad((found * weights).sum(), inputs)
    expected = attend_alone(*inputs, seen, 0.3)[:, ends]
    torch.testing.assert_close(found, expected)
    for gradient, wanted in zip(gradients, torch.autograd.grad((expected * weights).sum(), inputs), strict=True):
        torch.testing.assert_close(gradient, wanted)


def test_gradients_agree_with_differences_of_the_outputs():
    inputs = make_heads([3, 5], 1, 2, seed=0)
    assert torch.autograd.gradcheck(lambda *heads: attend_blocks(*heads, [3, 5]), inputs)


def test_what_is_kept_for_the_backward_pass_of_long_rows_is_not_of_the_size_of_their_scores(monkeypatch):
    monkeypatch.setattr(blocked_attention, "KEEP_UP_TO", 100)
    sizes: list[int] = []
    inputs = make_heads([101], 1, 2, seed=0)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()) or tensor, lambda t: t):
        attend_blocks(*inputs, [101])
    assert sorted(sizes) == [101 * 8, 101 * 8, 101 * 2 * 8]


def test_flat_rows_in_bf16_are_as_near_to_exact_ones_as_pytorchs_own_attention():
    lengths = [200, 130, 37]
    exact = make_heads(lengths, 2, 3, seed=0, dtype=torch.float32)
    inputs = [tensor.detach().bfloat16().requires_grad_() for tensor in exact]
    exact = [tensor.detach().float().requires_grad_() for tensor in inputs]
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    found, _ = attend_flat(torch.nn.Module(), *inputs, None, 0.3, cu_seq_lens_q=bounds, max_length_q=200)
    stock, wanted = attend_alone(*inputs, lengths, 0.3), attend_alone(*exact, lengths, 0.3)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))

    def errors(mixed, inputs):
        gradients = torch.autograd.grad((mixed.float() * weights).sum(), inputs)
        truth = [wanted.detach(), *torch.autograd.grad((wanted * weights).sum(), exact, retain_graph=True)]
        return [
            float((a.float() - b).detach().norm() / b.norm()) for a, b in zip((mixed, *gradients), truth, strict=True)
        ]

    ours, theirs = errors(found, inputs), errors(stock, inputs)
    assert found.dtype == torch.bfloat16
    assert all(error < 0.005 for error in ours)
    assert sum(ours) < 1.2 * sum(theirs)
