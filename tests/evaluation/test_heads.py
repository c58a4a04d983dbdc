"""Runs with a classification head: measured by the classes they choose, beside a model that has no head."""

import json
import math
from pathlib import Path

import pytest
import torch

from sft.config.conditions import parse_condition
from sft.console import to_json
from sft.errors import ConfigError, DataError
from sft.evaluation import Metrics, evaluate_run, write_evaluation
from sft.evaluation.rows import prepare_rows, select_rows
from sft.models.loading import load_base, load_run
from sft.report import render_report, render_table, write_reports
from sft.report.markdown import render_markdown
from sft.runs.run import Run, open_run
from sft.scoring import score_choices, score_classes, score_labels
from tests.conftest import train_tiny
from tests.evaluation.conftest import ROWS, settings_of, write_jsonl

NEWS = [
    {"text": f"第{i}场{'比赛' if i % 2 else '股市'}", "category": options, "output": "体育" if i % 2 else "经济"}
    for i, options in enumerate([["体育", "经济"], ["文化", "体育"], ["经济", "文化"], ["体育", "经济", "科技"]] * 6)
]


@pytest.fixture(scope="module")
def run(head_run: Path) -> Run:
    return open_run(head_run)


@pytest.fixture(scope="module")
def evaluation(run):
    """The run's own validation rows, beside its base."""
    return evaluate_run(run, settings_of())


@pytest.fixture(scope="module")
def news_run(tied_model_folder, tmp_path_factory) -> Run:
    """A head over the options of all rows, of which each row allows some."""
    folder = tmp_path_factory.mktemp("news")
    rows = write_jsonl(folder / "news.jsonl", NEWS)
    more = ["--head", "classification", "--pooling", "mean", "--learning_rate", "1e-2"]
    return open_run(train_tiny(folder / "run", "lora", tied_model_folder, rows, *more))


# What is measured


def test_the_run_is_measured_by_its_head_and_its_base_by_label_scoring_of_the_same_prompts(evaluation, run):
    metrics = evaluation.metrics
    assert metrics["run"]["chosen_by"] == {"tuned": "head", "base": "label_scoring"}
    assert set(metrics["classification"]["by_task"]["sentiment"]) == {"head"}
    assert set(metrics["base"]["classification"]["by_task"]["sentiment"]) == {"label_scoring"}
    assert "generation" not in metrics
    assert set(metrics["comparison"]["metrics"]) == {"eval_loss", "sentiment accuracy"}

    tuned, base = load_run(run), load_base(run.base["name"], dtype="fp32")
    rows = prepare_rows(select_rows(run, settings_of()).rows, tuned.chat, run.system_prompt, run.train_settings(), 192)
    prompts = [row.encoded[0].prompt_ids for row in rows.rows]
    labels = [("负面", "正面")] * len(prompts)
    said = {
        "head": score_classes(tuned, prompts, shown=False),
        "label_scoring": torch.tensor(score_labels(base, prompts, labels, shown=False)),
    }
    right = torch.tensor([labels[0].index(row.reference) for row in rows.rows])
    for side, way in ((metrics, "head"), (metrics["base"], "label_scoring")):
        table = said[way].double().log_softmax(1)
        figures = side["classification"]["by_task"]["sentiment"][way]
        assert figures["accuracy"] == pytest.approx((table.argmax(1) == right).double().mean().item())
        loss = -table.gather(1, right[:, None]).mean().item()
        assert side["teacher_forcing"]["eval_loss"] == pytest.approx(loss, abs=1e-6)


def test_the_loss_and_the_figures_are_those_of_the_trainings_own_validation(evaluation, run):
    figures = evaluation.metrics["classification"]["by_task"]["sentiment"]["head"]
    assert evaluation.metrics["teacher_forcing"]["eval_loss"] == pytest.approx(run.metrics["eval_loss"], abs=1e-6)
    assert figures["accuracy"] == run.metrics["eval_accuracy"]
    assert figures["macro_f1"] == run.metrics["eval_macro_f1"]
    assert "bits_per_byte" not in evaluation.metrics["teacher_forcing"]


def test_calibration_area_and_confusion_are_those_of_every_label_task(evaluation):
    figures = evaluation.metrics["classification"]["by_task"]["sentiment"]["head"]
    assert set(figures["roc_auc"]["per_class"]) == {"负面", "正面"}
    assert sum(map(sum, figures["confusion_matrix"]["counts"])) == evaluation.metrics["data_stats"]["eval_size"]
    assert figures["unparseable_rate"] == 0.0
    assert 0.5 <= evaluation.metrics["calibration"]["by_task"]["sentiment"]["avg_confidence"] <= 1.0


def test_yardsticks_are_beside_the_model_in_every_report(evaluation):
    metrics = evaluation.metrics
    found = metrics["yardsticks"]["by_task"]["sentiment"]
    assert set(found) == {"majority", "bag_of_words"}
    for one in found.values():
        assert one["comparison"]["tuned"] == metrics["classification"]["accuracy"]
        assert one["comparison"]["base"] == one["value"]
        assert one["low"] <= one["value"] <= one["high"]
    verdict, chinese = metrics["yardsticks"]["verdict"], metrics["yardsticks"]["verdict_zh"]
    assert verdict.startswith("Too few rows to tell tuned from a bag of words: sentiment accuracy ")
    table = render_table(metrics)
    assert verdict in table
    assert "bag of words sentiment accuracy 1.0000 " in " ".join(table.split())
    page, summary = render_report(evaluation), render_markdown(evaluation)
    assert verdict in page
    assert chinese in page
    assert "<td>词袋模型" in page or "词袋模型</span>" in page
    assert "| bag of words | sentiment accuracy | " in summary


def test_a_prediction_is_the_label_chosen(evaluation):
    for row in evaluation.predictions:
        assert row["prediction"] == row["label"] in ("负面", "正面")
        assert row["base_prediction"] == row["base_label"] in ("负面", "正面")


def test_the_options_of_each_row_hold_for_a_head_over_all_of_them(news_run):
    assert news_run.head["id2label"] == {"0": "体育", "1": "经济", "2": "文化", "3": "科技"}
    found = evaluate_run(news_run, settings_of("--no-baseline"))
    options = {f"news-{place + 1}": row["category"] for place, row in enumerate(NEWS)}
    assert all(row["label"] in options[row["id"]] for row in found.predictions)
    loaded = load_run(news_run)
    rows = prepare_rows(
        select_rows(news_run, settings_of()).rows, loaded.chat, "Be brief.", news_run.train_settings(), 192, loaded.head
    ).rows
    scores = score_choices(
        loaded, [row.prompt_ids for row in rows], [r.labels for r in rows], [r.classes for r in rows], shown=False
    )
    for row, one in zip(rows, scores, strict=True):
        assert len(one) == len(options[row.row["id"]])
        assert sum(math.exp(score) for score in one) < 1.0  # of all classes, and some are not allowed here


def test_robustness_and_a_temperature_go_through_the_head_too(run, tmp_path):
    rows = write_jsonl(tmp_path / "more.jsonl", [row for row in ROWS if row["task"] == "sentiment"])
    flags = ("--data", rows, "--robustness", "--calibrate", "--no-baseline", "--no-leak_check")
    found = evaluate_run(run, settings_of(*flags)).metrics
    assert found["robustness"]["overall"]["num_rows"] > 0
    assert found["robustness"]["hard_cases"]["overall"]["num_rows"] > 50
    assert found["calibration"]["by_task"]["sentiment"]["temperature"]["fitted_on"] == "validation"


# What it is compared with


def test_two_heads_are_compared_by_their_classes(run, tied_model_folder, reviews_file, tmp_path):
    other = train_tiny(
        tmp_path / "other", "full", tied_model_folder, reviews_file, "--head", "classification", "--pooling", "mean"
    )
    found = evaluate_run(run, settings_of("--baseline", other))
    assert found.metrics["run"]["chosen_by"] == {"tuned": "head", "base": "head"}
    alone = evaluate_run(open_run(other), settings_of("--no-baseline"))
    assert found.metrics["base"]["classification"] == alone.metrics["classification"]
    assert [row["base_nll"] for row in found.predictions] == pytest.approx([row["nll"] for row in alone.predictions])


def test_a_run_that_writes_is_compared_with_a_head_by_label_scoring(tiny_run, head_run, reviews_file):
    flags = ("--data", reviews_file, "--baseline", head_run, "--no-leak_check")
    found = evaluate_run(open_run(tiny_run), settings_of(*flags)).metrics
    assert found["run"]["chosen_by"] == {"tuned": "label_scoring", "base": "head"}
    assert "generation" not in found
    assert set(found["base"]["classification"]["by_task"]["sentiment"]) == {"head"}


def test_a_baseline_whose_head_has_other_labels_is_refused(run, news_run):
    with pytest.raises(DataError, match=r"label '[正负]面' is none of the head's, 体育, 经济, 文化, 科技; fix the row"):
        evaluate_run(run, settings_of("--baseline", news_run.path))


# Files and words


def test_every_report_says_how_the_labels_were_chosen(evaluation):
    sentence = (
        "Labels were chosen and nothing was generated: base by label scoring, tuned by classification head, on the "
        "same prompts; eval_loss is that of the right label among the row's labels."
    )
    text = render_table(evaluation.metrics)
    assert sentence in text
    assert "text metrics" not in text
    page = render_report(evaluation)
    assert sentence in page.replace("&#39;", "'").replace("&#x27;", "'")
    assert "微调前用标签打分，微调后用分类头" in page
    assert "bits per byte" not in page
    assert "微调后用分类头" in render_markdown(evaluation, "zh")


def test_the_files_hold_the_head_under_the_keys_of_earlier_projects(evaluation, tmp_path):
    write_reports(evaluation, tmp_path)
    write_evaluation(evaluation, tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert json.loads(to_json(evaluation.metrics)) == metrics
    assert {path.name for path in tmp_path.iterdir()} == set(metrics["artifacts"].values())
    comparison = json.loads((tmp_path / "baseline_comparison.json").read_text(encoding="utf-8"))
    head = metrics["classification"]["by_task"]["sentiment"]["head"]
    assert comparison["task"] == "sentiment"
    assert comparison["comparison"]["accuracy"]["finetuned"] == head["accuracy"]
    assert comparison["models"]["finetuned"]["f1"] == head["macro_f1"]


def test_a_condition_may_name_the_heads_figures(evaluation):
    condition = parse_condition("classification.by_task.sentiment.head.macro_f1 < 2")
    condition.check_names(Metrics)
    assert condition.holds(evaluation.metrics)


# What is refused


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (("--rouge",), "--rouge"),
        (("--metric", "accuracy", "--decoding", "chat"), "--metric, --decoding"),
        (("--generator", "vllm"), "--generator"),
    ],
)
def test_settings_for_written_answers_are_refused(run, flags, named, monkeypatch):
    monkeypatch.setattr("sft.evaluation.flow.check_generator", lambda *_: None)  # vllm is not installed here
    monkeypatch.setattr("sft.evaluation.flow.load_metric", lambda name: name)
    with pytest.raises(ConfigError, match=f"^{named}: a classification head writes no answers; leave it out$"):
        evaluate_run(run, settings_of(*flags))


def test_rows_that_it_cannot_classify_are_refused_by_name(run, mixed_file):
    with pytest.raises(
        DataError, match=r"^row n1: task ner has no labels, and a classification head says nothing else"
    ):
        evaluate_run(run, settings_of("--data", write_jsonl(mixed_file.with_name("ner.jsonl"), ROWS[5:6])))
