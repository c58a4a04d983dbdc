"""Early stopping by any figure, and the end on request."""

import os
import signal

import pytest

from sft.config.evaluate import EvaluateSettings
from sft.config.layers import load_settings
from sft.errors import ConfigError
from sft.evaluation.flow import evaluate_run
from sft.runs.run import open_run, read_run
from sft.training.arguments import StopRequest, count_without_gain, is_greater_better
from sft.training.log import StepLog, read_log
from sft.training.trainer import RowTrainer


@pytest.mark.parametrize(
    ("values", "threshold", "greater", "count"),
    [
        ([3, 2, 2.5, 2.2], 0, False, 2),
        ([3, 2, 2.5, 1.9], 0, False, 0),
        ([0.5, 0.7, 0.7], 0, True, 1),
        ([3, 2.95, 2.9, 2.8], 0.15, False, 0),
        ([3, 2.95, 2.9], 0.15, False, 2),
        ([], 0, True, 0),
    ],
)
def test_validations_without_gain_are_counted_from_the_best(values, threshold, greater, count):
    assert count_without_gain(values, threshold, greater) == count


def test_losses_should_fall_and_scores_should_grow():
    assert [is_greater_better(name) for name in ("eval_loss", "eval_perplexity", "eval_macro_f1")] == [
        False,
        False,
        True,
    ]


@pytest.fixture
def planted(monkeypatch):
    """planted([0.1, 0.9, ...]): every validation reports the next of these as eval_macro_f1."""

    def plant(scores: list[float]) -> None:
        build = RowTrainer.__init__
        left = iter(scores)

        def measure(loaded) -> dict[str, float]:
            return {"eval_macro_f1": next(left)}

        measure.figures = ("eval_macro_f1",)
        monkeypatch.setattr(
            RowTrainer, "__init__", lambda self, *args, **more: build(self, *args, **{**more, "measures": [measure]})
        )

    return plant


EVERY_STEP = ("--max_steps", "6", "--eval_steps", "1", "--learning_rate", "1e-2", "--warmup_steps", "0")
BY_F1 = ("--metric_for_best_model", "eval_macro_f1")


def test_the_best_checkpoint_is_that_of_the_best_figure_and_the_run_stops_early(train, planted, tmp_path, capsys):
    planted([0.2, 0.9, 0.5, 0.7, 0.6, 0.6])
    result = train(*EVERY_STEP, *BY_F1, "--early_stopping_patience", "3", "--save_total_limit", "2")
    assert result.metrics["steps"] == 5
    assert (result.metrics["best_checkpoint"], result.metrics["eval_macro_f1"]) == ("checkpoint-2", 0.9)
    losses = {line["step"]: line["eval_loss"] for line in read_log(tmp_path / "run/log.jsonl") if "eval_loss" in line}
    assert result.metrics["eval_loss"] == losses[2]  # of the weights that are kept
    kept = {path.name for path in (tmp_path / "run/checkpoints").iterdir()}
    assert kept == {"checkpoint-2", "checkpoint-5"}
    assert "early stopping: 3 validations without a better eval_macro_f1" in capsys.readouterr().err


def test_a_run_that_stopped_early_is_over_also_when_it_is_resumed(train, planted, tmp_path):
    planted([0.2, 0.9, 0.5, 0.7] + [0.6] * 10)
    flags = [*EVERY_STEP, *BY_F1, "--early_stopping_patience", "2"]
    train(*flags)
    before = (tmp_path / "run/log.jsonl").read_text()
    assert train(*flags, "--resume_from_checkpoint", "auto").metrics["best_checkpoint"] == "checkpoint-2"
    assert (tmp_path / "run/log.jsonl").read_text() == before


def test_a_model_that_writes_labels_is_chosen_by_their_macro_f1_as_evaluate_has_it(train, reviews_file, tmp_path):
    rows = ("--data", reviews_file, "--eval_ratio", "0.3")
    flags = ("--max_steps", "6", "--eval_steps", "2", "--learning_rate", "3e-2", "--warmup_steps", "0")
    result = train(*rows, *flags, *BY_F1, "--early_stopping_patience", "3")
    figures = {line["step"]: line for line in read_log(tmp_path / "run/log.jsonl") if "eval_loss" in line}
    best = max(figures, key=lambda step: figures[step]["eval_macro_f1"])
    assert result.metrics["best_checkpoint"] == f"checkpoint-{best}"
    run = open_run(tmp_path / "run")
    settings = load_settings(EvaluateSettings, ["--run", str(run.path), "--max_new_tokens", "2"])
    [task] = evaluate_run(run, settings).metrics["classification"]["by_task"].values()
    evaluated = [task["label_scoring"][name] for name in ("accuracy", "macro_f1")]
    assert [result.metrics[name] for name in ("eval_accuracy", "eval_macro_f1")] == evaluated
    assert evaluated[1] > 0


def test_every_validation_reports_the_accuracy_of_label_rows(train, reviews_file, tmp_path, monkeypatch, capsys):
    flags = ("--data", reviews_file, "--eval_ratio", "0.3", "--max_steps", "2", "--eval_steps", "1")
    result = train(*flags)
    told = [line["eval_accuracy"] for line in read_log(tmp_path / "run/log.jsonl") if "eval_loss" in line]
    assert len(told) == 2
    assert result.metrics["best_checkpoint"] in ("checkpoint-1", "checkpoint-2")
    assert f"accuracy {told[-1]:.4f}, macro_f1 " in capsys.readouterr().err
    assert (tmp_path / "run/loss.png").stat().st_size > 10_000

    monkeypatch.setattr("sft.training.fit.MEASURED_LABELS", 2)
    train(*flags, folder="few")
    few = [line["eval_accuracy"] for line in read_log(tmp_path / "few/log.jsonl") if "eval_loss" in line]
    assert set(few) <= {0.0, 0.5, 1.0}


def test_a_figure_that_no_validation_reports_is_refused(train, tmp_path):
    with pytest.raises(ConfigError) as caught:
        train("--metric_for_best_model", "eval_f1")
    assert str(caught.value) == "metric_for_best_model: no validation of this run reports 'eval_f1'; take eval_loss"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step_and_saves_it(number, train, tmp_path, monkeypatch, capsys):
    on_step_end = StepLog.on_step_end

    def send(self, args, state, control, **more):
        on_step_end(self, args, state, control, **more)
        if state.global_step == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(StepLog, "on_step_end", send)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(KeyboardInterrupt):
        train("--max_steps", "6", "--eval_steps", "2")
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    said = capsys.readouterr().err
    assert f"{number.name}: finishing this step and saving it; once more leaves at once" in said
    assert "3 of 6 steps done, 3 saved; resume with: python train.py --output_dir" in said
    assert read_run(tmp_path / "run").status == "training"


def test_a_second_signal_leaves_at_once_and_so_does_one_with_nothing_to_save():
    stop = StopRequest()
    with pytest.raises(KeyboardInterrupt):
        stop.handle(signal.SIGINT, None)
    stop.is_saving = True
    stop.handle(signal.SIGINT, None)
    assert stop.asked
    with pytest.raises(KeyboardInterrupt):
        stop.handle(signal.SIGTERM, None)
