"""Flat attention: rows laid end to end are computed as if each were alone."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import MambaConfig, Qwen2Config

from prompts import Encoded
from sft.batches import flatten_rows
from sft.kernels import attention
from sft.kernels.arguments import UnknownArgument
from sft.kernels.attention import attend_flat, time_attention
from sft.kernels.decode_attention import attend_shared
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


def in_common(rows: list[list[int]], dtype: torch.dtype, device: str = "cpu"):
    """Heads of the tokens of a shared batch, what attend_flat says of them, and what each row alone says (fp64): of the
    tokens (T, H, D), and the gradients of query, key and value, both ways."""
    encoded = [Encoded(ids, [0] * (len(ids) - 1) + [1]) for ids in rows]
    batch, whole = flatten_rows(encoded, shares=True), flatten_rows(encoded)
    ids, places = batch["input_ids"][0], torch.arange(len(batch["input_ids"][0]))
    generator = torch.Generator().manual_seed(0)
    made = [torch.randn(1, len(ids), heads, 16, generator=generator).transpose(1, 2) for heads in (4, 2, 2)]
    inputs = [tensor.to(device, dtype).detach().requires_grad_() for tensor in made]
    layout = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
        if name.startswith(("cu_seq", "max_l", "key_pl"))
    }
    found, _ = attend_flat(torch.nn.Module(), *inputs, None, 0.25, **layout)
    # Every row alone: the tokens it sees, by the segment that is its own.
    bounds, keys = batch["cu_seq_lens_k"].tolist(), batch["key_places"]
    paths = [keys[start:end] for start, end in pairwise(bounds)][-len(rows) :]
    assert [ids[path].tolist() for path in paths] == rows
    exact = [tensor.detach().cpu().double().requires_grad_() for tensor in inputs]
    spread = torch.cat(paths)
    each = attend_alone(*(tensor[:, :, spread] for tensor in exact), whole["row_lengths"].tolist())[0]  # scale 16^-.5
    first = [int((spread == place).nonzero()[0, 0]) for place in places]  # a token in common, as one row has it
    weights = torch.randn(found.shape[1:], generator=generator)
    wanted = each[first]
    return (
        [found[0], *torch.autograd.grad((found[0].float() * weights.to(device)).sum(), inputs)],
        [wanted, *torch.autograd.grad((wanted * weights).sum(), exact)],
    )


TREE = [[1] * 20 + [2] * 15 + [3, 4, 5], [1] * 20 + [2] * 15 + [6, 7], [1] * 20 + [8] * 9 + [9] * 30, [7] * 30]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"])
@pytest.mark.parametrize("rows", [TREE, TREE[:2], [TREE[0]] * 3], ids=["tree", "one beginning", "equal rows"])
def test_rows_with_a_shared_prefix_are_attended_to_as_if_each_were_alone(rows, dtype, tolerance):
    for ours, wanted in zip(*in_common(rows, dtype), strict=True):
        torch.testing.assert_close(ours.double(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch's kernel for rows of any length")
@pytest.mark.parametrize("rows", [TREE, TREE[:2], [TREE[0]] * 3], ids=["tree", "one beginning", "equal rows"])
def test_rows_with_a_shared_prefix_are_attended_to_as_if_each_were_alone_on_a_gpu(rows):
    for ours, wanted in zip(*in_common(rows, torch.bfloat16, "cuda"), strict=True):
        torch.testing.assert_close(ours.cpu().double(), wanted, atol=2e-2, rtol=2e-2)


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("window", [1, 5, 17, 100])
@pytest.mark.parametrize("lengths", [[9, 30, 12], [40, 3, 3, 3, 3]], ids=["padded", "row by row"])
def test_a_window_lets_a_token_see_the_last_tokens_of_its_own_row_only(window, lengths, dtype):
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, heads, sum(lengths), 8, generator=generator).to(dtype) for heads in (4, 2, 2))
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    found, _ = attend_flat(
        torch.nn.Module(), query, key, value, None, cu_seq_lens_q=bounds, max_length_q=max(lengths),
        sliding_window=window,
    )  # fmt: skip
    behind = torch.arange(sum(lengths))[:, None] - torch.arange(sum(lengths))
    row = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    seen = (behind >= 0) & (behind < window) & (row[:, None] == row)
    wide = [tensor.double().repeat_interleave(4 // tensor.shape[1], 1) for tensor in (query, key, value)]
    wanted = scaled_dot_product_attention(*wide, seen).transpose(1, 2)
    tolerance = 1e-6 if dtype is torch.float32 else 3e-2
    torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch's kernel for rows of any length")
def test_windows_on_a_gpu_are_those_of_a_cpu_forward_and_backward():
    lengths, made = [90, 300, 120], torch.Generator().manual_seed(0)
    heads = [torch.randn(1, number, sum(lengths), 64, generator=made) for number in (4, 2, 2)]
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    found = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        given = [tensor.to(device, dtype).requires_grad_() for tensor in heads]
        mixed, _ = attend_flat(
            torch.nn.Module(), *given, None, cu_seq_lens_q=bounds.to(device), max_length_q=300, sliding_window=50
        )
        found.append([mixed, *torch.autograd.grad(mixed.float().square().sum(), given)])
    for ours, wanted in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(ours.cpu().float(), wanted, atol=5e-2, rtol=5e-2)


@pytest.mark.parametrize(
    "argument",
    [{"softcap": 50.0}, {"s_aux": torch.zeros(4)}, {"position_bias": torch.zeros(1)}, {"is_causal": False},
     {"indices": torch.zeros(3)}, {"something_new": 0.5}],
    ids=lambda argument: next(iter(argument)),
)  # fmt: skip
def test_an_argument_that_changes_the_result_is_refused_by_name(argument):
    heads = [torch.randn(1, 4, 6, 8)] * 3
    with pytest.raises(UnknownArgument, match=next(iter(argument))):
        attend_flat(torch.nn.Module(), *heads, None, cu_seq_lens_q=torch.tensor([0, 6]), max_length_q=6, **argument)
    if "is_causal" not in argument and "position_bias" not in argument:  # which transformers' own function computes
        with pytest.raises(UnknownArgument, match=next(iter(argument))):
            attend_shared(torch.nn.Module(), *heads, None, **argument)


def test_a_mask_of_the_model_s_own_and_attention_to_later_tokens_are_refused():
    heads, layout = [torch.randn(1, 4, 6, 8)] * 3, {"cu_seq_lens_q": torch.tensor([0, 6]), "max_length_q": 6}
    with pytest.raises(UnknownArgument, match="mask"):
        attend_flat(torch.nn.Module(), *heads, torch.zeros(1, 1, 6, 6), **layout)
    both_ways = torch.nn.Module()
    both_ways.is_causal = False
    with pytest.raises(UnknownArgument, match="later tokens"):
        attend_flat(both_ways, *heads, None, **layout)


def test_what_says_nothing_of_attention_is_ignored():
    heads, layout = [torch.randn(1, 4, 6, 8)] * 3, {"cu_seq_lens_q": torch.tensor([0, 6]), "max_length_q": 6}
    plain, _ = attend_flat(torch.nn.Module(), *heads, None, **layout)
    told, _ = attend_flat(torch.nn.Module(), *heads, None, **layout, softcap=None, position_ids=torch.arange(6))
    assert torch.equal(plain, told)


def test_attention_is_timed_by_itself_and_a_model_without_any_takes_none():
    config = Qwen2Config(hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
    short, long = (sum(time_attention(config, n, torch.device("cpu"), torch.float32)) for n in (64, 2048))
    assert long > 4 * short > 0
    assert time_attention(MambaConfig(), 64, torch.device("cpu"), torch.float32) == (0.0, 0.0)
