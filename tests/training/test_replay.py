"""Replayed passes: what is recorded has fixed shapes, and the run is the same. (The graphs themselves need a GPU.)"""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prompts import Encoded
from sft import batches
from sft.batches import fill_up, flatten_rows
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.errors import RunError
from sft.kernels.lora import _add_products
from sft.models.loading import load_for_training
from sft.training import replay
from sft.training.arguments import build_arguments
from sft.training.memory import recompute_layers
from sft.training.objective import LanguageModelling
from sft.training.rehearsal import record_ahead
from sft.training.replay import TOKEN_STEP, ReplayedPasses, Rerun, Size
from sft.training.trainer import RowTrainer

STEPS = 12


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 3), st.integers(0, 20))
def test_a_filled_batch_has_the_rows_first_and_fixed_shapes(lengths, more_rows, more_tokens):
    rows = [Encoded(list(range(10, 10 + length)), [1] * length) for length in lengths]
    batch = flatten_rows(rows)
    num_tokens, num_rows = sum(lengths) + more_tokens, len(lengths) + more_rows
    filled = fill_up(batch, num_tokens, num_rows, pad_id=7)
    assert {name: value.shape for name, value in filled.items()} == {
        "input_ids": (1, num_tokens),
        "position_ids": (1, num_tokens),
        "cu_seq_lens_q": (num_rows + 2,),
        "row_lengths": (num_rows + 1,),
    }
    assert filled["input_ids"][0].tolist() == batch["input_ids"][0].tolist() + [7] * more_tokens
    assert filled["position_ids"][0].tolist() == [i for length in [*lengths, more_tokens] for i in range(length)]
    assert filled["row_lengths"].tolist() == [*lengths, more_tokens, *[0] * more_rows]
    assert filled["cu_seq_lens_q"].diff().tolist() == filled["row_lengths"].tolist()
    assert filled["cu_seq_lens_q"].dtype == torch.int32


def test_a_batch_that_does_not_fit_is_refused():
    batch = flatten_rows([Encoded([1, 2, 3], [0, 0, 1])])
    with pytest.raises(ValueError, match="1 rows of 3 tokens do not fit 4 of 2"):
        fill_up(batch, 2, 4, pad_id=0)
    batch["key_places"] = torch.arange(3)
    with pytest.raises(ValueError, match="5 keys do not fit 4"):
        fill_up(batch, 5, 4, pad_id=0, num_keys=4)


def test_a_padded_batch_with_a_shared_prefix_has_a_fixed_number_of_keys(monkeypatch):
    monkeypatch.setattr(batches, "FEWEST_TOKENS", 2)
    rows = [Encoded([1, 2, 3, 4], [0, 0, 0, 1]), Encoded([1, 2, 5, 6, 7], [0, 0, 0, 0, 1])]
    filled = fill_up(flatten_rows(rows, shares=True), 10, 4, pad_id=9, num_keys=20)
    assert {name: value.tolist() for name, value in filled.items()} == {
        "input_ids": [[1, 2, 3, 4, 5, 6, 7, 9, 9, 9]],
        "position_ids": [[0, 1, 2, 3, 2, 3, 4, 0, 1, 2]],
        "cu_seq_lens_q": [0, 2, 4, 7, 10, 10],
        "cu_seq_lens_k": [0, 2, 6, 11, 14, 14],
        "key_places": [0, 1, 0, 1, 2, 3, 0, 1, 4, 5, 6, 7, 8, 9, *[-1] * 6],
    }


@given(st.integers(1, 5000), st.integers(0, 40_000))
def test_a_recorded_size_holds_the_batch_and_what_fills_it_up(num_tokens, more_keys):
    assert Size.of(num_tokens, 0) == (Size.of(num_tokens, 0).num_tokens, 0)
    size = Size.of(num_tokens, num_tokens + more_keys)
    left = size.num_tokens - num_tokens
    assert 0 <= left < TOKEN_STEP
    assert num_tokens + more_keys + left <= size.num_keys < 2 * (num_tokens + more_keys + left)
    assert (size.num_keys // size.num_tokens).bit_count() == 1


@pytest.mark.parametrize(
    ("method", "model", "options"),
    [
        ("lora", "tiny_model_folder", {}),
        ("lora", "tiny_model_folder", {"recomputes": True}),
        ("lora", "tiny_model_folder", {"micro_batch_tokens": 100}),
        ("full", "tiny_model_folder", {"recomputes": True}),
        ("full", "tied_model_folder", {"micro_batch_tokens": 100}),
        ("freeze", "tied_model_folder", {}),
    ],
    ids=str,
)
def test_a_run_of_replayed_passes_is_the_same(method, model, options, request, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(replay, "TOKEN_STEP", 32)
    folder = request.getfixturevalue(model)

    def train(replays: bool) -> tuple[list[float], list[float], torch.Tensor]:
        flags = ["--model", str(folder), "--dtype", "fp32", "--method", method, "--learning_rate", "1e-2"]
        flags += ["--freeze_trainable_layers", "1"] if method == "freeze" else []
        settings = load_settings(TrainSettings, [*flags, "--max_steps", str(STEPS), "--warmup_steps", "0"])
        loaded = load_for_training(settings, "transformers")
        said = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
        rows = [
            loaded.chat.encode([{**said[0], "content": "a" * (1 + i % 5)}, {**said[1], "content": "b" * (i % 11 + 1)}])
            for i in range(30)
        ]
        arguments = build_arguments(settings, loaded.precision, tmp_path / str(replays), num_steps=STEPS)
        trainer = RowTrainer(loaded, rows, rows[:2], arguments, **options)
        if replays:
            longest = max(len(row.input_ids) for row in rows)
            trainer.passes = ReplayedPasses(loaded, max_rows=8, max_tokens=1000, longest=longest, record=Rerun())
            monkeypatch.setattr(
                trainer, "follow", lambda plan: recompute_layers(loaded.causal_lm, plan.recomputed_layers)
            )
        trainer.train()
        if replays:
            assert any(size.num_keys for size in trainer.passes._sizes)  # in use, and with beginnings in common
        lines = [line for line in trainer.state.log_history if "loss" in line]
        weights = [weight.detach().flatten() for weight in loaded.model.parameters() if weight.requires_grad]
        return [line["loss"] for line in lines], [line["grad_norm"] for line in lines], torch.cat(weights)

    losses, norms, weights = train(replays=False)
    replayed = train(replays=True)
    assert replayed[0] == pytest.approx(losses, abs=1e-5)
    assert replayed[1] == pytest.approx(norms, rel=1e-3)
    torch.testing.assert_close(replayed[2], weights, atol=1e-4, rtol=1e-3)
    assert losses[-1] < losses[0] - 0.1


def test_what_is_recorded_stays_clear_of_the_gradients_that_ddp_waits_for(tiny_model_folder: Path):
    settings = load_settings(TrainSettings, ["--model", str(tiny_model_folder), "--dtype", "fp32", "--method", "lora"])
    loaded = load_for_training(settings, "transformers")
    weights = [weight for weight in loaded.model.parameters() if weight.requires_grad]
    waited_for = {weight.view_as(weight).grad_fn.next_functions[0][0] for weight in weights}  # as DDP gets at them
    passes = ReplayedPasses(loaded, max_rows=2, max_tokens=TOKEN_STEP, longest=9, record=Rerun())
    size = Size.of(TOKEN_STEP, 0)
    passes.record_sizes([size])
    passes._sizes[size]._forward()
    met, ahead = set(), [passes._sizes[size].output.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in met:
            met.add(node)
            ahead += [following for following, _ in node.next_functions]
    assert len(met) > len(weights)
    assert not met & waited_for


@pytest.mark.parametrize("alpha", [None, 5.0])
def test_a_recording_that_computes_something_else_ends_the_run(tiny_model_folder: Path, monkeypatch, alpha):
    monkeypatch.setattr(replay, "CHECK_EVERY", 3)
    settings = load_settings(TrainSettings, ["--model", str(tiny_model_folder), "--dtype", "fp32", "--method", "lora"])
    loaded = load_for_training(settings, "transformers")
    wrong_tile = torch.zeros(())

    class Scribbling(Rerun):
        def __call__(self, run, rehearse):
            def replayed() -> None:
                run()
                passes.hidden[4:6] += wrong_tile

            return replayed

    rows = [Encoded([5, 6, 7, 8, 9], [0, 1, 1, 1, 1]), Encoded([5, 6, 9], [0, 1, 1])]
    passes = ReplayedPasses(
        loaded, max_rows=2, max_tokens=TOKEN_STEP, longest=5, noise_alpha=alpha, record=Scribbling()
    )
    passes.begin_step()

    def run() -> float:
        return float(passes.run(flatten_rows(rows), lambda hidden, batch: hidden[:8].square().sum()))

    losses = [run() for _ in range(4)]  # the first and the fourth are checked, and nothing is wrong
    assert (len(set(losses)) == 1) == (alpha is None)  # noise is drawn once for each pass, checked or not
    wrong_tile.fill_(10.0)
    run(), run()
    with pytest.raises(RunError, match=r"hidden states .* away .*--no-cuda_graphs"):
        run()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs")
@pytest.mark.parametrize(
    "method",
    [
        ["--method", "lora", "--learning_rate", "1e-2"],
        ["--method", "full", "--learning_rate", "1e-3"],
        ["--method", "freeze", "--freeze_trainable_layers", "1", "--learning_rate", "1e-3"],
    ],
    ids=" ".join,
)
def test_graphs_give_the_losses_of_launched_kernels(method, tiny_model_folder: Path, tmp_path: Path):
    def train(replays: bool) -> list[float]:
        flags = ["--model", str(tiny_model_folder), *method, "--max_steps", "30", "--warmup_steps", "0"]
        settings = load_settings(TrainSettings, flags)
        loaded = load_for_training(settings, "transformers")
        rows = [
            Encoded(
                [7] * (i % 3 * 20) + [5 + (i * j) % 200 for j in range(20 + i)], [0] * (i % 3 * 20 + 9) + [1] * (11 + i)
            )
            for i in range(60)
        ]
        arguments = build_arguments(settings, loaded.precision, tmp_path / str(replays), num_steps=30)
        trainer = RowTrainer(loaded, rows, rows[:2], arguments, replays=replays)
        trainer.follow(trainer.plan)
        assert (trainer.passes is not None) == replays
        trainer.train()
        if replays:
            assert {size.num_keys > 0 for size in trainer.passes._sizes} == {True, False}
        return [line["loss"] for line in trainer.state.log_history if "loss" in line]

    assert train(True) == pytest.approx(train(False), abs=2e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs")
def test_a_recorded_product_scales_nothing_that_is_there_and_keeps_a_young_adapter():
    x, large = torch.randn(256, 512, device="cuda").bfloat16(), torch.randn(512, 1536, device="cuda").bfloat16()
    narrow, small = torch.randn(256, 16, device="cuda").bfloat16() / 64, torch.randn(16, 1536, device="cuda").bfloat16()
    exact = x.double() @ large.double() + narrow.double() @ small.double()
    _add_products(x, large, narrow, small)  # the libraries have their workspaces
    graph = torch.cuda.CUDAGraph()
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.cuda.graph(graph):
        y = _add_products(x, large, narrow, small)
    with torch.profiler.profile(activities=activities) as profile:
        graph.replay()
        torch.cuda.synchronize()
    assert not [event.name for event in profile.events() if "_bx_" in event.name]  # kernels with a factor of their own
    torch.testing.assert_close(y.double(), exact, rtol=2**-8, atol=2**-7)


def test_long_runs_of_one_process_are_recorded_unasked(monkeypatch):
    assert load_settings(TrainSettings, []).cuda_graphs is None
    assert not replay.records_unasked(replay.FEWEST_STEPS - 1, has_adapter=True)
    assert replay.records_unasked(replay.FEWEST_STEPS, has_adapter=True)
    assert not replay.records_unasked(replay.FEWEST_STEPS, has_adapter=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not replay.records_unasked(replay.FEWEST_STEPS, has_adapter=True)


def test_every_size_of_a_run_is_recorded_before_its_first_step(tiny_model_folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(replay, "TOKEN_STEP", 32)
    flags = ["--model", str(tiny_model_folder), "--dtype", "fp32", "--method", "lora", "--num_train_epochs", "2"]
    settings = load_settings(TrainSettings, flags)
    loaded = load_for_training(settings, "transformers")
    alike = [6] * 20  # every third row begins so
    rows = [
        Encoded([*alike[: i % 3 // 2 * 20], *[5] * (9 + i)], [0] * (i % 3 // 2 * 20 + 4) + [1] * (5 + i))
        for i in range(30)
    ]
    arguments = build_arguments(settings, loaded.precision, tmp_path, num_steps=8)
    trainer = RowTrainer(loaded, rows, rows[:2], arguments, micro_batch_tokens=120)
    trainer.passes = ReplayedPasses(loaded, max_rows=8, max_tokens=120, longest=58, record=Rerun())
    trainer.get_train_dataloader()
    record_ahead(trainer, 8)
    recorded = set(trainer.passes._sizes)
    trainer.train()
    assert set(trainer.passes._sizes) == recorded
    assert {size.num_tokens for size in recorded} <= {32, 64, 96, 128}
    assert {size.num_keys > 0 for size in recorded} == {True, False}


def test_weights_trained_in_fp32_get_the_gradients_of_autocast(tiny_model_folder: Path):
    """What bf16 rounds is the same in a replayed pass as in the model's own forward under autocast."""
    flags = ["--model", str(tiny_model_folder), "--dtype", "fp32", "--method", "full"]
    loaded = load_for_training(load_settings(TrainSettings, flags), "transformers")
    rows = [Encoded([5, 6, 7, 8, 9], [0, 1, 1, 1, 1]), Encoded([5, 6, 9], [0, 1, 1])]
    objective, weights = LanguageModelling(loaded), dict(loaded.model.named_parameters())
    batch = objective.collate(rows)
    with torch.autocast("cpu", torch.bfloat16), loaded.flat_rows():
        loss = objective.compute_loss(loaded.model, dict(batch) | {"row_lengths": None}, 6)
    wanted = dict(zip(weights, torch.autograd.grad(loss, weights.values()), strict=True))

    def loss_of_hidden(hidden, batch):
        with torch.autocast("cpu", torch.bfloat16):
            return objective.loss_of_hidden(hidden, batch, 6)

    options = {"max_rows": 2, "max_tokens": TOKEN_STEP, "longest": 5, "record": Rerun()}
    passes = ReplayedPasses(loaded, autocast=torch.bfloat16, **options)
    passes.begin_step()
    assert float(passes.run(batch, loss_of_hidden)) == pytest.approx(float(loss), rel=1e-6)
    for name, weight in weights.items():
        difference = (weight.grad - wanted[name]).norm() / wanted[name].norm()
        assert difference < 1e-2, name  # attention computes padding, too: sums of bf16 round elsewhere
