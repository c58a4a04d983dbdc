import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sft.data import open_dataset
from sft.errors import ConfigError, DataError
from sft.evaluation import evaluate_run, write_evaluation
from sft.generation import batch
from sft.models.loading import load_base
from sft.report import render_report, render_table, write_reports
from sft.runs.run import open_run
from sft.scoring import score_rows
from tests.evaluation.conftest import LIMITS, ROWS, settings_of, write_jsonl

ON_TOP = {"accuracy", "precision", "recall", "f1", "confusion_matrix"}  # and auc, where rows are of several classes
GROUPS = {"teacher_forcing", "generation", "classification", "calibration", "ner", "intervals"}


def test_metrics_hold_the_groups_of_tuned_and_base_side_by_side(evaluation):
    metrics = evaluation.metrics
    assert set(metrics) - {"auc"} == {
        *GROUPS,
        *ON_TOP,
        "data_stats",
        "base",
        "comparison",
        "yardsticks",
        "leaks",
        "run",
        "artifacts",
    }
    assert set(metrics["base"]) == GROUPS
    for side in (metrics, metrics["base"]):
        assert set(side["teacher_forcing"]) == {
            *("eval_loss", "perplexity", "bits_per_byte", "supervised_tokens", "num_rows"),
            *("by_source", "by_task", "by_length", "by_language"),
        }
        assert set(side["generation"]) == {
            *("empty_rate", "avg_pred_len_tokens", "avg_ref_len_tokens", "len_ratio_pred_over_ref", "distinct_1"),
            *("distinct_2", "distinct_1_adjusted", "distinct_2_adjusted", "distinct_signature", "text"),
            *("unfinished_rate", "unparseable_rate", "num_rows", "rouge", "by_task"),
        }
        assert {name: side["generation"]["rouge"][name] for name in ("num_rows", "tasks")} == {
            "num_rows": 4,  # two instructions, and both answers of the conversation
            "tasks": ["chat", "instruct"],
        }


def test_the_run_is_described_as_it_was_trained(evaluation, tiny_run):
    trained = evaluation.metrics["run"]["training"]
    tiny_run = open_run(tiny_run)
    settings = tiny_run.train_settings()
    assert (trained["learning_rate"], trained["rows_per_step"]) == (settings.learning_rate, tiny_run.rows_per_step)
    assert (trained["steps"], trained["duration_s"]) == (tiny_run.metrics["steps"], tiny_run.metrics["duration_s"])
    assert trained["hardware"] == tiny_run.hardware != ""
    assert trained["method"].startswith(f"LoRA r {settings.lora_r}")
    assert trained["epochs"] > 0


def test_data_stats_say_what_was_evaluated(evaluation, mixed_file):
    stats = evaluation.metrics["data_stats"]
    assert {name: value for name, value in stats.items() if not name.endswith("len_tokens")} == {
        "eval_size": 10,
        "num_answers": 11,
        "turns": "all",
        "available": 10,
        "dropped_too_long": 0,
        "truncation_rate": 0.0,
        "tokens_cut": 0,
        "max_seq_length": 400,
        "split": "whole",
        "data": "mixed.jsonl",
        "sha256": stats["sha256"],
        "by_source": {"reviews": 4, "press": 3, "qa": 3},
        "by_task": {"sentiment": 3, "sentiment_json": 1, "news": 1, "ner": 2, "instruct": 2, "chat": 1},
    }
    assert 0 < stats["p50_len_tokens"] <= stats["p95_len_tokens"] <= stats["max_len_tokens"] <= 400


def test_the_base_figures_are_those_of_the_untuned_model(evaluation, run, mixed_file):
    from sft.evaluation.rows import prepare_rows, select_rows

    base = load_base(run.base["name"], dtype="fp32")
    rows = select_rows(run, settings_of("--data", mixed_file)).rows
    prepared = prepare_rows(rows, base.chat, run.system_prompt, run.train_settings(), 400).rows
    scores = score_rows(base, [piece for row in prepared for piece in row.encoded])
    loss = sum(score.nll for score in scores) / sum(score.num_tokens for score in scores)
    assert evaluation.metrics["base"]["teacher_forcing"]["eval_loss"] == pytest.approx(loss, abs=1e-5)
    assert evaluation.metrics["teacher_forcing"]["eval_loss"] != pytest.approx(loss, abs=1e-3)


def test_every_row_has_a_prediction_with_its_question_and_both_answers(evaluation):
    assert [row["id"] for row in evaluation.predictions] == [*(row["id"] for row in ROWS), "c1"]
    sentiment, question = evaluation.predictions[0], evaluation.predictions[8]
    assert set(sentiment) == {
        *("id", "source", "task", "instruction", "input", "reference", "prediction", "base_prediction"),
        *("finished", "base_finished", "nll", "base_nll", "label", "base_label", "language", "changes"),
        *("row_tokens", "reference_tokens", "prediction_tokens"),
    }
    assert sentiment["instruction"].endswith("房间很干净")
    assert (question["instruction"], question["input"], question["reference"]) == ("翻译", "hello", "你好")


def test_without_a_baseline_the_tuned_model_alone_gives_the_same_answers_to_a_sample_of_rows(
    evaluation, run, mixed_file
):
    flags = ("--data", mixed_file, "--no-baseline", "--num_samples", 6, *LIMITS)
    alone = evaluate_run(run, settings_of(*flags))
    assert set(alone.metrics) - {"auc"} == {*GROUPS, *ON_TOP, "data_stats", "yardsticks", "leaks", "run", "artifacts"}
    together = {row["id"]: row for row in evaluation.predictions}
    assert len(alone.predictions) == 6
    for row in alone.predictions:
        both = together[row["id"]].items()
        expected = {name: value for name, value in both if not name.startswith("base_") and name != "changes"}
        assert row == {**expected, "nll": pytest.approx(expected["nll"], abs=1e-4)}
    assert render_table(alone.metrics).splitlines()[0].split() == ["metric", "tuned", "95", "%", "interval"]
    assert "Measured without a baseline" in render_report(alone)


def test_the_folder_holds_metrics_predictions_and_reports_that_need_nothing_else(evaluation, tmp_path):
    folder = tmp_path / "evaluation"
    write_reports(evaluation, folder)
    write_evaluation(evaluation, folder)
    assert {path.name for path in folder.iterdir()} == set(evaluation.metrics["artifacts"].values())
    assert json.loads((folder / "metrics.json").read_text()) == evaluation.metrics
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == evaluation.predictions
    page = (folder / "report.html").read_text()
    outcome, _, figures = evaluation.metrics["comparison"]["verdict"].partition(": ")
    assert page.index(outcome) < page.index(figures.replace("->", "→"))
    assert [mark for mark in ("http", "src=", "@import", "url(", "<script") if mark in page] == []
    assert Path(folder / "report.html").stat().st_size < 250_000


def test_rows_of_the_training_data_are_marked_and_every_score_is_also_reported_without_them(run, tmp_path):
    trained_on = open_dataset(str(run.data["path"])).train
    copied = [{**row, "id": f"copy-{number}"} for number, row in enumerate(trained_on[:2])]
    rows = write_jsonl(tmp_path / "rows.jsonl", [*copied, *ROWS[:4]])
    found = evaluate_run(run, settings_of("--data", rows, *LIMITS))
    leaks, clean = found.metrics["leaks"], found.metrics["without_overlaps"]
    assert (leaks["exact"], leaks["near"], leaks["ids"]) == (2, 0, ["copy-0", "copy-1"])
    assert leaks["training_rows"] == len(trained_on)
    assert [row.get("overlap", {}).get("training_id") for row in found.predictions] == [
        *(row["id"] for row in trained_on[:2]),
        *[None] * 4,
    ]
    assert (clean["num_rows"], clean["comparison"]["metrics"]["eval_loss"]["num_rows"]) == (4, 4)
    without = evaluate_run(run, settings_of("--data", write_jsonl(rows, ROWS[:4]), *LIMITS))
    assert clean["teacher_forcing"]["eval_loss"] == pytest.approx(
        without.metrics["teacher_forcing"]["eval_loss"], abs=1e-6
    )
    assert clean["classification"] == without.metrics["classification"]
    assert "without_overlaps" not in without.metrics


def test_a_run_whose_data_lies_relative_to_another_folder_says_so(run):
    away = replace(run, data={**run.data, "path": "../rows/nowhere.jsonl"})

    with pytest.raises(DataError, match=r"nowhere.jsonl: .* not found from here; run this in the folder where it was"):
        evaluate_run(away, settings_of(*LIMITS))


def test_other_rows_may_have_columns_and_labels_of_their_own(run, tmp_path):
    path = tmp_path / "other.csv"
    path.write_bytes("评论,标签\n房间干净,好\n太吵,坏\n".encode("gb18030"))
    flags = [
        "--data",
        path,
        "--columns",
        "text=评论,label=标签",
        "--label_map",
        "好=正面,坏=负面",
        "--encoding",
        "gb18030",
    ]

    found = evaluate_run(run, settings_of(*flags, "--no-leak_check", *LIMITS))

    assert [row["reference"] for row in found.predictions] == ["正面", "负面"]
    with pytest.raises(ConfigError, match="--columns: for a file of other rows"):
        evaluate_run(run, settings_of("--columns", "text=评论", *LIMITS))


def test_training_data_that_is_gone_is_an_error_that_names_the_way_out(run, mixed_file):
    gone = replace(run, data={**run.data, "path": "nowhere/rows.jsonl"})
    with pytest.raises(DataError, match=r"nowhere/rows.jsonl: what .* not found from here.*--no-leak_check"):
        evaluate_run(gone, settings_of("--data", mixed_file, *LIMITS))
    unchecked = evaluate_run(gone, settings_of("--data", mixed_file, "--no-leak_check", "--num_samples", 6, *LIMITS))
    assert (unchecked.metrics["leaks"]["checked"], unchecked.metrics["leaks"]["training_rows"]) == (False, 0)
    verdict = unchecked.metrics["yardsticks"]["verdict"]  # tasks of the six rows, in their order
    assert verdict.startswith("No yardstick for sentiment, ")
    assert verdict.endswith(": nowhere/rows.jsonl: what the run was trained on is not found from here.")


def test_yardsticks_are_fitted_on_the_runs_own_rows_whatever_rows_are_scored(head_run, reviews_file, tmp_path):
    run = open_run(head_run)
    rows = write_jsonl(tmp_path / "rows.jsonl", [{"text": f"房{i}很好", "label": "正面"} for i in range(3)])
    for flags in ((), ("--no-leak_check",)):
        metrics = evaluate_run(run, settings_of("--data", rows, "--no-baseline", *flags)).metrics
        found = metrics["yardsticks"]["by_task"]["sentiment"]
        trained_on = sum(1 for _ in reviews_file.open()) - run.data["validation"]["read"]
        assert {kind: one["num_training_rows"] for kind, one in found.items()} == {
            "majority": trained_on,
            "bag_of_words": trained_on,
        }
        assert found["bag_of_words"]["value"] == 1.0
    without = evaluate_run(run, settings_of("--data", rows, "--no-baseline", "--no-yardsticks")).metrics
    assert "yardsticks" not in without


class Stop(Exception):
    """In the place of a kill: nothing of ours catches it."""


def test_an_interrupted_evaluation_resumes_and_writes_the_same_file(run, mixed_file, tmp_path, monkeypatch, capsys):
    copy = replace(run, path=Path(shutil.copytree(run.path, tmp_path / "run")))
    settings = settings_of("--data", mixed_file, *LIMITS)
    write_evaluation(evaluate_run(copy, settings), tmp_path / "whole")
    shutil.rmtree(copy.evaluation_dir)
    real, calls = batch.decode, []

    def fail_at(number: int):
        def call(*args, **options):
            calls.append(len(args[1]))
            if len(calls) == number:
                raise Stop
            return real(*args, **options)

        return call

    for number in (3, 6):  # once in the tuned model's answers, once further on
        calls.clear()
        monkeypatch.setattr(batch, "decode", fail_at(number))
        with pytest.raises(Stop):
            evaluate_run(copy, settings)
    monkeypatch.setattr(batch, "decode", real)
    capsys.readouterr()
    write_evaluation(evaluate_run(copy, settings), copy.evaluation_dir)
    assert "predictions.partial.jsonl: resumes after the " in capsys.readouterr().err
    assert (copy.evaluation_dir / "predictions.jsonl").read_bytes() == (
        tmp_path / "whole" / "predictions.jsonl"
    ).read_bytes()
    assert {path.name for path in copy.evaluation_dir.iterdir()} == {
        path.name for path in (tmp_path / "whole").iterdir()
    }


def test_answers_are_drawn_where_the_preset_says_so_and_the_same_for_the_same_seed(run, mixed_file):
    flags = ("--data", mixed_file, "--no-baseline", "--num_samples", 6, "--decoding", "chat", *LIMITS)
    first, again, other = (evaluate_run(run, settings_of(*flags, "--seed", seed)) for seed in (1, 1, 2))
    said = [[row["prediction"] for row in one.predictions] for one in (first, again, other)]
    assert first.metrics["run"]["decoding"] == "chat"
    assert said[0] == said[1] != said[2]
