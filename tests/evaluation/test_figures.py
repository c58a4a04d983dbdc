"""Figures from given answers: no model is asked, so each number can be worked out by hand."""

import math

import pytest

from sft.evaluation.answers import Answers
from sft.evaluation.compare import compare_models
from sft.evaluation.figures import summarise_model
from sft.evaluation.outcomes import Measured, read_outcomes
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


def test_the_loss_is_weighted_by_tokens_and_told_by_source_and_task(rows, right, loaded):
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
    assert (comparison["outcome"], comparison["metrics"]["eval_loss"]["finding"]) == ("loss_only", "better")
    assert comparison["metrics"]["sentiment accuracy"]["finding"] == "unclear"  # three rows cannot show it
    assert comparison["verdict"].startswith("The reference answers became likelier (eval_loss ")
    assert comparison["verdict"].endswith("(10 rows). Fewer than 30 rows: a first sign, no proof.")
    assert comparison["slices"]["source"]["press"]["ner f1"] == {
        "base": 0.0, "tuned": 1.0, "difference": 1.0, "num_rows": 2, "rows_fixed": 1, "rows_broken": 0,
    }  # fmt: skip
    assert comparison["slices"]["task"]["sentiment"]["sentiment accuracy"]["num_rows"] == 3
    assert "ner f1" not in comparison["slices"]["source"]["qa"]
    assert compare_models(rows, right, wrong, seed=0)["outcome"] == "hurt"
