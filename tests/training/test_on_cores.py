"""Rows shared out to cores: the loss and gradients of the rows together, the same to the last bit each time."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prompts import Head
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.models.loaded import LoadedModel
from sft.models.loading import load_for_training
from sft.training import on_cores, trainer
from sft.training.arguments import build_arguments
from sft.training.objective import Classification
from sft.training.on_cores import FEWEST_TOKENS, SLACK, share_out
from sft.training.trainer import RowTrainer


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """The parts of every micro-batch that was computed apart."""
    found: list[list[list[int]]] = []
    compute_apart = on_cores.compute_apart

    def note(loaded, objective, rows, parts, divisor, **how):
        found.append(parts)
        return compute_apart(loaded, objective, rows, parts, divisor, **how)

    monkeypatch.setattr(trainer, "compute_apart", note)
    monkeypatch.setattr(on_cores, "FEWEST_TOKENS", 50)
    return found


def build(folder: Path, output: Path, *flags: str, steps: int = 4) -> RowTrainer:
    base = ["--model", str(folder), "--dtype", "fp32", "--method", "lora", "--warmup_steps", "0", "--batch_size", "8"]
    settings = load_settings(TrainSettings, [*base, "--learning_rate", "1e-2", "--neftune_noise_alpha", "0", *flags])
    loaded: LoadedModel = load_for_training(settings, "transformers")
    rows = [
        loaded.chat.encode(
            [{"role": "user", "content": "question " * (1 + i % 5)}, {"role": "assistant", "content": "yes " * (1 + i)}]
        )
        for i in range(12)
    ]
    arguments = build_arguments(settings, loaded.precision, output, num_steps=steps)
    arguments.max_steps = steps
    return RowTrainer(loaded, rows, rows[:2], arguments, neftune_noise_alpha=settings.neftune_noise_alpha)


def train(*given: object) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Loss of every step, and the adapter afterwards."""
    run = build(*given)
    run.train()
    weights = {name: value.clone() for name, value in run.loaded.model.state_dict().items() if "lora_" in name}
    return [line["loss"] for line in run.state.log_history if "loss" in line], weights


@given(lengths=st.lists(st.integers(1, 900), max_size=12), cores=st.integers(1, 8))
def test_every_row_has_one_part_and_no_part_makes_the_others_wait_for_long(lengths, cores):
    parts = share_out(lengths, cores)
    assert len(parts) != 1
    assert len(parts) * FEWEST_TOKENS <= sum(lengths)
    assert len(parts) <= cores
    if parts:
        assert sorted(index for part in parts for index in part) == list(range(len(lengths)))
        tokens = [sum(lengths[index] for index in part) for part in parts]
        assert 0 < max(tokens) <= SLACK * sum(tokens) / len(tokens)


def test_rows_too_few_or_uneven_for_every_core_are_shared_out_to_fewer_or_not_at_all():
    assert share_out([256, 250, 240, 214], 2) == [[0, 3], [1, 2]]
    assert share_out([256, 250, 240, 214], 4) == [[0, 3], [1, 2]]
    assert share_out([400, 400, 400], 8) == [[0], [1], [2]]
    assert share_out([1000, 500, 500], 3) == [[0], [1, 2]]
    assert share_out([900, 20, 20], 2) == []
    assert share_out([75, 75, 75, 75], 2) == []
    assert share_out([400, 400], 1) == []


def test_a_run_on_two_cores_is_that_on_one_and_the_same_to_the_last_bit_when_repeated(
    tiny_model_folder: Path, tmp_path: Path, two_threads, shared
):
    first, again = (train(tiny_model_folder, tmp_path / name) for name in ("first", "again"))
    assert len(shared) == 8
    assert all(len(parts) == 2 for parts in shared)
    assert first[0] == again[0]
    torch.set_num_threads(1)
    alone = train(tiny_model_folder, tmp_path / "alone")
    assert len(shared) == 8
    assert first[0] == pytest.approx(alone[0], abs=1e-5)
    for name, value in first[1].items():
        assert torch.equal(value, again[1][name])
        torch.testing.assert_close(value, alone[1][name], atol=1e-4, rtol=1e-3)


def test_noise_on_the_embeddings_is_drawn_as_for_the_rows_together(
    tiny_model_folder: Path, tmp_path: Path, two_threads, shared
):
    losses = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        run = build(tiny_model_folder, tmp_path, "--neftune_noise_alpha", "50")
        run.loaded.model.train()
        torch.manual_seed(3)
        losses.append(run.compute_loss(run.loaded.model, run.collate(range(8)), num_items_in_batch=30).item())
        torch.manual_seed(4)
        other = run.compute_loss(run.loaded.model, run.collate(range(8)), num_items_in_batch=30).item()
        assert other != pytest.approx(losses[-1], abs=1e-4)
    assert len(shared) == 2
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_layers_that_draw_random_numbers_and_whole_models_are_not_shared_out(
    tiny_model_folder: Path, tmp_path: Path, two_threads
):
    assert build(tiny_model_folder, tmp_path).shares_cores
    assert not build(tiny_model_folder, tmp_path, "--lora_dropout", "0.1").shares_cores
    assert not build(tiny_model_folder, tmp_path, "--method", "full").shares_cores


def test_a_head_with_dropout_draws_in_the_order_of_its_rows_so_its_parts_are_not_computed_at_the_same_time(
    tied_model_folder: Path, two_threads
):
    def can_share(dropout: str) -> bool:
        flags = ["--model", str(tied_model_folder), "--dtype", "fp32", "--head", "classification"]
        settings = load_settings(TrainSettings, [*flags, "--head_dropout", dropout])
        loaded = load_for_training(settings, "transformers", Head(("a", "b")))
        return on_cores.can_compute_apart(loaded, Classification(loaded))

    assert can_share("0")
    assert not can_share("0.1")


def test_without_gradients_rows_stay_together(tiny_model_folder: Path, tmp_path: Path, two_threads, shared):
    run = build(tiny_model_folder, tmp_path)
    with torch.no_grad():
        run.compute_loss(run.loaded.model.train(), run.collate(range(8)), num_items_in_batch=30)
    assert shared == []


def test_an_error_in_a_part_reaches_the_caller(tiny_model_folder: Path, tmp_path: Path, two_threads, monkeypatch):
    run = build(tiny_model_folder, tmp_path)
    monkeypatch.setattr(on_cores, "FEWEST_TOKENS", 50)

    def fail(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(run.objective, "loss_of_hidden", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        run.compute_loss(run.loaded.model.train(), run.collate(range(8)), num_items_in_batch=30)
    assert torch.get_num_threads() == 2
