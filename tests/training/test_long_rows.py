"""Layers in pieces, their inputs put away: losses and gradients are those of layers computed whole."""

import json
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    Gemma3TextConfig,
    LlamaConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from prompts import Encoded
from sft.batches import flatten_rows
from sft.errors import ModelError
from sft.kernels.attention import flat_attention
from sft.kernels.lora import share_inputs, with_fused_layers
from sft.models import methods
from sft.training import long_rows, memory, rehearsal
from sft.training.log import read_log
from sft.training.long_rows import LongRows
from sft.training.memory import HostStore, MemoryLine, MemoryPlan, OutOfMemoryError, choose_plan, free_host_bytes

FLAGS = ("--max_steps", "4", "--eval_steps", "2", "--learning_rate", "1e-2", "--warmup_steps", "0")
COMMON = {
    "vocab_size": 101, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "max_position_embeddings": 512,
}  # fmt: skip
FAMILIES: list[tuple[type[PreTrainedConfig], dict[str, object]]] = [
    (Qwen2Config, {}),
    (Qwen3Config, {}),
    (LlamaConfig, {}),
    (Gemma3TextConfig, {"sliding_window": 8, "query_pre_attn_scalar": 8}),  # windows, norms on both sides
    (Phi3Config, {}),  # one projection for queries, keys and values
    (Olmo2Config, {}),  # norms behind
    (Cohere2Config, {"sliding_window": 8}),  # attention and MLP side by side
    (Qwen3MoeConfig, {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
]
Found = tuple[float, dict[str, torch.Tensor]]


def build(kind: type[PreTrainedConfig] = Qwen3Config, dtype: torch.dtype = torch.float32, **more: object):
    """A random model of three layers."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(kind(**COMMON | more), dtype=dtype).train()


def adapt(model, dropout: float = 0.0, **more: object):
    """An adapter on all linear layers, whose B is not zero."""
    names = {name.rsplit(".", 1)[-1] for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear)}
    targets = sorted(names - {"lm_head", "gate"})
    config = LoraConfig(r=4, target_modules=targets, lora_dropout=dropout, **more)
    adapted = get_peft_model(model, with_fused_layers(config, model))
    share_inputs(adapted)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, 0, 0.1)
    return adapted.train()


def run(model, lengths=(9, 30, 1, 4), *, autocast: bool = False) -> Found:
    """Loss of random rows laid end to end, and every gradient."""
    rng = random.Random(0)
    rows = [Encoded([rng.randint(3, 100) for _ in range(n)], [0] * (n // 2) + [1] * (n - n // 2)) for n in lengths]
    batch = flatten_rows(rows)
    labels = batch.pop("labels")
    inputs = {name: value for name, value in batch.items() if name not in ("row_lengths", "logits_to_keep")}
    torch.manual_seed(5)
    model.zero_grad()
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    with flat_attention(base):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            logits = model(**inputs, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits[0, :-1].to(torch.promote_types(logits.dtype, torch.float32)), labels[0, 1:], ignore_index=-100
        )
        loss.backward()
    return float(loss.detach()), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def run_in_pieces(model, piece: int, *, draws: bool = False, **more) -> Found:
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    rows = LongRows(base, piece=piece, draws=draws)
    rows.install(200)
    try:
        return run(model, **more)
    finally:
        rows.remove()


def check_same(found: Found, expected: Found, tolerance: float = 5e-6) -> None:
    """Of each gradient the difference as a share of its size."""
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= tolerance * gradient.norm() + 1e-7, name


@pytest.mark.parametrize(("kind", "more"), FAMILIES, ids=lambda value: getattr(value, "model_type", ""))
@pytest.mark.parametrize("piece", [5, 11, 4096])  # 44 tokens: the last piece shorter, four of a size, and all at once
@pytest.mark.parametrize("method", ["lora", "full"])
def test_loss_and_every_gradient_are_those_of_layers_computed_whole(kind, more, piece, method):
    model = build(kind, **more) if method == "full" else adapt(build(kind, **more))
    check_same(run_in_pieces(model, piece), run(model))


def test_the_lowest_layers_may_be_frozen():
    model = adapt(build(), layers_to_transform=[2])
    check_same(run_in_pieces(model, 7), run(model))


def test_dropout_of_one_piece_is_that_of_layers_computed_whole():
    model = adapt(build(), dropout=0.2)
    check_same(run_in_pieces(model, 4096, draws=True), run(model))
    other = run_in_pieces(model, 4096, draws=False)  # and without the states it would not be
    assert max(float((other[1][name] - value).norm() / value.norm()) for name, value in run(model)[1].items()) > 0.1


def test_dropout_in_pieces_is_drawn_again_as_it_was():
    """By finite differences, in fp64 but for the norms: a loss whose masks stay the same has these gradients alone."""
    model = adapt(build(dtype=torch.float64), dropout=0.2).double()
    _, gradients = run_in_pieces(model, 7, draws=True)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if name in gradients and "layers.1" in name:
            direction = torch.randn_like(weight)
            expected = float((gradients[name] * direction).sum())
            with torch.no_grad():
                weight.add_(direction, alpha=1e-3)
            above = run_in_pieces(model, 7, draws=True)[0]
            with torch.no_grad():
                weight.sub_(direction, alpha=2e-3)
            below = run_in_pieces(model, 7, draws=True)[0]
            with torch.no_grad():
                weight.add_(direction, alpha=1e-3)
            assert (above - below) / 2e-3 == pytest.approx(expected, rel=0.01, abs=1e-3), name


def test_trained_weights_keep_their_gradients_under_autocast():
    model = build()
    found, expected = run_in_pieces(model, 11, autocast=True), run(model, autocast=True)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert (found[1][name] - gradient).norm() <= 0.05 * gradient.norm(), name


@pytest.mark.parametrize("keeps", [True, False])
def test_attention_is_computed_once_where_its_output_can_wait_and_twice_elsewhere(keeps, monkeypatch):
    model, calls = adapt(build()), []
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            calls.extend([1] * (operation is kernel))
            return operation(*args, **(kwargs or {}))

    monkeypatch.setattr(long_rows, "free_host_bytes", lambda: 1e9 if keeps else 0.0)
    with Count():
        found = run_in_pieces(model, 7, lengths=(20, 24))
    assert len(calls) == (3 if keeps else 6)  # three layers
    check_same(found, run(model, lengths=(20, 24)))


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6), piece=st.integers(1, 40))
def test_rows_and_pieces_may_be_of_any_length(lengths, piece):
    model = adapt(build())
    check_same(run_in_pieces(model, piece, lengths=[*lengths, 2]), run(model, lengths=[*lengths, 2]))


def test_no_tensor_as_wide_as_the_mlp_has_all_tokens(monkeypatch):
    model = adapt(build())
    seen: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            for tensor in found if isinstance(found, tuple | list) else [found]:
                if isinstance(tensor, torch.Tensor) and tensor.dim() > 1 and tensor.shape[-1] == 64:
                    seen.append(tensor.shape[-2])
            return found

    with Watch():
        run(model)
    assert max(seen) >= 44
    seen.clear()
    with Watch():
        run_in_pieces(model, 5)
    assert max(seen) <= 32  # the MLP's weights themselves have 32 rows


def test_a_second_pass_before_the_first_is_differentiated_is_refused_not_computed_wrongly():
    store = HostStore(torch.device("cpu"))
    store.put(0, torch.zeros(1))
    store.put(1, torch.ones(1))
    store.put(0, torch.zeros(1))
    with pytest.raises(RuntimeError, match="nothing is at place 1"):
        store.take(1)
    assert store.take(0) == 0


def test_a_buffer_whose_pages_cannot_be_locked_is_not_kept_to_be_unlocked(monkeypatch):
    def refuse(buffer, *, lock=True):
        raise OutOfMemoryError("cannot be locked")

    monkeypatch.setattr(memory, "_lock_pages", refuse)
    store = HostStore(torch.device("cpu"))
    with pytest.raises(OutOfMemoryError):
        store._buffer(0, torch.ones(1, 4, 8), 4)
    assert store.buffers == {}


def test_a_layer_that_returns_something_else_is_refused(tiny_model_folder):
    model = build()
    layer = methods.decoder_layers(model)[1]
    usual = layer.forward
    layer.forward = lambda *args, **kwargs: (usual(*args, **kwargs), None)
    with pytest.raises(ModelError, match="returns more than hidden states"):
        run_in_pieces(model, 5)


def test_a_run_in_pieces_has_the_losses_of_one_without(train, tmp_path, capsys, monkeypatch):
    def losses(folder: Path) -> list[float]:
        keys = ("loss", "eval_loss", "grad_norm")
        return [line[key] for line in read_log(folder / "log.jsonl") for key in keys if key in line]

    monkeypatch.setattr(long_rows, "PIECE", 100)
    train(*FLAGS, folder="usual")
    train(*FLAGS, "--activation_offloading", folder="pieces")
    assert losses(tmp_path / "pieces") == pytest.approx(losses(tmp_path / "usual"), rel=1e-4)
    plans = re.findall(r"^plan: .*", capsys.readouterr().err, re.MULTILINE)
    assert ["layers in pieces" in plan for plan in plans] == [False, True]


def test_layers_that_cannot_be_cut_are_refused_in_one_line(train, monkeypatch):
    finish: Callable[..., torch.Tensor] = long_rows._Run._finish

    def lose_a_piece(self, seam, piece, mixed, part):
        return finish(self, seam, piece, mixed, part) * (part.start < 7)

    monkeypatch.setattr(long_rows._Run, "_finish", lose_a_piece)
    with pytest.raises(ModelError, match=r"^--activation_offloading: hidden states are .* away from stock attention"):
        train(*FLAGS, "--activation_offloading")


def test_layer_inputs_that_main_memory_has_no_room_for_are_refused_before_step_1(monkeypatch):
    rows = LongRows(build())
    assert rows.host_bytes(1000) == 3 * 1000 * 32 * 4
    rows.check_host(1000)
    monkeypatch.setattr(long_rows, "free_host_bytes", lambda: 400_000.0)
    with pytest.raises(
        OutOfMemoryError, match=r"^the layer inputs of a row of 1,000 tokens take 0\.0 GB of main memory"
    ):
        rows.check_host(1000)


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    limit, used = tmp_path / "max", tmp_path / "current"
    limit.write_text("3000\n")
    used.write_text("1000\n")
    monkeypatch.setattr(memory, "CGROUPS", ((str(limit), str(used)),))
    assert free_host_bytes() == 2000
    limit.write_text("max\n")
    assert free_host_bytes() > 1e6


def test_layer_inputs_go_to_main_memory_only_if_nothing_else_fits():
    step = {"most_tokens": 80_000, "longest_tokens": 80_000, "num_layers": 28}
    recomputed, offloaded = MemoryLine(2e9, 0.5e6), MemoryLine(2e9, 0.07e6)
    assert choose_plan(None, recomputed, offloaded, room=16e9, **step) == MemoryPlan(80_000, offloads=True)
    assert choose_plan(None, recomputed, None, room=60e9, **step) == MemoryPlan(80_000, recomputed_layers=28)


def test_a_row_is_thinned_out_with_its_share_of_supervised_tokens():
    row = Encoded(list(range(100)), [0] * 40 + [1] * 60)
    thin = rehearsal.thin_out(row, 10)
    assert (thin.input_ids, thin.loss_mask) == (list(range(0, 100, 10)), [0] * 4 + [1] * 6)
    assert rehearsal.thin_out(Encoded([1, 2, 3, 4, 5], [0, 1, 0, 0, 0]), 2).loss_mask == [0, 1]
    assert rehearsal.thin_out(row, 100).input_ids == row.input_ids


def test_the_offloading_setting_is_recorded(train, tmp_path):
    train(*FLAGS, "--activation_offloading")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["activation_offloading"] is True
