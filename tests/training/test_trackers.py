"""Trackers by the trainer's own integrations, and sample answers at every validation."""

import json

import pytest

from sft.errors import ConfigError
from sft.training.trackers import check_trackers


def test_none_is_nothing_and_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setattr("sft.training.trackers.find_spec", lambda name: None)
    assert check_trackers(("none",)) == []
    with pytest.raises(ConfigError) as caught:
        check_trackers(("none", "wandb"))
    assert str(caught.value) == "report_to wandb: the package is not installed; pip install wandb"


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
