"""The plan of memory: what is fastest among what fits, from lines through trials."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.models.loading import load_for_training
from sft.training.memory import MemoryLine, MemoryPlan, choose_plan, recompute_layers

KEPT, RECOMPUTED = MemoryLine(1e9, 4.5e6), MemoryLine(2e9, 0.5e6)  # about those of 7B: bytes, bytes a token
STEP = {"most_tokens": 9000, "longest_tokens": 2048, "num_layers": 28}


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


def test_what_the_user_asked_for_holds():
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
