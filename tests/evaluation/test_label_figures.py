"""Groups classification and calibration from given label scores: each number can be worked out by hand."""

import json
import math

import pytest

from sft.evaluation.companions import (
    compare_labels,
    compare_with_base,
    describe_main_task,
    improvement_rows,
    write_companions,
)
from sft.evaluation.figures import FittedTemperature, summarise_calibrations, summarise_model
from sft.evaluation.model_answers import Answers, Measured, cluster_of, read_outcomes
from sft.evaluation.rows import prepare_rows, select_rows
from sft.robustness.flips import HardAnswer, summarise_hard_cases, summarise_tests
from tests.evaluation.conftest import settings_of

HALF, SURE = math.log(0.5), math.log(0.9)


@pytest.fixture(scope="module")
def rows(run, loaded, mixed_file):
    selected = select_rows(run, settings_of("--data", mixed_file)).rows
    return prepare_rows(selected, loaded.chat, run.system_prompt, run.train_settings(), 512).rows


def answers_of(rows, scores: dict[str, list[float]]) -> Answers:
    """Scores of the labels in their order (负面, 正面); log 0.9 for the reference where none are given."""
    label_scores = []
    for row in rows:
        usual = [SURE if label == row.reference else math.log(0.1) for label in row.labels]
        label_scores.append(scores.get(row.row["id"], usual))
    return Answers([1.0] * len(rows), [2] * len(rows), label_scores, ["?"] * len(rows), [True] * len(rows))


@pytest.fixture(scope="module")
def sides(rows, loaded):
    """Base: s1 sure and wrong, s2 undecided between its labels. Tuned: all right."""
    found = {}
    for name, scores in (("base", {"s1": [SURE, math.log(0.1)], "s2": [HALF + 0.01, HALF]}), ("tuned", {})):
        answers = answers_of(rows, scores)
        measured = Measured(answers, read_outcomes(rows, answers, loaded.chat))
        found[name] = summarise_model(rows, measured, loaded.chat)
    return found


def test_label_scoring_brings_areas_and_generation_none(sides):
    task = sides["base"]["classification"]["by_task"]["sentiment"]
    assert task["label_scoring"]["roc_auc"] == {"macro": 0.5, "per_class": {"负面": 0.5, "正面": 0.5}}
    assert "roc_auc" not in task["generation"]
    assert sides["base"]["classification"]["by_task"]["news"]["label_scoring"]["roc_auc"]["macro"] is None  # one row


def test_calibration_is_reported_by_task_with_the_rows_that_were_unsure(sides):
    found = sides["base"]["calibration"]["by_task"]["sentiment"]
    assert (found["num_rows"], found["accuracy"]) == (3, pytest.approx(2 / 3))
    assert [row["id"] for row in found["low_confidence"]["rows"]] == ["s2"]
    assert found["low_confidence"]["rows"][0] == {
        "id": "s2",
        "text": "又脏又吵",
        "reference": "负面",
        "prediction": "负面",
        "confidence": pytest.approx(0.5025, abs=1e-4),
    }
    assert found["avg_confidence_wrong"] == pytest.approx(0.9, abs=1e-6)  # the sure negative is as sure as it says
    assert list(sides["tuned"]["calibration"]["by_task"]) == ["sentiment", "sentiment_json", "news"]


def test_a_temperature_flattens_the_confidence_and_moves_no_answer(rows):
    answers = answers_of(rows, {})
    fitted = {"sentiment": FittedTemperature(2.0, "validation", 40)}
    found = summarise_calibrations(rows, answers, fitted)["by_task"]
    cooled = found["sentiment"]["temperature"]
    flat = math.sqrt(0.9) / (math.sqrt(0.9) + math.sqrt(0.1))
    assert cooled["avg_confidence"] == pytest.approx(flat, abs=1e-6)
    assert (cooled["temperature"], cooled["fitted_on"], cooled["num_rows_fitted"]) == (2.0, "validation", 40)
    assert cooled["nll"] == pytest.approx(-math.log(flat), abs=1e-6)
    assert "temperature" not in found["news"]


def test_the_comparison_has_base_finetuned_improvement_and_percentage(sides):
    found = compare_with_base(sides["tuned"], sides["base"])
    assert found is not None
    assert found["task"] == "sentiment"  # that of the most rows
    assert found["comparison"]["accuracy"] == {
        "base": pytest.approx(2 / 3),
        "finetuned": 1.0,
        "improvement": pytest.approx(1 / 3),
        "improvement_percentage": pytest.approx(50.0),
    }
    assert list(found["comparison"]) == ["accuracy", "precision", "recall", "f1", "auc_roc"]
    assert found["models"]["finetuned"]["recall_正面"] == 1.0
    assert found["models"]["base"]["confusion_matrix"]["counts"] == [[1, 0, 0], [1, 1, 0]]
    assert list(found["by_task"]) == ["sentiment", "sentiment_json", "news"]


def test_the_largest_label_task_has_its_figures_on_top_of_metrics_json(sides):
    short = describe_main_task(sides["tuned"])
    assert list(short) == ["accuracy", "precision", "recall", "f1", "auc", "confusion_matrix"]
    assert (short["accuracy"], short["confusion_matrix"]) == (1.0, [[1, 0, 0], [0, 2, 0]])
    no_labels = {name: value for name, value in sides["tuned"].items() if name != "classification"}
    assert describe_main_task(no_labels) == {}


def test_the_table_points_up_and_down_and_has_no_percentage_of_nothing(sides):
    base, tuned = (sides[name]["classification"]["by_task"]["sentiment"]["label_scoring"] for name in ("base", "tuned"))
    assert improvement_rows(compare_labels(base, tuned))[0] == [
        "accuracy",
        pytest.approx(2 / 3),
        1.0,
        "↑ 33.33 points",
        "↑ 50.0 %",
    ]
    assert improvement_rows(compare_labels(tuned, base))[0][3:] == ["↓ 33.33 points", "↓ 33.3 %"]
    same = {"base": 0.0, "finetuned": 0.0, "improvement": 0.0, "improvement_percentage": None}
    assert improvement_rows({"f1": same}) == [["f1", 0.0, 0.0, "= 0.00 points", None]]


def test_the_files_of_earlier_projects_are_written_where_they_apply_and_taken_away_where_not(sides, tmp_path):
    answers = [HardAnswer("sarcasm", "真厉害", "负面", "正面", 0.9), HardAnswer("slang", "真香", "正面", "正面", 0.8)]
    overall, tests = summarise_tests([], ["typos"], 3)
    robustness = {
        "num_rows": 3,
        "tasks": ["sentiment"],
        "seed": 0,
        "lexicon": "",
        "overall": overall,
        "tests": tests,
        "hard_cases": summarise_hard_cases(answers),
    }
    write_companions(tmp_path, sides["tuned"], sides["base"], robustness, answers)
    written = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.iterdir()}
    assert sorted(written) == ["baseline_comparison.json", "confidence_analysis.json", "robustness_result.json"]
    confidence = written["confidence_analysis.json"]
    assert confidence["basic_stats"]["mean_confidence_correct"] == pytest.approx(0.9, abs=1e-6)
    assert confidence["reliability_diagram"]["bin_counts"] == [3]
    assert len(confidence["full_distribution"]["bin_edges"]) == 21
    assert {
        name: confidence[name] for name in ("avg_confidence", "high_confidence_ratio", "confidence_distribution")
    } == {
        "avg_confidence": confidence["basic_stats"]["mean_confidence"],
        "high_confidence_ratio": confidence["basic_stats"]["share_above_0.9"],
        "confidence_distribution": {"0.5-0.6": 0, "0.6-0.7": 0, "0.7-0.8": 0, "0.8-0.9": 3, "0.9-1.0": 0},
    }
    assert confidence["low_confidence_samples"] == []
    compared = written["baseline_comparison.json"]
    assert list(compared["fine_tuned_model"]) == list(compared["baseline_model"]) == list(compared["improvement"])
    assert list(compared["improvement"]) == ["accuracy", "precision", "recall", "f1", "auc"]
    assert compared["improvement"]["accuracy"] == "+33.3%"
    result = written["robustness_result.json"]
    assert {
        name: result[name] for name in ("original_accuracy", "perturbed_accuracy", "robustness_score")
    } == dict.fromkeys(("original_accuracy", "perturbed_accuracy", "robustness_score"))
    assert result["perturbation_tests"] == {"typo_insertion": None}
    assert result["overall"] == {
        "robustness_score": None,
        "total_samples": 2,
        "correct": 1,
        "wrong": 1,
        "accuracy": 0.5,
        "weighted_score": 0.5,
    }
    assert result["categories"]["sarcasm"]["samples"] == [
        {"text": "真厉害", "true_label": "负面", "predicted": "正面", "confidence": 0.9, "correct": False}
    ]
    assert result["tests"]["typos"]["samples"] == 0
    write_companions(tmp_path, sides["tuned"], None, None, [])
    assert [path.name for path in tmp_path.iterdir()] == ["confidence_analysis.json"]


def test_text_figures_are_taken_over_the_free_text_rows_with_their_signatures(sides):
    text = sides["tuned"]["generation"]["text"]
    assert (text["num_rows"], text["tasks"], text["exact_match"]) == (3, ["chat", "instruct"], 0.0)
    assert "tok:zh" in text["signatures"]["bleu"]
    assert sides["tuned"]["generation"]["distinct_signature"].startswith("distinct:corpus|words:")


def test_rows_that_ask_the_same_are_one_cluster_however_they_are_punctuated(rows):
    clusters = {row.row["id"]: cluster_of(row) for row in rows}
    assert clusters["s1"] == "房间很干净"
    assert len(set(clusters.values())) == len(rows)
