"""The plan of memory: what is fastest among what fits, from lines through trials."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sft.batches import num_tokens_at_once
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.models.loading import load_for_training
from sft.training import memory
from sft.training.log import read_log
from sft.training.memory import (
    MemoryLine,
    MemoryPlan,
    MicroBatches,
    OutOfMemoryError,
    choose_plan,
    free_bytes,
    has_dropout,
    is_out_of_memory,
    limit_memory,
    recompute_layers,
    trained_layers,
)
from sft.training.trainer import RowTrainer

KEPT, RECOMPUTED = MemoryLine(1e9, 4.5e6), MemoryLine(2e9, 0.5e6)  # about those of 7B: bytes, bytes a token
STEP = {"most_tokens": 9000, "longest_tokens": 2048, "num_layers": 28}
LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=30)


def test_a_line_goes_through_two_trials():
    assert MemoryLine.through((1000, 1.5e9), (4000, 4.5e9)) == MemoryLine(0.5e9, 1e6)
    assert MemoryLine.through((1000, 1.5e9), (4000, 4.5e9)).tokens_in(9e9) == 8500
    assert MemoryLine.through((1000, 1.5e9), (4000, 4.5e9)).tokens_in(0.4e9) == 0


def test_trials_of_about_one_length_promise_less_than_thrice_the_tokens_for_twice_the_room():
    line = MemoryLine.through((1000, 2e9), (1001, 2e9))
    assert line.tokens_in(2e9) in (1000, 1001)
    assert 1000 < line.tokens_in(4e9) <= 3003


def test_a_trial_alone_promises_no_more_than_it_took_for_each_token():
    line = MemoryLine.through((1000, 2e9), (1000, 2e9))
    assert [line.tokens_in(room) for room in (1e9, 2e9, 4e9)] == [500, 1000, 2000]


@pytest.mark.parametrize(
    ("room", "unpacked", "plan"),
    [
        (70e9, 0, MemoryPlan(9000)),
        (70e9, 13e9, MemoryPlan(9000, unpacks=True)),
        (40e9, 13e9, MemoryPlan(5777, unpacks=True)),
        (20e9, 13e9, MemoryPlan(4222)),  # unpacked they would leave room for 1,333
        (12e9, 13e9, MemoryPlan(2444)),
        (9e9, 13e9, MemoryPlan(2066, recomputed_layers=5)),
        (4e9, 0, MemoryPlan(2268, recomputed_layers=25)),
        (3.1e9, 0, MemoryPlan(2200, recomputed_layers=28)),
        (2.5e9, 0, MemoryPlan(1000, recomputed_layers=28)),  # rows may be longer: the trial has told
    ],
)
def test_memory_is_spent_on_what_saves_most_time(room, unpacked, plan):
    chosen = choose_plan(KEPT, RECOMPUTED, room=room, unpacked=unpacked, **STEP)
    assert (chosen.recomputed_layers, chosen.unpacks) == (plan.recomputed_layers, plan.unpacks)
    assert chosen.micro_batch_tokens == pytest.approx(plan.micro_batch_tokens, rel=0.1)


def test_a_short_micro_batch_is_not_worth_recomputing_layers_unless_4_bit_weights_are_unpacked_for_it():
    short = {**STEP, "longest_tokens": 500}
    room = KEPT.fixed + 1500 * KEPT.slope
    assert choose_plan(KEPT, RECOMPUTED, room=room, **short) == MemoryPlan(1500)
    assert choose_plan(KEPT, RECOMPUTED, room=room, unpacked=13e9, **short).recomputed_layers > 0
    exactly = KEPT.fixed + 2048 * KEPT.slope
    assert choose_plan(KEPT, RECOMPUTED, room=exactly, unpacked=13e9, **short) == MemoryPlan(2048)


def test_weights_are_not_unpacked_where_no_trial_has_kept_all_activations():
    assert choose_plan(None, RECOMPUTED, room=70e9, unpacked=13e9, **STEP) == MemoryPlan(4096, recomputed_layers=28)


def test_explicit_settings_win():
    always = choose_plan(None, RECOMPUTED, room=70e9, unpacked=13e9, spares_memory=True, **STEP)
    assert always == MemoryPlan(4096, recomputed_layers=28)
    never = choose_plan(KEPT, None, room=5e9, **STEP)
    assert never == MemoryPlan(888)


@given(
    room=st.floats(1e8, 1e11),
    unpacked=st.sampled_from([0.0, 13e9]),
    most=st.integers(1, 20_000),
    longest=st.integers(1, 4096),
    layers=st.integers(1, 80),
)
def test_a_plan_fits_wherever_anything_does(room, unpacked, most, longest, layers):
    longest = min(longest, most)
    plan = choose_plan(
        KEPT, RECOMPUTED, room=room, unpacked=unpacked, most_tokens=most, longest_tokens=longest, num_layers=layers
    )
    assert 1 <= plan.micro_batch_tokens <= most
    line = KEPT.between(RECOMPUTED, plan.recomputed_layers / layers)
    needed = line.fixed + line.slope * plan.micro_batch_tokens + (unpacked if plan.unpacks else 0)
    assert needed <= room or plan.recomputed_layers == layers


def test_the_first_trained_layers_are_computed_twice(tiny_model_folder: Path):
    flags = ["--model", str(tiny_model_folder), "--method", "lora", "--dtype", "fp32", "--lora_layers", "1"]
    loaded = load_for_training(load_settings(TrainSettings, flags), "transformers")
    layers = loaded.causal_lm.model.layers
    recompute_layers(loaded.causal_lm, 1)
    assert [layer.gradient_checkpointing for layer in layers] == [True, True]  # the first has nothing to keep
    recompute_layers(loaded.causal_lm, 0)
    assert [layer.gradient_checkpointing for layer in layers] == [False, False]
    whole = load_for_training(load_settings(TrainSettings, flags[:-2]), "transformers").causal_lm
    recompute_layers(whole, 1)
    assert [layer.gradient_checkpointing for layer in whole.model.layers] == [True, False]


def test_recomputed_layers_give_the_same_gradients_and_the_backward_pass_ends_at_the_lowest_adapter(tiny_model_folder):
    flags = ["--model", str(tiny_model_folder), "--method", "lora", "--dtype", "fp32"]
    loaded = load_for_training(load_settings(TrainSettings, flags), "transformers")
    model, ids = loaded.causal_lm.train(), torch.arange(12)[None]
    gradients = []
    for number in (0, 2):
        recompute_layers(model, number)
        model.zero_grad()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        gradients.append(torch.cat([w.grad.flatten() for w in model.parameters() if w.requires_grad]))
        assert not model.get_input_embeddings()(ids).requires_grad
    assert torch.equal(*gradients)
    assert gradients[0].norm() > 0


def test_layers_draw_random_numbers_where_a_dropout_is_not_zero(tiny_model_folder):
    flags = ["--model", str(tiny_model_folder), "--method", "lora", "--dtype", "fp32"]
    model = load_for_training(load_settings(TrainSettings, flags), "transformers").causal_lm
    assert has_dropout(model) is False
    model.config.attention_dropout = 0.1
    assert has_dropout(model) is True
    model.config.attention_dropout = 0.0
    assert has_dropout(model) is False
    model.first, model.second = torch.nn.Dropout(0.0), torch.nn.Dropout(0.1)
    assert has_dropout(model) is True
    model.second.p = 0.0
    assert has_dropout(model) is False


def test_the_backward_pass_goes_through_the_layers_from_the_lowest_trained_one_up(tiny_model_folder):
    flags = ["--model", str(tiny_model_folder), "--method", "lora", "--dtype", "fp32", "--lora_layers", "1"]
    model = load_for_training(load_settings(TrainSettings, flags), "transformers").causal_lm
    layers = list(model.model.layers)
    assert trained_layers(model) == layers[1:]
    model.get_input_embeddings().weight.requires_grad_(True)
    assert trained_layers(model) == layers
    model.requires_grad_(False)
    assert trained_layers(model) == []


def put_in_a_card(monkeypatch, *, share: float) -> list[float]:
    """A GPU's figures, in GB: 80, of which 50 are free, 10 held by this process, 6 of these in use."""
    limits: list[float] = []
    figures = {
        "is_available": True, "mem_get_info": (50e9, 80e9), "get_per_process_memory_fraction": share,
        "memory_reserved": 10e9, "memory_allocated": 6e9,
    }  # fmt: skip
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    card = type("Card", (), {"total_memory": 80 * 2**30})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: card)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    return limits


@pytest.mark.parametrize(("share", "free"), [(1.0, 0.9 * 60e9 - 6e9), (0.5, 0.9 * 40e9 - 6e9)])
def test_free_on_a_card_is_what_others_leave_and_what_this_process_holds_unused_up_to_its_limit(
    monkeypatch, share, free
):
    put_in_a_card(monkeypatch, share=share)
    assert free_bytes() == pytest.approx(free)


def test_free_on_a_cpu_is_what_the_system_reports_and_nothing_where_it_does_not(monkeypatch):
    monkeypatch.setattr(memory.os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_AVPHYS_PAGES": 1000}.__getitem__)
    assert free_bytes() == 4_096_000
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert free_bytes() == 0


def test_a_limit_is_a_share_of_the_card_and_never_more_than_all_of_it(monkeypatch):
    limit_memory(24)  # without a GPU nothing is to be limited
    limits = put_in_a_card(monkeypatch, share=1.0)
    for wanted in (None, 24, 100):
        limit_memory(wanted)
    assert limits == [pytest.approx(0.3), 1.0]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError("CUDA error: unspecified launch failure"), False),
    ],
)
def test_out_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_shrinking_halves_what_the_largest_micro_batch_held(capsys):
    batches = MicroBatches(100)
    batches.shrink([40, 44, 30])  # 84 and 30
    assert batches.max_tokens == 42
    assert "out of memory with 2 rows at once: continuing with micro-batches of at most 42" in capsys.readouterr().err
    padded = MicroBatches(100, padded=True)
    padded.shrink([40, 44, 30])  # 88 with padding, and 30
    assert padded.max_tokens == 44


def test_a_line_rises_by_a_byte_per_token_at_least():
    assert MemoryLine.through((1000, 5.0), (2000, 5.0)) == MemoryLine(-1995.0, 1.0)


@given(LENGTHS, st.integers(1, 200), st.booleans())
def test_every_row_is_in_one_micro_batch_within_the_budget(lengths, max_tokens, padded):
    batches = MicroBatches(max_tokens, padded).plan(lengths)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or num_tokens_at_once([lengths[index] for index in batch], padded) <= max_tokens


@given(LENGTHS, st.booleans())
def test_shrinking_ends_with_single_rows_and_then_an_error_that_says_what_helps(lengths, padded):
    batches = MicroBatches(1 << 30, padded)
    while len(largest := batches.plan(lengths)[0]) > 1:  # the longest rows are in the first
        before = batches.max_tokens
        batches.shrink(lengths)
        assert 0 < batches.max_tokens < before
    batches.max_tokens = 1
    with pytest.raises(OutOfMemoryError) as caught:
        batches.shrink(lengths)
    assert lengths[largest[0]] == max(lengths)
    assert str(caught.value).startswith(f"out of memory with one row of {max(lengths)} tokens at a time; --use_qlora")


def run_out_of_memory_of_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def run_out_of_memory_of_a_cpu() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)  # torch's own error


def test_where_smaller_micro_batches_cannot_be_tried_half_of_them_is_advised():
    said = "out of memory with micro-batches of {} tokens; resume with --micro_batch_tokens {}"
    for max_tokens, shown, half in ((2048, "2,048", 1024), (3, "3", 1), (1, "1", 1)):
        assert str(MicroBatches(max_tokens).too_large()) == said.format(shown, half)


@pytest.mark.parametrize("run_out", [run_out_of_memory_of_a_gpu, run_out_of_memory_of_a_cpu])
def test_running_out_of_memory_shrinks_the_micro_batch_and_the_run_is_the_same(
    run_out, train, tmp_path, monkeypatch, capsys
):
    """The error comes from a real hook of the model: a forward of more than 100 tokens fails as the device's would."""
    flags = ["--max_steps", "6", "--eval_steps", "3", "--neftune_noise_alpha", "0", "--learning_rate", "1e-2"]
    train(*flags, folder="roomy")

    build = RowTrainer.__init__

    def build_small(self, loaded, *args, **kwargs):
        build(self, loaded, *args, **kwargs)

        def check(module, inputs, outputs):
            if module.training and inputs[0].numel() > 100:
                run_out()

        loaded.causal_lm.get_input_embeddings().register_forward_hook(check)

    monkeypatch.setattr(RowTrainer, "__init__", build_small)
    capsys.readouterr()
    train(*flags, folder="small")
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("out of memory")]
    assert said
    assert all(line.endswith("and as many rows a step as before") for line in said)
    logs = [list(read_log(tmp_path / name / "log.jsonl")) for name in ("roomy", "small")]
    for roomy, small in zip(*logs, strict=True):
        assert small["step"] == roomy["step"]
        assert small.get("num_tokens") == roomy.get("num_tokens")  # a failed attempt does not count
        for figure in ("loss", "eval_loss"):
            assert small.get(figure, 0) == pytest.approx(roomy.get(figure, 0), abs=1e-5)


def test_a_row_that_does_not_fit_alone_is_one_line_with_what_helps(train, monkeypatch):
    def fail(self, *args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(RowTrainer, "compute_loss", fail)
    with pytest.raises(OutOfMemoryError, match="out of memory with one row of"):
        train("--max_steps", "2")


def test_only_what_is_out_of_memory_is_answered_by_smaller_micro_batches(train, monkeypatch):
    def fail(self, *args, **kwargs):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(RowTrainer, "compute_loss", fail)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        train("--max_steps", "2")
