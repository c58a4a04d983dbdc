"""A run from its first step to its finished folder: what is written, and which weights are kept."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prompts import Rules
from sft.config.train import TrainSettings
from sft.data import Dataset, open_dataset
from sft.encoding import encode_rows
from sft.errors import DataError
from sft.models.loading import load_run
from sft.runs.run import IN_MEMORY, Run, open_run
from sft.scoring import score_rows, token_weighted_loss
from sft.training.log import read_log


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# What a run leaves behind


def test_a_finished_run_holds_exactly_the_contracted_files(tiny_run):
    adapter = {"adapter_config.json", "adapter_model.safetensors"}  # no README.md: cards of peft and TRL say nothing
    adapter |= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    state = {
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "trainer_state.json",
        "training_args.bin",
        "manifest.json",
    }
    expected = {"run.json", "log.jsonl", "loss.png"}
    expected |= {f"adapter/{name}" for name in adapter | {"prompt_fingerprint.json"}}
    expected |= {f"checkpoints/checkpoint-{step}/{name}" for step in (2, 4) for name in adapter | state}
    assert files_of(tiny_run) - {name for name in files_of(tiny_run) if name.startswith("evaluation/")} == expected
    assert (tiny_run / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_run_json_holds_all_that_other_scripts_start_from(tiny_run, tiny_model_folder, rows_file):
    content = json.loads((tiny_run / "run.json").read_text(encoding="utf-8"))
    assert set(content) == {field.name for field in dataclasses.fields(Run)} - {"path", *IN_MEMORY}
    assert content["status"] == "complete"
    assert set(content["settings"]) == set(TrainSettings.model_fields)
    assert content["settings"]["learning_rate"] == 2e-4
    assert content["origins"]["max_seq_length"] == "flag"
    assert content["base"]["name"] == str(tiny_model_folder)
    assert content["base"]["weights"].startswith("sha256 ")
    assert content["system_prompt"] == "Be brief."
    assert set(content["fingerprint"]) == {"digest", "parts"}
    dataset = open_dataset(rows_file)
    data = content["data"]
    assert (data["path"], data["sha256"], data["split"]) == (str(rows_file), dataset.sha256, dataset.split)
    assert (data["train"]["read"], data["validation"]["read"]) == (len(dataset.train), len(dataset.validation))
    assert {"torch", "transformers", "trl", "peft"} <= set(content["versions"])
    assert content["metrics"]["steps"] == 4


def test_the_log_has_a_line_for_every_step_and_every_validation(tiny_run):
    lines = read_log(tiny_run / "log.jsonl")
    assert [(line["step"], "eval_loss" in line) for line in lines] == [
        (1, False),
        (2, False),
        (2, True),
        (3, False),
        (4, False),
        (4, True),
    ]
    fields = {"step", "epoch", "loss", "learning_rate", "grad_norm", "num_tokens", "tokens_per_second", "peak_gb"}
    steps = [line for line in lines if "loss" in line]
    assert all(set(line) == fields and min(line["loss"], line["grad_norm"], line["num_tokens"]) > 0 for line in steps)
    assert len((tiny_run / "log.jsonl").read_text().splitlines()) == len(lines)


def test_the_steps_are_those_of_the_epochs_and_the_last_one_is_validated_and_saved(train, tmp_path):
    result = train("--num_train_epochs", "1.5", "--eval_steps", "3")  # 36 rows, 8 a step: 5 steps an epoch
    assert result.metrics["steps"] == 8
    assert [line["step"] for line in read_log(tmp_path / "run/log.jsonl") if "eval_loss" in line] == [3, 6, 8]
    assert (tmp_path / "run/checkpoints/checkpoint-8").is_dir()


WRONG_WAY = ("--max_steps", "4", "--eval_steps", "1", "--learning_rate", "3e-2", "--warmup_steps", "0")


@pytest.fixture
def contrary_rows(rows_file) -> Dataset:
    """Validation asks for other answers than training teaches, so that its loss rises with every step."""
    dataset = open_dataset(rows_file)
    return dataclasses.replace(
        dataset,
        train=[{**row, "output": "yes yes yes"} for row in dataset.train],
        validation=[{**row, "output": "\x7f" * (1 + 5 * place)} for place, row in enumerate(dataset.validation)],
    )


def test_what_is_saved_is_the_checkpoint_of_the_best_token_weighted_validation_loss(train, contrary_rows, tmp_path):
    result = train(*WRONG_WAY, dataset=contrary_rows)
    losses = {line["step"]: line["eval_loss"] for line in read_log(tmp_path / "run/log.jsonl") if "eval_loss" in line}
    best_step = min(losses, key=losses.get)
    assert best_step != 4  # the last checkpoint is not the best
    assert result.metrics["best_checkpoint"] == f"checkpoint-{best_step}"
    assert (result.metrics["eval_loss"], result.metrics["perplexity"]) == (
        losses[best_step],
        math.exp(losses[best_step]),
    )

    saved = load_file(tmp_path / "run/adapter/adapter_model.safetensors")
    best = load_file(tmp_path / f"run/checkpoints/checkpoint-{best_step}/adapter_model.safetensors")
    assert saved.keys() == best.keys()
    assert all(torch.equal(saved[name], best[name]) for name in saved)

    run = open_run(tmp_path / "run")
    loaded = load_run(run)
    encoded = encode_rows(contrary_rows.validation, loaded.chat, run.system_prompt, Rules(max_length=192)).encoded
    assert token_weighted_loss(score_rows(loaded, encoded)) == pytest.approx(losses[best_step], abs=1e-6)
    means = [score_rows(loaded, [example])[0] for example in encoded]
    assert (
        abs(sum(score.nll / score.num_tokens for score in means) / len(means) - losses[best_step]) > 1e-3
    )  # not that mean


@pytest.mark.parametrize("limit", [1, 2])
def test_checkpoints_are_limited_and_the_best_is_among_them(limit, train, contrary_rows, tmp_path):
    best = train(*WRONG_WAY, "--save_total_limit", limit, dataset=contrary_rows).metrics["best_checkpoint"]
    assert best != "checkpoint-4"
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == [best, "checkpoint-4"][:limit]


# What writes nothing


def test_a_dry_run_reports_memory_steps_and_time_and_writes_nothing(train, tmp_path):
    result = train("--dry_run", "--num_train_epochs", "1")
    assert result.run_dir is None
    assert list(result.metrics) == [
        "steps",
        "micro_batch_tokens",
        "micro_batches_per_step",
        "longest_batch_tokens",
        "recomputed_layers",
        "unpacks",
        "host_gb",
        "tokens_per_second",
        "peak_gb",
        "step_s",
        "estimated_duration_s",
    ]
    assert result.metrics["steps"] == 5
    assert list(tmp_path.iterdir()) == []


def test_rows_that_all_do_not_fit_are_refused_before_anything_is_written(train, tmp_path):
    with pytest.raises(DataError, match="no train row fits 16 tokens; raise --max_seq_length"):
        train("--max_seq_length", "16")
    assert list(tmp_path.iterdir()) == []
