"""Trackers by the trainer's own integrations, and sample answers at every validation."""

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import TrainerCallback

from sft.errors import ConfigError
from sft.training.log import check_trackers, mend_trackers
from tests.commands import ROOT

TIMEOUT_S = 300
SECRETS = {
    "HF_TOKEN": "hf_planted0secret0of0the0hub",
    "HUGGING_FACE_HUB_TOKEN": "hf_planted0secret0of0the0old0name",
    "WANDB_API_KEY": "0123456789abcdefplanted0secret0of0wandb0",
    "SWANLAB_API_KEY": "planted0secret0of0swanlab",
    "MONGO_PASSWORD": "planted0secret0of0mongodb",
    "AWS_SECRET_ACCESS_KEY": "planted0secret0of0a0bucket",
}


def test_none_is_nothing_and_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr("sft.training.log.find_spec", lambda name: None)
    assert check_trackers(("none",)) == []
    with pytest.raises(ConfigError) as caught:
        check_trackers(("none", "wandb"))
    assert str(caught.value) == "report_to wandb: the package is not installed; pip install wandb"


@pytest.mark.slow
def test_samples_are_answered_at_every_validation_and_change_nothing_of_the_run(train, tmp_path):
    flags = ("--max_steps", "4", "--eval_steps", "2", "--lora_dropout", "0.1")
    train(*flags, "--num_sample_predictions", "2", folder="told")
    lines = [json.loads(line) for line in (tmp_path / "told/samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [2, 2, 4, 4]
    assert all(set(line) == {"step", "id", "reference", "prediction"} for line in lines)
    assert {line["reference"] for line in lines} <= {"很好", "An adapter.", "hi", "正面", "4"}
    train(*flags, folder="silent")
    losses = [
        [json.loads(line).get("loss") for line in (tmp_path / name / "log.jsonl").open()] for name in ("told", "silent")
    ]
    assert losses[0] == losses[1]


def test_tensorboard_gets_the_figures_and_the_samples(train, tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="optional package")
    train("--max_steps", "2", "--eval_steps", "1", "--report_to", "tensorboard", "--num_sample_predictions", "2")
    [folder] = {path.parent for path in (tmp_path / "run").rglob("events.out.tfevents.*")}
    events = reader.EventAccumulator(str(folder))
    events.Reload()
    assert {"train/loss", "eval/loss", "train/learning_rate"} <= set(events.Tags()["scalars"])
    assert "samples/text_summary" in events.Tags()["tensors"]


def files_with_secrets(folder: Path) -> list[str]:
    return [
        f"{path.relative_to(folder)}: {name}"
        for path in folder.rglob("*")
        if path.is_file()
        for name, secret in SECRETS.items()
        if secret.encode() in path.read_bytes()
    ]


def test_no_secret_of_the_environment_is_in_any_file_or_line_of_a_run(train, tmp_path, monkeypatch, capsys):
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    train("--max_steps", "2", "--eval_steps", "1", "--num_sample_predictions", "1")
    assert (tmp_path / "run/checkpoints/checkpoint-2/training_args.bin").is_file()
    assert files_with_secrets(tmp_path) == []
    said = capsys.readouterr()
    assert [name for name, secret in SECRETS.items() if secret in said.out + said.err] == []


def read_tables_of_wandb(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("wandb/offline-run-*/files/media/table/*.json"))


def read_texts_of_swanlab(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8") for path in folder.glob("swanlog/run-*/media/text/*.txt"))


def read_database_of_trackio(folder: Path) -> str:
    [database] = folder.glob("trackio/*.db")
    with sqlite3.connect(database) as connection:
        return b"".join(line for (line,) in connection.execute("SELECT metrics FROM metrics")).decode()


READERS: dict[str, Callable[[Path], str]] = {
    "wandb": read_tables_of_wandb,
    "swanlab": read_texts_of_swanlab,
    "trackio": read_database_of_trackio,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_tracker_gets_figures_and_samples_offline_and_no_secret(name, tiny_model_folder, rows_file, tmp_path):
    pytest.importorskip(name, reason="optional package")
    flags = ["--model", tiny_model_folder, "--data", rows_file, "--output_dir", "run", "--method", "lora"]
    flags += ["--dtype", "fp32", "--system_prompt", "Be brief.", "--max_seq_length", 192, "--max_steps", 2]
    flags += ["--eval_steps", 1, "--report_to", name, "--num_sample_predictions", 3]
    offline = {"WANDB_MODE": "offline", "SWANLAB_MODE": "offline", "TRACKIO_DIR": str(tmp_path / "trackio")}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *map(str, flags)],
        cwd=tmp_path,
        env={**os.environ, **SECRETS, **offline},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text(encoding="utf-8").splitlines()]
    sent = READERS[name](tmp_path)
    assert len(lines) == 6
    assert all(line["id"] in sent for line in lines)
    assert files_with_secrets(tmp_path) == []
    assert [name for name, secret in SECRETS.items() if secret in done.stdout + done.stderr] == []


def test_a_tracker_that_cannot_start_is_one_line_with_the_remedy():
    class WandbCallback(TrainerCallback):
        def setup(self, *arguments: object) -> None:
            raise ValueError("No API key configured.\nUse `wandb login` to log in.")

    tracker = WandbCallback()
    mend_trackers([TrainerCallback(), tracker])
    with pytest.raises(ConfigError) as caught:
        tracker.setup("arguments", "state")
    assert str(caught.value) == (
        "report_to wandb: cannot begin (ValueError: No API key configured. Use `wandb login` to log in.); "
        "log in (wandb login), set WANDB_MODE=offline, or leave it out"
    )
