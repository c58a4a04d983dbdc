"""A loss or gradient that is no number: the run stops in that step, names the rows, and no such weights are saved."""

import contextlib
import json
import math
from pathlib import Path

import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState
from trl import SFTConfig

from sft.data import open_dataset
from sft.errors import DataError
from sft.runs.run import read_run
from sft.training.guard import (
    DivergedError,
    FiniteGuard,
    StalledError,
    StallGuard,
    check_kept,
    check_validation,
    name_rows,
)
from sft.training.log import read_log
from sft.training.trainer import RowTrainer
from tests.tiny import write_rows

ADVICE = "lower --learning_rate, or look at these rows with inspect_data.py --row"


def are_finite(run: Path) -> bool:
    """Whether all adapters a run has saved are; there must be one."""
    files = list(run.rglob("adapter_model.safetensors"))
    return bool(files) and all(weight.isfinite().all() for path in files for weight in load_file(path).values())


def write_flaw(path: Path, side: str) -> tuple[Path, str]:
    """A file of rows in which the answer of one training or validation row holds a `~`, and that row's id."""
    write_rows(path)
    name = getattr(open_dataset(path), side)[3]["id"]  # rows-17: the row of line 17
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines[int(name.removeprefix("rows-")) - 1]["output"] += "~"  # the split goes by the question
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path, name


def test_a_model_that_diverges_stops_in_that_step_and_its_checkpoints_stay_finite(train, tmp_path):
    with pytest.raises(DivergedError, match=r"(is nan|is inf|not finite).* on rows? rows-"):
        train("--max_steps", "8", "--eval_steps", "1", "--learning_rate", "1e3", "--warmup_steps", "0")
    assert are_finite(tmp_path / "run")
    assert read_run(tmp_path / "run").status == "training"
    assert not (tmp_path / "run/adapter").exists()


def test_the_row_whose_loss_is_no_number_is_named_and_the_checkpoint_before_stays_finite(train, flawed_model, tmp_path):
    rows, name = write_flaw(tmp_path / "rows.jsonl", "train")
    flags = ["--model", flawed_model, "--data", rows, "--num_train_epochs", "1", "--warmup_steps", "0"]
    with pytest.raises(DivergedError) as caught:
        train(*flags, "--micro_batch_tokens", "1", "--eval_steps", "1")
    steps = [line["step"] for line in read_log(tmp_path / "run/log.jsonl") if "loss" in line]
    assert str(caught.value) == f"step {len(steps) + 1}: the loss is nan on row {name}; {ADVICE}"
    assert are_finite(tmp_path / "run")


def test_a_validation_row_whose_loss_is_no_number_is_named_and_nothing_is_saved(train, flawed_model, tmp_path):
    rows, name = write_flaw(tmp_path / "rows.jsonl", "validation")
    with pytest.raises(DivergedError) as caught:
        train("--model", flawed_model, "--data", rows, "--max_steps", "2", "--eval_steps", "1")
    assert str(caught.value) == f"validation after step 1: the loss is not finite on row {name}; {ADVICE}"
    assert list((tmp_path / "run").rglob("*.safetensors")) == []


@pytest.mark.parametrize("optim", ["adamw_torch", "adamw_torch_fused"])  # looked at before and after the update
def test_a_gradient_that_is_no_number_stops_the_step_before_the_weights_take_it_up(optim, train, tmp_path, monkeypatch):
    compute_loss, trained = RowTrainer.compute_loss, {}

    def break_gradient(self, *args, **kwargs):
        loss = compute_loss(self, *args, **kwargs)
        if self.state.global_step == 2:
            trained["weights"] = get_peft_model_state_dict(self.loaded.model)
            loss.register_hook(lambda gradient: gradient * math.inf)
        return loss

    monkeypatch.setattr(RowTrainer, "compute_loss", break_gradient)
    with pytest.raises(DivergedError, match=r"^step 3: a gradient is not finite, though the loss is, on rows rows-"):
        train("--max_steps", "4", "--eval_steps", "1", "--optim", optim)
    checkpoints = tmp_path / "run/checkpoints"
    assert {path.name for path in checkpoints.glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}
    assert are_finite(tmp_path / "run")
    saved = load_file(checkpoints / "checkpoint-2/adapter_model.safetensors")
    assert saved.keys() == trained["weights"].keys()
    assert all(weight.equal(trained["weights"][name]) for name, weight in saved.items())


@pytest.mark.parametrize("of_clipping", [torch.tensor, float])  # as torch and as DeepSpeed tell the norm
def test_the_norm_reported_by_whatever_clipped_the_gradients_is_used(of_clipping, tmp_path):
    arguments = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    guard, state = FiniteGuard(["a", "b"]), TrainerState(global_step=6)

    def look_at(norm: float) -> None:
        guard.note(torch.tensor(2.0), [1])
        guard.norm = of_clipping(norm)
        model = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(model.parameters())
        guard.on_pre_optimizer_step(arguments, state, TrainerControl(), model=model, optimizer=optimizer)

    look_at(0.7)
    with pytest.raises(DivergedError, match=r"^step 7: a gradient is not finite, though the loss is, on row b; lower"):
        look_at(math.inf)


@pytest.mark.parametrize(("gradient", "is_fine"), [(1.0, True), (math.inf, False), (None, True)])
def test_where_nobody_has_clipped_the_gradients_themselves_are_looked_at(gradient, is_fine, tmp_path):
    arguments = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    guard, state, model = FiniteGuard(["a", "b"]), TrainerState(global_step=6), torch.nn.Linear(1, 1)
    if gradient is not None:
        model.weight.grad = torch.tensor([[gradient]])
    guard.note(torch.tensor(2.0), [1])
    expected = "on row b; lower" if not is_fine else None
    with pytest.raises(DivergedError, match=expected) if expected else contextlib.nullcontext():
        guard.on_pre_optimizer_step(
            arguments, state, TrainerControl(), model=model, optimizer=torch.optim.SGD(model.parameters())
        )


def test_a_loss_that_is_no_number_in_another_process_ends_this_one_too(tmp_path, monkeypatch):
    monkeypatch.setattr("sft.training.guard.any_process", lambda is_here: True)  # there is one process here
    arguments, model = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False), torch.nn.Linear(1, 1)
    guard, state, optimizer = FiniteGuard(["a"]), TrainerState(global_step=6), torch.optim.SGD(model.parameters())
    guard.note(torch.tensor(2.0), [0])
    with pytest.raises(DivergedError, match=r"^step 7: the loss is not finite in another process, which names the"):
        guard.on_pre_optimizer_step(arguments, state, TrainerControl(), model=model, optimizer=optimizer)


def test_many_rows_are_named_by_the_first_ten():
    assert name_rows(["a"]) == "row a"
    assert name_rows([str(number) for number in range(12)]) == "rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more"


# A run that learns nothing


def test_a_run_without_any_gradient_ends_after_three_steps(train, monkeypatch):
    compute_loss = RowTrainer.compute_loss
    monkeypatch.setattr(RowTrainer, "compute_loss", lambda *args, **kwargs: compute_loss(*args, **kwargs) * 0)
    with pytest.raises(
        StalledError, match=r"^step 3: no gradient for 3 steps, so nothing is learned; look at the line"
    ):
        train("--max_steps", "6")


@pytest.mark.parametrize(("last_loss", "warned"), [(2.0, True), (2.015, True), (1.9, False), (2.5, False)])
def test_a_loss_that_has_not_moved_after_many_steps_is_warned_of_once(last_loss, warned, tmp_path, capsys):
    arguments = SFTConfig(output_dir=str(tmp_path), warmup_steps=5, use_cpu=True, bf16=False)
    guard, state = StallGuard(), TrainerState(max_steps=1000)
    for step in range(1, 200):
        state.global_step = step
        loss = 2.0 if step <= 30 else last_loss
        guard.on_log(arguments, state, TrainerControl(), logs={"loss": loss, "grad_norm": 0.5})
    said = capsys.readouterr().err
    assert said.count("WARNING the loss has not moved in 55 steps: 2.0000 at first") == int(warned)


def test_steps_without_a_gradient_count_only_in_a_row(tmp_path):
    arguments = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False)
    guard, state = StallGuard(), TrainerState(max_steps=1000)

    def log(*norms: float) -> None:
        for norm in norms:
            guard.on_log(arguments, state, TrainerControl(), logs={"loss": 2.0, "grad_norm": norm})

    log(0, 0, 0.5, 0, 0)
    guard.on_log(arguments, state, TrainerControl(), logs={"eval_loss": 2.0})  # a validation is no step
    with pytest.raises(StalledError, match="no gradient for 3 steps"):
        log(0)


def test_as_many_dropped_rows_as_allowed_are_no_error():
    check_kept(90, 100, 0.1, "10 too long")
    with pytest.raises(DataError, match=r"^11 of 100 training rows were dropped, .* allows: 11 too long; raise"):
        check_kept(89, 100, 0.1, "11 too long")


def test_validation_rows_whose_loss_is_not_finite_are_named_and_finite_ones_are_not():
    check_validation([1.0, 2.0], ["a", "b"], 7)
    with pytest.raises(DivergedError, match=r"^validation after step 7: the loss is not finite on rows b, c; lower"):
        check_validation([1.0, math.nan, math.inf], ["a", "b", "c"], 7)


def test_more_dropped_rows_than_expected_are_an_error_that_names_them(train, tmp_path):
    rows = write_rows(tmp_path / "rows.jsonl")
    lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
    for line in lines[::3]:
        line["output"] = "long " * 400  # no answer is ever cut
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(
        DataError, match=r"1[0-9] of 3[0-9] training rows were dropped, more than the share of 0.1 that"
    ):
        train("--data", rows, "--max_steps", "1")
    assert train("--data", rows, "--max_steps", "1", "--max_dropped", "0.5").metrics["steps"] == 1
