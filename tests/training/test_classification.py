"""Runs with a classification head: loss, validation, the best checkpoint, and what is left when one is interrupted."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score

from prompts import Head, Rules
from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.encoding import encode_rows
from sft.errors import ConfigError, DataError
from sft.models.loading import load_for_training, load_run
from sft.runs.run import open_run, read_run
from sft.scoring import score_classes
from sft.training import replay
from sft.training.arguments import build_arguments
from sft.training.fit import TrainResult
from sft.training.log import read_log
from sft.training.objective import Classification, ClassScore
from sft.training.replay import ReplayedPasses, Rerun
from sft.training.trainer import RowTrainer
from tests.tiny import head_weight, write_rows

SIX_STEPS = ("--max_steps", "6", "--eval_steps", "2", "--learning_rate", "1e-2", "--warmup_steps", "0")
EVERY_STEP = ("--max_steps", "6", "--eval_steps", "1", "--warmup_steps", "0")
BY_F1 = ("--metric_for_best_model", "eval_macro_f1")
HEAD = Head(("负面", "正面"))


@pytest.fixture
def train_head(train, tied_model_folder: Path, reviews_file: Path):
    """train_head("--max_steps", "2") -> the result of a run with a head, in tmp_path/run."""

    def run(*flags: object, **more: object) -> TrainResult:
        data = ("--model", tied_model_folder, "--data", reviews_file, "--eval_ratio", "0.25")
        return train(*data, "--head", "classification", *flags, **more)

    return run


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def rows_of(file: Path, count: int) -> list[dict]:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:count]]
    return [{"id": str(i), "source": "s", "task": "sentiment", **line} for i, line in enumerate(lines)]


# Loss


def test_the_loss_of_a_step_is_the_mean_over_its_rows_however_they_are_split(train_head, tmp_path):
    quiet = ("--head_dropout", "0", "--neftune_noise_alpha", "0", *SIX_STEPS, "--eval_steps", "6")
    cuts = {"whole": (8, 1, 10_000), "each": (1, 8, 1), "some": (4, 2, 200)}
    for name, (rows, times, tokens) in cuts.items():
        recipe = ("--batch_size", rows, "--gradient_accumulation_steps", times, "--micro_batch_tokens", tokens)
        train_head(*quiet, *recipe, folder=name)
    losses = {
        name: [line["loss"] for line in read_log(tmp_path / name / "log.jsonl") if "loss" in line] for name in cuts
    }
    assert len(losses["whole"]) == 6
    assert len(set(losses["whole"])) == 6
    for name in ("each", "some"):
        assert losses[name] == pytest.approx(losses["whole"], abs=1e-5)
        for key, value in adapter_of(tmp_path / "whole/adapter").items():
            torch.testing.assert_close(adapter_of(tmp_path / name / "adapter")[key], value, atol=1e-3, rtol=1e-2)


def test_the_first_loss_is_the_cross_entropy_of_independent_logits(tied_model_folder, reviews_file, tmp_path):
    flags = ["--model", str(tied_model_folder), "--dtype", "fp32", "--head", "classification", "--method", "lora"]
    settings = load_settings(TrainSettings, [*flags, "--head_dropout", "0"])
    loaded = load_for_training(settings, "transformers", HEAD)
    encoded = encode_rows(rows_of(reviews_file, 6), loaded.chat, "Be brief.", Rules(max_length=192), head=HEAD).encoded
    arguments = build_arguments(settings, loaded.precision, tmp_path, num_steps=1)
    trainer = RowTrainer(loaded, encoded, encoded, arguments, objective=Classification(loaded))
    loss = trainer.compute_loss(loaded.model.train(), trainer.collate(range(6)))
    with torch.no_grad():  # transformers' own forward, row by row
        stock = type(loaded.causal_lm).forward
        logits = torch.cat([stock(loaded.causal_lm, torch.tensor([row.input_ids])).logits for row in encoded]).double()
    expected = [-logits[i].log_softmax(0)[row.label].item() for i, row in enumerate(encoded)]
    assert loss.item() == pytest.approx(math.fsum(expected) / 6, abs=1e-6)
    scores = trainer.score_validation()
    assert [score.nll for score in scores] == pytest.approx(expected, abs=1e-6)
    in_step = trainer.objective.score(encoded, sharded=loaded.model)  # as with weights in pieces
    assert [score.nll for score in in_step] == pytest.approx(expected, abs=1e-6)
    assert [score.said for score in in_step] == logits.argmax(1).tolist()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_replayed_passes_train_the_head_as_it_is_trained_without_them(
    method, tied_model_folder, reviews_file, tmp_path, monkeypatch
):
    monkeypatch.setattr(replay, "TOKEN_STEP", 32)

    def train(replays: bool) -> tuple[list[float], dict[str, torch.Tensor]]:
        flags = ["--model", str(tied_model_folder), "--dtype", "fp32", "--method", method]
        flags += ["--learning_rate", "1e-2" if method == "lora" else "1e-3"]
        more = ["--head", "classification", "--head_dropout", "0", "--pooling", "mean", "--max_steps", "8"]
        settings = load_settings(TrainSettings, [*flags, *more, "--warmup_steps", "0"])
        loaded = load_for_training(settings, "transformers", Head(HEAD.labels, "mean"))
        encoded = encode_rows(rows_of(reviews_file, 30), loaded.chat, None, Rules(max_length=192), head=HEAD).encoded
        arguments = build_arguments(settings, loaded.precision, tmp_path / str(replays), num_steps=8)
        trainer = RowTrainer(loaded, encoded, encoded[:2], arguments, objective=Classification(loaded))
        if replays:
            trainer.passes = ReplayedPasses(loaded, max_rows=8, max_tokens=1500, longest=192, record=Rerun())
        trainer.train()
        assert not replays or trainer.passes._sizes  # they were in use
        trained = {name: weight for name, weight in loaded.model.named_parameters() if weight.requires_grad}
        return [line["loss"] for line in trainer.state.log_history if "loss" in line], trained

    (losses, weights), (replayed, its_weights) = train(replays=False), train(replays=True)
    assert replayed == pytest.approx(losses, abs=1e-5)
    for name, weight in weights.items():
        torch.testing.assert_close(its_weights[name], weight, atol=1e-3, rtol=1e-2)


def test_layers_computed_twice_give_the_same_losses(train_head, tmp_path):
    train_head("--max_steps", "3", folder="plain")
    train_head("--max_steps", "3", "--gradient_checkpointing", folder="twice")
    plain, twice = (
        [line.get("loss") for line in read_log(tmp_path / name / "log.jsonl")] for name in ("plain", "twice")
    )
    assert [loss for loss in twice if loss] == pytest.approx([loss for loss in plain if loss], abs=1e-6)


def test_beside_4_bits_the_head_stays_in_fp32_and_everything_has_a_gradient_after_a_validation(
    tied_model_folder, reviews_file, tmp_path
):
    flags = ["--model", str(tied_model_folder), "--method", "qlora", "--dtype", "bf16", "--head", "classification"]
    settings = load_settings(TrainSettings, flags)
    loaded = load_for_training(settings, "transformers", HEAD)
    encoded = encode_rows(rows_of(reviews_file, 1), loaded.chat, None, Rules(max_length=192), head=HEAD).encoded
    arguments = build_arguments(settings, loaded.precision, tmp_path, num_steps=1)
    trainer = RowTrainer(loaded, encoded, encoded, arguments, objective=Classification(loaded))
    assert head_weight(loaded.causal_lm).dtype is torch.float32  # TRL makes bf16 of all that is trained
    trainer.score_validation()
    trainer.compute_loss(loaded.model.train(), trainer.collate([0])).backward()
    learning = [name for name, weight in loaded.model.named_parameters() if "lora_B" in name or "score.modules" in name]
    norms = {name: loaded.model.get_parameter(name).grad.norm().item() for name in learning}
    assert len(norms) == 2 * 7 + 1
    assert [name for name, norm in norms.items() if not norm > 0] == []


# Validation


def test_a_validation_reports_loss_accuracy_and_macro_f1_as_scikit_learn_counts_them(train_head, tmp_path):
    result = train_head(*SIX_STEPS, "--labels", "正面,负面")
    log = {line["step"]: line for line in read_log(tmp_path / "run/log.jsonl") if "eval_loss" in line}
    assert all(set(line) == {"step", "eval_loss", "eval_accuracy", "eval_macro_f1"} for line in log.values())
    run = open_run(tmp_path / "run")
    loaded = load_run(run)
    assert loaded.head == Head(("正面", "负面"))
    from sft.data import open_dataset

    rows = open_dataset(str(run.data["path"]), eval_ratio=0.25, seed=42).validation
    encoded = encode_rows(rows, loaded.chat, "Be brief.", Rules(max_length=192), head=loaded.head).encoded
    table = score_classes(loaded, [row.input_ids for row in encoded], shown=False).double()
    right, said = [row.label for row in encoded], table.argmax(1).tolist()
    expected = {
        "eval_loss": -sum(table[i][label].item() for i, label in enumerate(right)) / len(right),
        "eval_accuracy": accuracy_score(right, said),
        "eval_macro_f1": f1_score(right, said, average="macro"),
    }
    assert {name: run.metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert {name: result.metrics[name] for name in expected} == {name: run.metrics[name] for name in expected}
    assert "perplexity" not in run.metrics


@pytest.fixture
def planted(monkeypatch):
    """planted([...]): each validation says the next of these classes of rows 0, 1, 2, ..., with the nll beside it."""

    def plant(validations: list[tuple[str, float]]) -> None:
        left = iter(validations)

        def score(self, rows, *, sharded=None):
            said, nll = next(left)
            assert len(said) == len(rows)
            return [ClassScore(nll, int(digit), place < 3) for place, digit in enumerate(said)]

        monkeypatch.setattr(Classification, "score", score)

    return plant


# 3 rows of class 1 and 9 of class 0. Accuracy is highest where everything is called 0 but for one; macro F1 is not.
CHANCE, LAZY, FAIR, WORSE = "111111111111", "100000000000", "111111000000", "011111110000"


def test_macro_f1_chooses_the_best_checkpoint_where_loss_and_accuracy_would_take_another(train_head, planted, tmp_path):
    planted([(CHANCE, 0.9), (LAZY, 0.2), (FAIR, 0.5), (WORSE, 0.6), (CHANCE, 0.7)])
    result = train_head(*EVERY_STEP, *BY_F1, "--early_stopping_patience", "2", "--learning_rate", "1e-2")
    log = {line["step"]: line for line in read_log(tmp_path / "run/log.jsonl") if "eval_loss" in line}
    assert max(log, key=lambda step: log[step]["eval_accuracy"]) == 2
    assert min(log, key=lambda step: log[step]["eval_loss"]) == 2
    assert log[2]["eval_macro_f1"] == pytest.approx((0.5 + 0.9) / 2)
    assert log[3]["eval_macro_f1"] == pytest.approx((2 / 3 + 0.8) / 2)
    assert (result.metrics["best_checkpoint"], result.metrics["steps"]) == ("checkpoint-3", 5)  # and it ended early
    figures = ("eval_loss", "eval_accuracy", "eval_macro_f1")
    assert [result.metrics[name] for name in figures] == [log[3][name] for name in figures]
    best = adapter_of(tmp_path / "run/checkpoints/checkpoint-3")
    assert all(torch.equal(value, adapter_of(tmp_path / "run/adapter")[key]) for key, value in best.items())
    assert "base_model.model.score.weight" in best
    last = adapter_of(tmp_path / "run/checkpoints/checkpoint-5")
    assert not torch.equal(last["base_model.model.score.weight"], best["base_model.model.score.weight"])


def test_a_metric_of_heads_is_refused_for_a_model_that_writes(train):
    with pytest.raises(ConfigError, match="no validation of this run reports 'eval_macro_f1'; take eval_loss"):
        train("--max_steps", "1", *BY_F1)


def test_sample_predictions_are_classes(train_head, tmp_path):
    train_head(*SIX_STEPS, "--num_sample_predictions", "3")
    lines = [json.loads(line) for line in (tmp_path / "run/samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["step"] for line in lines] == [2, 2, 2, 4, 4, 4, 6, 6, 6]
    assert {line["reference"] for line in lines} | {line["prediction"] for line in lines} <= {"负面", "正面"}


# Interrupted


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_losses_and_weights(train_head, interrupt, tmp_path):
    dropped = (*SIX_STEPS, *BY_F1, "--head_dropout", "0.3", "--lora_dropout", "0.1")
    train_head(*dropped, folder="whole")
    with interrupt(5), pytest.raises(KeyboardInterrupt):
        train_head(*dropped)
    train_head(*dropped, "--resume_from_checkpoint", "auto")
    keys = ("step", "loss", "eval_loss", "eval_accuracy", "eval_macro_f1", "learning_rate", "grad_norm", "num_tokens")
    logs = [
        [{key: line.get(key) for key in keys} for line in read_log(tmp_path / name / "log.jsonl")]
        for name in ("whole", "run")
    ]
    assert logs[0] == logs[1]
    whole, resumed = (adapter_of(tmp_path / name / "adapter") for name in ("whole", "run"))
    assert set(whole) == set(resumed)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert whole["base_model.model.score.weight"].shape == (2, 32)


@pytest.mark.parametrize(
    ("flags", "difference"),
    [
        (("--pooling", "mean"), "head: trained with classification of the last token, labels 负面|正面, now "),
        (("--labels", "正面,负面"), "labels: began with [], now ['正面', '负面']"),
        (("--head_dropout", "0.2"), "head_dropout: began with 0.1, now 0.2"),
        (("--head", "lm"), "head: began with classification, now lm"),
    ],
)
def test_a_run_with_another_head_cannot_resume_this_one(train, copy_of_head_run, flags, difference):
    from sft.errors import RunError

    run = read_run(copy_of_head_run)
    data = ("--model", run.base["name"], "--data", run.data["path"], "--head", "classification")
    with pytest.raises(RunError) as caught:
        train(*data, *flags, "--max_steps", "6", "--resume_from_checkpoint", "auto", folder="copy")
    assert difference in str(caught.value)


# Rows


def test_a_label_that_no_training_row_has_is_warned_of(train_head, tmp_path, capsys):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"text_cn": "第{i}行", "extracted_label": "暴恐"}}\n' for i in range(20)))
    train_head("--data", rows, "--labels", "正常,暴恐", "--max_steps", "1")
    assert "WARNING no training row has the label 正常: the head cannot learn it" in capsys.readouterr().err


def test_rows_that_have_no_label_are_refused_before_anything_is_loaded(train_head, tmp_path):
    with pytest.raises(
        DataError, match="a classification head learns labels, and these rows have none: 30 of instruct"
    ):
        train_head("--data", write_rows(tmp_path / "rows.jsonl"), "--model", "no/such-model")
