"""Convolutions and states of hybrids are kept apart row by row, as if each were alone."""

import sys

import pytest
import torch
from torch.nn.functional import conv1d

from benchmarks import families
from benchmarks.families import build, load, make_rows
from benchmarks.random_models import make_random_tokenizer
from sft.kernels.row_convolution import convolve_rows, heed_rows
from sft.models import capabilities
from sft.models.capabilities import Layers


@pytest.mark.parametrize("lengths", [[1, 2, 3], [9, 1, 7], [20]])
def test_a_convolution_over_rows_end_to_end_is_that_of_each_row_alone(lengths):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 6, sum(lengths), generator=generator)
    weight, bias = torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator)
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None]
    found = convolve_rows(x, weight, bias, "silu", rows)
    alone = [
        conv1d(part, weight[:, None], bias, padding=3, groups=6)[:, :, : part.shape[2]] for part in x.split(lengths, 2)
    ]
    torch.testing.assert_close(found, torch.nn.functional.silu(torch.cat(alone, dim=2)))


@pytest.mark.parametrize("family", ["qwen3_5", "qwen3_next", "qwen3_5_moe"])
def test_a_hybrid_whose_kernel_heeds_row_bounds_is_computed_flat_as_stock_computes_it(family, monkeypatch):
    model = build(family)
    heed_rows(model)
    module = sys.modules[type(model).__module__]
    plain = module.torch_chunk_gated_delta_rule

    def by_rows(*heads, g, beta, cu_seqlens=None, **more):  # as the kernel of flash-linear-attention
        if cu_seqlens is None:
            return plain(*heads, g=g, beta=beta, **more)
        lengths = cu_seqlens.diff().tolist()
        parts = zip(*(tensor.split(lengths, dim=1) for tensor in (*heads, g, beta)), strict=True)
        return torch.cat([plain(q, k, v, g=g, beta=b, **more)[0] for q, k, v, g, b in parts], dim=1), None

    monkeypatch.setattr(module, "torch_chunk_gated_delta_rule", by_rows)
    promised = Layers(flat=True, shares=False, records=False, why="", apart=True)
    monkeypatch.setattr(families, "build", lambda name: model)
    monkeypatch.setattr("sft.models.loaded.read_layers", lambda model: promised)
    found = families.measure(family, make_random_tokenizer())
    assert set(found.paths) == {"padded", "micro-batches", "flat"}
    assert found.worst < 1e-4


def test_without_the_kernel_the_self_check_ends_flat_rows(monkeypatch, capsys):
    model = build("qwen3_5")
    heed_rows(model)
    promised = Layers(flat=True, shares=False, records=False, why="", apart=True)
    monkeypatch.setattr("sft.models.loaded.read_layers", lambda model: promised)
    assert not load(model, make_random_tokenizer()).takes_flat_rows
    assert "rows laid end to end: hidden states are" in capsys.readouterr().err


def test_flat_batches_name_the_row_of_each_token_where_layers_carry_a_state():
    loaded = load(build("lfm2"), make_random_tokenizer())
    batch = loaded.lay_out(make_rows(), shares=True)
    assert batch["seq_idx"].unique().tolist() == list(range(6))
    assert "key_places" not in batch


def test_the_kernel_is_requested_only_on_a_gpu(monkeypatch):
    monkeypatch.setattr(capabilities, "find_spec", lambda name: object())
    assert not capabilities.read_layers(build("qwen3_5")).flat
