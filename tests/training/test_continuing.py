"""A run that goes on: from which checkpoint, to the same end, and not as another run than it began as."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.errors import RunError
from sft.runs.checkpoints import KEPT, find_checkpoint, find_run_dir, run_to_continue
from sft.runs.run import open_run, read_run
from sft.training.log import read_log
from tests.tiny import make_tiny_model, write_rows

SIX_STEPS = ("--max_steps", "6", "--eval_steps", "2", "--learning_rate", "1e-2", "--warmup_steps", "0")
FIGURES = ("steps", "eval_loss", "perplexity", "best_checkpoint")
CONTINUE = ("--resume_from_checkpoint", "auto")


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run of four steps, checkpoints at 2 and 4."""
    return shutil.copytree(tiny_run, tmp_path / "run")


def refusal(train, *flags: object) -> str:
    with pytest.raises(RunError) as caught:
        train(*flags)
    return str(caught.value)


def settings_of(*flags: object) -> TrainSettings:
    return load_settings(TrainSettings, [str(flag) for flag in flags])


def test_an_interrupted_run_resumes_to_the_same_losses_and_weights(train, interrupt, tmp_path, capsys):
    train(*SIX_STEPS, folder="whole")
    with interrupt(4), pytest.raises(KeyboardInterrupt):
        train(*SIX_STEPS)
    run = tmp_path / "run"
    assert f"4 of 6 steps done, 2 saved; resume with: python train.py --output_dir {run} {' '.join(CONTINUE)}" in (
        capsys.readouterr().err.splitlines()
    )
    assert read_run(run).status == "training"
    assert [line["step"] for line in read_log(run / "log.jsonl")] == [1, 2, 2, 3]  # step 3 will be done again

    result = train(*SIX_STEPS, *CONTINUE)

    said = capsys.readouterr().err.splitlines()
    assert f"resumes after step 2 of 6: {run}/checkpoints/checkpoint-2" in said
    plan = next(line for line in said if line.startswith("plan: "))
    assert " s per step, 4 of 6 steps left and 2 validations (" in plan
    bars = [line for line in said if line.startswith("train: ") and "steps/s" in line]
    assert bars[0].startswith("train: 50% 3/6 steps, ")
    keys = ("step", "loss", "eval_loss", "learning_rate", "grad_norm", "num_tokens")
    logs = [
        [{key: line.get(key) for key in keys} for line in read_log(tmp_path / name / "log.jsonl")]
        for name in ("whole", "run")
    ]
    assert logs[0] == logs[1]  # to the last bit, and each step once
    weights = [load_file(tmp_path / name / "adapter/adapter_model.safetensors") for name in ("whole", "run")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    finished = open_run(run)
    assert finished.metrics["steps"] == result.metrics["steps"] == 6
    assert finished.metrics["eval_loss"] == open_run(tmp_path / "whole").metrics["eval_loss"]


def test_a_run_interrupted_before_its_first_checkpoint_starts_over(train, interrupt, tmp_path):
    with interrupt(1), pytest.raises(KeyboardInterrupt):
        train("--max_steps", "2")
    train("--max_steps", "2", *CONTINUE)
    assert [line["step"] for line in read_log(tmp_path / "run/log.jsonl")] == [1, 2, 2]
    assert open_run(tmp_path / "run").metrics["steps"] == 2


def test_a_finished_run_continues_with_more_steps(train, copy):
    assert train("--max_steps", "5", *CONTINUE).metrics["steps"] == 5
    assert [line["step"] for line in read_log(copy / "log.jsonl") if "loss" in line] == [1, 2, 3, 4, 5]


def test_a_run_that_is_given_more_steps_takes_the_rates_of_the_longer_schedule(train, tmp_path):
    flags = ("--eval_steps", "2", "--learning_rate", "1e-2", "--warmup_steps", "0")
    train("--max_steps", "2", *flags)
    train("--max_steps", "5", *flags, *CONTINUE)
    rates = [line["learning_rate"] for line in read_log(tmp_path / "run/log.jsonl") if "loss" in line]
    assert rates == pytest.approx([1e-2, 0.5e-2, 0.6e-2, 0.4e-2, 0.2e-2])  # 1e-2 x steps left / steps, of 2, then of 5


def test_a_finished_run_that_is_continued_as_it_is_stays_as_it_is(train, copy, tiny_run):
    train("--max_steps", "4", *CONTINUE)
    assert (copy / "log.jsonl").read_text() == (tiny_run / "log.jsonl").read_text()
    weights = [load_file(folder / "adapter/adapter_model.safetensors") for folder in (tiny_run, copy)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    before, now = open_run(tiny_run).metrics, open_run(copy).metrics
    assert [now[name] for name in FIGURES] == [before[name] for name in FIGURES]


# What is refused


def test_a_folder_that_holds_a_run_is_not_overwritten(train, copy):
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert refusal(train, "--max_steps", "2") == (
        f"{copy} already contains a run; choose another --output_dir, or --resume_from_checkpoint auto"
    )
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    assert train("--max_steps", "2", "--dry_run").metrics["steps"] == 2  # writes nothing, so it may


def test_another_prompt_base_data_set_split_or_recipe_is_refused_naming_both_values(train, copy, tmp_path):
    other_rows, other_base = write_rows(tmp_path / "other.jsonl", 50), make_tiny_model(tmp_path / "other", seed=1)
    began = read_run(copy)
    line = refusal(train, *CONTINUE, "--system_prompt", "Sing.")
    assert "system prompt: trained with 'Be brief.', now 'Sing.'; put it back, or pass --allow_mismatch" in line
    line = refusal(train, *CONTINUE, "--model", other_base)  # of the same shape
    assert f"base weights: trained with {began.base['weights']}, now sha256 " in line
    line = refusal(train, *CONTINUE, "--data", other_rows)
    assert f"data sha256: began with {began.data['sha256']}, now " in line
    line = refusal(train, *CONTINUE, "--split_seed", "1")
    assert f"data split: began with {began.data['split']}, now by content hash, eval_ratio 0.1, seed 1" in line
    line = refusal(train, *CONTINUE, "--lora_r", "4", "--target_modules", "q_proj")
    assert "lora_r: began with 16, now 4; target_modules: began with ['auto'], now ['q_proj']" in line
    assert open_run(copy) == began  # nothing was touched


def test_allow_mismatch_continues_and_says_what_differs(train, copy, capsys):
    train("--max_steps", "5", *CONTINUE, "--system_prompt", "Sing.", "--allow_mismatch")
    assert "WARNING --allow_mismatch: system prompt: trained with 'Be brief.', now 'Sing.'" in capsys.readouterr().err
    assert open_run(copy).system_prompt == "Sing."


def test_each_setting_is_known_to_be_kept_checked_by_other_means_or_free_to_change():
    checked = {"per_device_train_batch_size", "gradient_accumulation_steps"}  # their product
    checked |= {
        "data",
        "eval_ratio",
        "split_seed",
        "model",
        "revision",
        "system_prompt",
        "think",
        "rope_scaling",
    }  # hashes, fingerprint
    free = {"config", "json_output", "output_dir", "dry_run", "resume_from_checkpoint", "allow_mismatch", "use_qlora"}
    free |= {"num_train_epochs", "max_steps", "warmup_steps", "weight_decay", "max_grad_norm", "neftune_noise_alpha"}
    free |= {"backend", "base_dtype", "dtype", "optim", "gradient_checkpointing", "trust_remote_code"}
    free |= {"activation_offloading"}  # where layer inputs wait, not what they are
    free |= {"eval_steps", "save_total_limit", "early_stopping_patience", "early_stopping_threshold", "warmup_ratio"}
    free |= {"micro_batch_tokens", "max_memory_gb", "cuda_graphs", "max_dropped", "report_to", "num_sample_predictions"}
    free |= {"compute_accuracy"}
    free |= {"test_data"}  # is evaluate.py's
    free |= {"on_bad_row"}  # gives the same rows, or an error
    assert sorted([*KEPT, *checked, *free]) == sorted(TrainSettings.model_fields)


# Which checkpoint


def test_auto_takes_the_newest_whole_checkpoint(copy):
    settings = settings_of("--output_dir", copy, *CONTINUE)
    cut_off = shutil.copytree(copy / "checkpoints/checkpoint-2", copy / "checkpoints/checkpoint-10")
    (cut_off / "trainer_state.json").unlink()  # the trainer writes it last
    assert find_checkpoint(settings, copy) == copy / "checkpoints/checkpoint-4"
    shutil.copytree(copy / "checkpoints/checkpoint-2", copy / "checkpoints/checkpoint-12")
    assert find_checkpoint(settings, copy) == copy / "checkpoints/checkpoint-12"  # by number, not by name


def test_a_named_checkpoint_brings_its_run_along(copy):
    checkpoint = copy / "checkpoints/checkpoint-2"
    settings = settings_of("--resume_from_checkpoint", checkpoint)
    assert (find_run_dir(settings), find_checkpoint(settings, copy)) == (copy, checkpoint)
    assert run_to_continue(settings) == read_run(copy)


def test_a_named_checkpoint_of_another_run_does_not_overwrite_this_one(copy, tmp_path):
    other = shutil.copytree(copy, tmp_path / "other")
    settings = settings_of("--output_dir", other, "--resume_from_checkpoint", copy / "checkpoints/checkpoint-2")
    with pytest.raises(RunError, match="other already contains a run"):
        find_checkpoint(settings, other)
    assert find_checkpoint(settings, tmp_path / "new") == copy / "checkpoints/checkpoint-2"


def test_auto_without_a_checkpoint_starts_a_run_but_not_over_a_finished_one(copy, tmp_path):
    settings = settings_of("--output_dir", tmp_path / "new", *CONTINUE)
    assert (find_checkpoint(settings, tmp_path / "new"), run_to_continue(settings)) == (None, None)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(RunError, match="this run is complete and its checkpoints are gone; choose another"):
        find_checkpoint(settings_of("--output_dir", copy, *CONTINUE), copy)


def test_what_is_no_checkpoint_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for find in (find_run_dir, run_to_continue):
        with pytest.raises(RunError) as caught:
            find(settings_of("--resume_from_checkpoint", "no/such"))
        line = "no/such: no checkpoint; name a folder like outputs/demo/checkpoints/checkpoint-50, or auto"
        assert str(caught.value) == line


def test_auto_starts_a_run_if_none_is_unfinished(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = settings_of(*CONTINUE)
    assert (find_run_dir(settings), run_to_continue(settings)) == (None, None)


def test_a_checkpoint_outside_of_a_run_is_refused(copy, tmp_path):
    alone = shutil.copytree(copy / "checkpoints/checkpoint-2", tmp_path / "alone" / "checkpoint-2")
    with pytest.raises(RunError, match=r"belongs to no run, there is no .*run\.json; name another"):
        run_to_continue(settings_of("--resume_from_checkpoint", alone))
