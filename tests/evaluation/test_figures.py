"""Figures from given answers: no model is asked, so each number can be worked out by hand."""

import math
from dataclasses import replace

import pytest

from sft.evaluation.compare import compare_models
from sft.evaluation.figures import summarise_model
from sft.evaluation.model_answers import Answers, Measured, read_outcomes
from sft.evaluation.rows import prepare_rows, select_rows
from tests.evaluation.conftest import settings_of

RIGHT = {
    "s1": "正面",
    "s2": "负面",
    "s3": "正面。",
    "j1": '```json\n{"sentiment": 0}\n```',
    "t1": "体育",
    "n1": '{"entity_text": "北京", "entity_label": "GPE"}\n{"entity_text": "张华", "entity_label": "PER"}',
    "n2": "没有找到任何实体",
    "q1": "An adapter.",
    "q2": "你好",
    "c1": "很好",
}
WRONG = {
    "s1": "我觉得是正面的",
    "s2": "正面",
    "s3": "",
    "j1": "0",
    "t1": "政治",
    "n1": '{"entity_text": "上海", "entity_label": "GPE"}',
    "n2": "不知道",
    "q1": " ",
    "q2": "你们",
    "c1": "bad",
}


@pytest.fixture(scope="module")
def rows(run, loaded, mixed_file):
    selected = select_rows(run, settings_of("--data", mixed_file)).rows
    return prepare_rows(selected, loaded.chat, run.system_prompt, run.train_settings(), 512).rows


def _measure(rows, chat, texts: dict[str, str], *, labels_right: bool, nll: float) -> Measured:
    scores = []
    for row in rows:
        best = row.labels.index(row.reference) if row.labels else 0
        scores.append([-1.0 if (place == best) == labels_right else -2.0 for place in range(len(row.labels))])
    num_tokens = [sum(piece.num_supervised for piece in row.encoded) for row in rows]
    answers = Answers([nll] * len(rows), num_tokens, scores, [texts[row.row["id"]] for row in rows], [True] * len(rows))
    return Measured(answers, read_outcomes(rows, answers, chat))


@pytest.fixture(scope="module")
def right(rows, loaded):
    return _measure(rows, loaded.chat, RIGHT, labels_right=True, nll=2.0)


@pytest.fixture(scope="module")
def wrong(rows, loaded):
    return _measure(rows, loaded.chat, WRONG, labels_right=False, nll=4.0)


def test_right_answers_score_one_everywhere(rows, right, loaded):
    figures = summarise_model(rows, right, loaded.chat)
    assert figures["classification"]["accuracy"] == 1.0
    assert [
        (task, found["label_scoring"]["accuracy"], found["accuracy_per_token"], found["generation"]["accuracy"])
        for task, found in figures["classification"]["by_task"].items()
    ] == [("sentiment", 1.0, 1.0, 1.0), ("sentiment_json", 1.0, 1.0, 1.0), ("news", 1.0, 1.0, 1.0)]
    assert (figures["ner"]["f1"], figures["ner"]["unparseable_rate"]) == (1.0, 0.0)
    assert (figures["generation"]["unparseable_rate"], figures["generation"]["empty_rate"]) == (0.0, 0.0)


def test_answers_that_cannot_be_read_are_wrong_and_counted(rows, wrong, loaded):
    figures = summarise_model(rows, wrong, loaded.chat)
    sentiment = figures["classification"]["by_task"]["sentiment"]
    assert (sentiment["generation"]["accuracy"], sentiment["generation"]["unparseable_rate"]) == (
        0.0,
        pytest.approx(2 / 3),
    )
    assert sentiment["generation"]["confusion_matrix"]["counts"] == [[0, 1, 0], [0, 0, 2]]
    assert figures["generation"]["unparseable_rate"] == pytest.approx(5 / 7)  # s1 s3 j1 t1 n2 of seven with a form
    assert figures["generation"]["empty_rate"] == 0.2  # s3 and q1
    assert (figures["ner"]["f1"], figures["ner"]["unparseable_rate"], figures["ner"]["not_in_text_rate"]) == (0, 0.5, 1)


def test_the_loss_is_weighted_by_tokens_and_reported_by_source_and_task(rows, right, loaded):
    loss = summarise_model(rows, right, loaded.chat)["teacher_forcing"]
    tokens = {row.row["id"]: sum(piece.num_supervised for piece in row.encoded) for row in rows}
    assert loss["supervised_tokens"] == sum(tokens.values())
    assert loss["eval_loss"] == pytest.approx(20.0 / sum(tokens.values()))
    assert loss["by_task"]["chat"] == {
        "eval_loss": 2.0 / 13,
        "perplexity": math.exp(2.0 / 13),
        "bits_per_byte": 2.0 / math.log(2) / 11,  # hello and 很好: 11 bytes, and two end tokens that spell nothing
        "supervised_tokens": 13,
        "num_rows": 1,
    }
    assert {source: found["num_rows"] for source, found in loss["by_source"].items()} == {
        "reviews": 4,
        "press": 3,
        "qa": 3,
    }


def test_the_comparison_holds_every_headline_figure_of_base_and_tuned(rows, wrong, right):
    comparison = compare_models(rows, wrong, right, seed=0)
    assert [
        (name, found["base"], found["tuned"], found["num_rows"]) for name, found in comparison["metrics"].items()
    ] == [
        ("eval_loss", pytest.approx(2 * comparison["metrics"]["eval_loss"]["tuned"]), pytest.approx(0.1, abs=1), 10),
        ("sentiment accuracy", 0.0, 1.0, 3),
        ("sentiment accuracy (generated)", 0.0, 1.0, 3),
        ("sentiment_json accuracy", 0.0, 1.0, 1),
        ("sentiment_json accuracy (generated)", 0.0, 1.0, 1),
        ("news accuracy", 0.0, 1.0, 1),
        ("news accuracy (generated)", 0.0, 1.0, 1),
        ("ner f1", 0.0, 1.0, 2),
    ]
    assert comparison["outcome"] == "too_few"
    assert {found["finding"] for found in comparison["metrics"].values()} == {"too_few"}
    assert comparison["verdict"].startswith("Too few rows to tell base and tuned apart: eval_loss ")
    assert "sentiment accuracy 0.000 -> 1.000 (3 rows)" in comparison["verdict"]
    assert comparison["slices"]["source"]["press"]["ner f1"] == {
        "base": 0.0, "tuned": 1.0, "difference": 1.0, "num_rows": 2, "rows_fixed": 2, "rows_broken": 0,
    }  # fmt: skip
    assert comparison["slices"]["task"]["sentiment"]["sentiment accuracy"]["num_rows"] == 3
    assert "ner f1" not in comparison["slices"]["source"]["qa"]


def _many(rows, chat, texts: dict[str, str], *, labels_right: bool, nll: float):
    """Every row forty times, each time about another text."""
    many = [
        replace(row, row={**row.row, "id": f"{row.row['id']}-{copy}", "text": f"{row.row.get('text', '')}{copy}"})
        for copy in range(40)
        for row in rows
    ]
    given = {row.row["id"]: texts[row.row["id"].split("-")[0]] for row in many}
    return many, _measure(many, chat, given, labels_right=labels_right, nll=nll)


def test_with_forty_rows_each_what_got_worse_is_named(rows, loaded):
    some = [row for row in rows if row.task.name in ("sentiment", "ner")]
    many, right = _many(some, loaded.chat, RIGHT, labels_right=True, nll=2.0)
    _, wrong = _many(some, loaded.chat, WRONG, labels_right=False, nll=4.0)
    comparison = compare_models(many, right, wrong, seed=0)
    assert comparison["outcome"] == "hurt"
    assert {name: found["finding"] for name, found in comparison["metrics"].items()} == {
        "eval_loss": "worse",
        "sentiment accuracy": "worse",
        "sentiment accuracy (generated)": "worse",
        "ner f1": "worse",
    }


def test_rubbish_that_becomes_a_wrong_answer_is_not_broken(rows, loaded):
    only = [row for row in rows if row.task.name == "ner"]
    made_up = '{"entity_text": "上海", "entity_label": "GPE"}'
    texts = [{"n1": "blah", "n2": "blah"}, {"n1": made_up, "n2": "没有找到任何实体"}]
    base, tuned = (_measure(only, loaded.chat, given, labels_right=True, nll=1.0) for given in texts)
    figure = compare_models(only, base, tuned, seed=0)["metrics"]["ner f1"]
    assert (figure["rows_fixed"], figure["rows_broken"]) == (1, 0)  # n2: nothing to find, and now it says so
    assert (figure["base"], figure["tuned"]) == (0.0, 0.0)


def test_bleu_is_taken_over_free_text_alone_and_not_at_all_where_there_is_none(rows, right, loaded):
    assert summarise_model(rows, right, loaded.chat)["generation"]["text"]["tasks"] == ["chat", "instruct"]
    labels = [row for row in rows if row.labels]
    measured = _measure(labels, loaded.chat, RIGHT, labels_right=True, nll=2.0)
    assert "text" not in summarise_model(labels, measured, loaded.chat)["generation"]


def test_every_figure_of_one_model_has_an_interval_that_holds_it(rows, loaded):
    many, right = _many(rows, loaded.chat, RIGHT, labels_right=True, nll=2.0)
    figures = summarise_model(many, right, loaded.chat)
    tasks = ("sentiment", "sentiment_json", "news")
    kinds = ("accuracy", "accuracy (generated)", "macro f1", "brier", "auc")
    one_class = {"sentiment_json auc", "news auc"}  # all of their rows are of one class
    assert set(figures["intervals"]) == {f"{task} {kind}" for task in tasks for kind in kinds} - one_class | {
        "ner f1",
        "exact match",
    }
    for name, found in figures["intervals"].items():
        if "brier" not in name:
            assert 0.85 < found["low"] < found["high"] == 1.0, name  # all is right, and that is no proof of 1.0
    brier = figures["calibration"]["by_task"]["sentiment"]["brier"]
    found = figures["intervals"]["sentiment brier"]
    assert found["low"] < brier < found["high"]
    assert found["num_units"] == 120
