"""The trainer's loss and updates: the same rows give the same run, however they are cut into batches."""

import re
from pathlib import Path

import pytest
import torch
from transformers import Trainer

from prompts import Encoded
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.models.loaded import LoadedModel
from sft.models.loading import load_for_training
from sft.scoring import score_rows, token_weighted_loss
from sft.training import trainer as module
from sft.training.arguments import build_arguments
from sft.training.processes import score_in_step
from sft.training.saving import CheckpointedTrainer
from sft.training.trainer import RowTrainer


def load(folder: Path, *flags: str) -> tuple[TrainSettings, LoadedModel]:
    base = ["--model", str(folder), "--dtype", "fp32", "--method", "lora", "--warmup_steps", "0"]
    settings = load_settings(TrainSettings, [*base, "--learning_rate", "1e-2", "--neftune_noise_alpha", "0", *flags])
    return settings, load_for_training(settings, "transformers")


def make_rows(loaded: LoadedModel, count: int = 32) -> list[Encoded]:
    """Rows of very different lengths and shares of supervised tokens."""
    return [
        loaded.chat.encode(
            [
                {"role": "user", "content": "question " * (1 + i % 5)},
                {"role": "assistant", "content": "yes " * (1 + (i * 7) % 11)},
            ]
        )
        for i in range(count)
    ]


def train(folder: Path, output: Path, *flags: str, steps: int = 6) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Loss of every step, and the adapter afterwards."""
    settings, loaded = load(folder, *flags, "--max_steps", str(steps))
    rows = make_rows(loaded)
    arguments = build_arguments(settings, loaded.precision, output, num_steps=steps)
    trainer = RowTrainer(
        loaded,
        rows,
        rows[:4],
        arguments,
        micro_batch_tokens=settings.micro_batch_tokens,
        neftune_noise_alpha=settings.neftune_noise_alpha,
    )
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return losses, {name: value.clone() for name, value in loaded.model.state_dict().items() if "lora_" in name}


@pytest.mark.parametrize("method", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_eight_rows_per_step_give_the_same_losses_however_they_are_split(
    method, tiny_model_folder: Path, tmp_path: Path
):
    def train_in(tokens: int, *recipe: str) -> tuple[list[float], dict[str, torch.Tensor]]:
        flags = ["--micro_batch_tokens", str(tokens), "--method", method, *recipe]
        return train(tiny_model_folder, tmp_path / str(tokens), *flags, steps=30)

    whole, whole_weights = train_in(10_000, "--batch_size", "8", "--gradient_accumulation_steps", "1")
    cuts = {
        "1 x 8": train_in(1, "--batch_size", "1", "--gradient_accumulation_steps", "8"),
        "about 4 x 2": train_in(130, "--batch_size", "4", "--gradient_accumulation_steps", "2"),
    }
    for cut, cut_weights in cuts.values():
        assert len(whole) == len(cut) == 30
        assert max(abs(a - b) for a, b in zip(whole, cut, strict=True)) < 1e-5
        for key, value in whole_weights.items():
            torch.testing.assert_close(cut_weights[key], value, atol=1e-4, rtol=1e-3)


def test_the_loss_of_a_step_is_the_token_weighted_loss_of_its_rows(tiny_model_folder: Path, tmp_path: Path):
    settings, loaded = load(tiny_model_folder, "--batch_size", "8", "--gradient_accumulation_steps", "4")
    rows = make_rows(loaded)  # 32 rows: one step sees them all
    expected = token_weighted_loss(score_rows(loaded, rows, shown=False))
    arguments = build_arguments(settings, loaded.precision, tmp_path, num_steps=1)
    arguments.max_steps = 1
    trainer = RowTrainer(loaded, rows, rows[:4], arguments)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-5)


def test_flat_and_padded_batches_give_the_same_loss_and_gradients(tiny_model_folder: Path, tmp_path: Path):
    results = []
    for backend in ("transformers", "unsloth"):  # the layout that goes with each; no unsloth is needed for it
        settings, loaded = load(tiny_model_folder)
        loaded.backend = backend
        rows = make_rows(loaded, 6)
        trainer = RowTrainer(loaded, rows, rows, build_arguments(settings, loaded.precision, tmp_path, num_steps=1))
        loaded.model.train()
        batch = trainer.collate(range(6))
        assert ("cu_seq_lens_q" in batch) == (backend == "transformers")
        loss = trainer.compute_loss(loaded.model, batch, num_items_in_batch=torch.tensor(50))
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in loaded.model.named_parameters() if p.grad is not None}
        results.append((loss.item(), gradients))
    (flat_loss, flat), (padded_loss, padded) = results
    assert flat_loss == pytest.approx(padded_loss, abs=1e-5)
    assert set(flat) == set(padded)
    for name, gradient in flat.items():
        torch.testing.assert_close(gradient, padded[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_shared_prefixes_are_computed_once_with_the_same_loss_and_gradients(
    method, tiny_model_folder: Path, tmp_path: Path
):
    settings, loaded = load(tiny_model_folder, "--method", method)
    rows = make_rows(loaded, 6)
    trainer = RowTrainer(loaded, rows, rows, build_arguments(settings, loaded.precision, tmp_path, num_steps=1))
    loaded.model.train()
    assert trainer.shares_prefixes
    results, sizes = [], []
    for shares in (True, False):
        trainer.shares_prefixes = shares
        batch = trainer.collate(range(6))
        sizes.append(batch["input_ids"].shape[1])
        loss = trainer.compute_loss(loaded.model, batch, num_items_in_batch=torch.tensor(50))
        loaded.model.zero_grad()
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in loaded.model.named_parameters() if p.grad is not None}
        results.append((loss.item(), gradients))
    (shared_loss, shared), (loss, plain) = results
    assert sizes[0] < sizes[1] == sum(len(row.input_ids) for row in rows)
    assert trainer.num_tokens_seen == 2 * sizes[1]  # what rows have, however it was computed
    assert shared_loss == pytest.approx(loss, abs=1e-5)
    assert set(shared) == set(plain)
    for name, gradient in shared.items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-5, rtol=1e-3)


def test_what_makes_equal_tokens_different_in_each_row_keeps_rows_whole(tiny_model_folder: Path, tmp_path: Path):
    def batch_of(noise: float | None, *flags: str) -> dict[str, object]:
        settings, loaded = load(tiny_model_folder, *flags)
        rows = make_rows(loaded, 6)
        arguments = build_arguments(settings, loaded.precision, tmp_path, num_steps=1)
        return RowTrainer(loaded, rows, rows, arguments, neftune_noise_alpha=noise).collate(range(6))

    assert "key_places" in batch_of(None)
    assert "key_places" not in batch_of(5.0)
    assert "key_places" not in batch_of(None, "--lora_dropout", "0.1")


def test_validation_is_token_weighted_and_chooses_the_best_checkpoint(tiny_model_folder: Path, tmp_path: Path):
    settings, loaded = load(tiny_model_folder, "--max_steps", "6", "--eval_steps", "2", "--batch_size", "8")
    rows = make_rows(loaded)
    trainer = RowTrainer(loaded, rows, rows[:5], build_arguments(settings, loaded.precision, tmp_path, num_steps=6))
    trainer.train()
    evaluations = {line["step"]: line["eval_loss"] for line in trainer.state.log_history if "eval_loss" in line}
    assert list(evaluations) == [2, 4, 6]
    best = min(evaluations, key=lambda step: evaluations[step])
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    now = token_weighted_loss(score_rows(loaded, rows[:5], shown=False))  # the best weights were loaded at the end
    assert now == pytest.approx(evaluations[best], abs=1e-6)


@pytest.mark.parametrize("method", ["freeze", "full"])
def test_weights_in_fp32_are_trained_and_validated_beside_others_in_bf16(
    method, tiny_model_folder: Path, tmp_path: Path
):
    def losses_in(dtype: str) -> list[float]:
        flags = ["--method", method, "--freeze_trainable_layers", "1", "--dtype", dtype]
        settings, loaded = load(tiny_model_folder, *flags, "--max_steps", "4", "--eval_steps", "2")
        rows = make_rows(loaded)
        arguments = build_arguments(settings, loaded.precision, tmp_path / dtype, num_steps=4)
        trainer = RowTrainer(loaded, rows, rows[:5], arguments)
        trainer.train()
        trained = {weight.dtype for weight in loaded.model.parameters() if weight.requires_grad}
        assert trained == {torch.float32}
        return [line[name] for line in trainer.state.log_history for name in ("loss", "eval_loss") if name in line]

    found = losses_in("bf16")
    assert len(found) == 6
    assert found == pytest.approx(losses_in("fp32"), abs=2e-2)


def test_labels_reach_the_batch_as_the_rows_have_them(tiny_model_folder: Path, tmp_path: Path):
    settings, loaded = load(tiny_model_folder)
    rows = make_rows(loaded, 5)
    trainer = RowTrainer(loaded, rows, rows, build_arguments(settings, loaded.precision, tmp_path, num_steps=1))
    supervised = [token for row in rows for token, flag in zip(row.input_ids, row.loss_mask, strict=True) if flag]
    batch = trainer.collate(range(5))
    assert batch["labels"][batch["labels"] != -100].tolist() == supervised
    assert int(trainer._get_num_items_in_batch([{"places": [0, 1, 2, 3, 4]}], "cpu")) == len(supervised)


def test_trl_gets_a_placeholder_of_as_many_rows_and_no_copy_of_the_tokens(tiny_model_folder: Path, tmp_path: Path):
    settings, loaded = load(tiny_model_folder)
    rows = make_rows(loaded, 5)
    trainer = RowTrainer(loaded, rows, rows[:2], build_arguments(settings, loaded.precision, tmp_path, num_steps=1))
    assert trainer.train_dataset.to_list() == [{"input_ids": [0], "labels": [0]}] * 5
    assert trainer.eval_dataset.to_list() == [{"input_ids": [0], "labels": [0]}] * 2


def test_a_batch_without_a_supervised_token_never_trains_in_silence(tiny_model_folder: Path, tmp_path: Path):
    settings, loaded = load(tiny_model_folder)
    rows = [Encoded([5, 6, 7], [0, 0, 0])]
    trainer = RowTrainer(loaded, rows, rows, build_arguments(settings, loaded.precision, tmp_path, num_steps=1))
    with pytest.raises(RuntimeError, match="without a supervised token"):
        trainer.compute_loss(loaded.model, trainer.collate([0]))


def test_gradient_checkpointing_gives_the_same_losses(tiny_model_folder: Path, tmp_path: Path):
    plain, _ = train(tiny_model_folder, tmp_path / "plain", steps=3)
    recomputed, _ = train(tiny_model_folder, tmp_path / "recomputed", "--gradient_checkpointing", steps=3)
    assert recomputed == pytest.approx(plain, abs=1e-6)


def test_validation_through_the_whole_models_forward_scores_as_the_usual_one(tiny_model_folder: Path):
    _, loaded = load(tiny_model_folder)
    rows = make_rows(loaded, 9)
    usual = score_rows(loaded, rows, shown=False)
    in_step = score_in_step(loaded.model, loaded, rows)
    assert [score.num_tokens for score in in_step] == [score.num_tokens for score in usual]
    assert [score.nll for score in in_step] == pytest.approx([score.nll for score in usual], abs=1e-5)


def test_an_adapter_beside_four_bit_weights_is_trained_in_fp32(tiny_model_folder: Path, tmp_path: Path):
    _, adapter = train(tiny_model_folder, tmp_path / "run", "--method", "qlora", steps=2)
    assert {value.dtype for value in adapter.values()} == {torch.float32}
    assert any((value != value.bfloat16().float()).any() for value in adapter.values())  # finer than bf16 can be


def test_the_head_of_the_module_names_every_private_method_of_transformers_that_is_overridden():
    named = set(re.findall(r"(?<!\w)_[a-z]\w+", str(module.__doc__)))
    own = {**vars(RowTrainer), **vars(CheckpointedTrainer)}
    assert named == {name for name in own if re.match("_[a-z]", name) and hasattr(Trainer, name)}
