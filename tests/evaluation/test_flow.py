import json
from pathlib import Path

import pytest

from sft.evaluation import evaluate_run, write_evaluation
from sft.models.loading import load_base
from sft.report import render_report, render_table, write_report
from sft.scoring import score_rows
from tests.evaluation.conftest import LIMITS, ROWS, settings_of

GROUPS = {"teacher_forcing", "generation", "classification", "ner"}


def test_metrics_hold_the_groups_of_tuned_and_base_side_by_side(evaluation):
    metrics = evaluation.metrics
    assert set(metrics) == {*GROUPS, "data_stats", "base", "comparison", "run", "artifacts"}
    assert set(metrics["base"]) == GROUPS
    for side in (metrics, metrics["base"]):
        assert set(side["teacher_forcing"]) == {
            *("eval_loss", "perplexity", "bits_per_byte", "supervised_tokens", "num_rows", "by_source", "by_task")
        }
        assert set(side["generation"]) == {
            *("empty_rate", "avg_pred_len_tokens", "avg_ref_len_tokens", "len_ratio_pred_over_ref", "distinct_1"),
            *("distinct_2", "unfinished_rate", "unparseable_rate", "num_rows", "rouge", "by_task"),
        }
        assert {name: side["generation"]["rouge"][name] for name in ("num_rows", "tasks")} == {
            "num_rows": 3,
            "tasks": ["chat", "instruct"],
        }


def test_data_stats_say_what_was_evaluated(evaluation, mixed_file):
    stats = evaluation.metrics["data_stats"]
    assert {name: value for name, value in stats.items() if not name.endswith("len_tokens")} == {
        "eval_size": 10,
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


def test_every_row_has_a_prediction_with_what_was_asked_and_what_both_models_said(evaluation):
    assert [row["id"] for row in evaluation.predictions] == [row["id"] for row in ROWS]
    sentiment, question = evaluation.predictions[0], evaluation.predictions[8]
    assert set(sentiment) == {
        *("id", "source", "task", "instruction", "input", "reference", "prediction", "base_prediction"),
        *("finished", "base_finished", "nll", "base_nll", "label", "base_label"),
    }
    assert sentiment["instruction"].endswith("房间很干净")
    assert (question["instruction"], question["input"], question["reference"]) == ("翻译", "hello", "你好")


def test_without_a_baseline_the_tuned_model_alone_gives_the_same_answers_to_a_sample_of_rows(
    evaluation, run, mixed_file
):
    flags = ("--data", mixed_file, "--no-baseline", "--num_samples", 6, *LIMITS)
    alone = evaluate_run(run, settings_of(*flags))
    assert set(alone.metrics) == {*GROUPS, "data_stats", "run", "artifacts"}
    together = {row["id"]: row for row in evaluation.predictions}
    assert len(alone.predictions) == 6
    for row in alone.predictions:
        expected = {name: value for name, value in together[row["id"]].items() if not name.startswith("base_")}
        assert row == {**expected, "nll": pytest.approx(expected["nll"], abs=1e-4)}
    assert render_table(alone.metrics).splitlines()[0].split() == ["metric", "tuned"]
    assert "Measured without a baseline" in render_report(alone)


def test_the_folder_holds_metrics_predictions_and_a_report_that_needs_nothing_else(evaluation, tmp_path):
    folder = tmp_path / "evaluation"
    write_report(evaluation, folder / "report.html")
    write_evaluation(evaluation, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["metrics.json", "predictions.jsonl", "report.html"]
    assert json.loads((folder / "metrics.json").read_text()) == evaluation.metrics
    lines = (folder / "predictions.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == evaluation.predictions
    page = (folder / "report.html").read_text()
    assert evaluation.metrics["comparison"]["verdict"].replace(">", "&gt;") in page
    assert [mark for mark in ("http", "src=", "@import", "url(", "<script") if mark in page] == []
    assert Path(folder / "report.html").stat().st_size < 100_000
