"""The table and the page, from an evaluation made up by hand."""

import copy

import pytest

from sft.evaluation.flow import Evaluation
from sft.report import render_report, render_table

LOSS = {"eval_loss": 1.5, "perplexity": 4.4817, "bits_per_byte": 0.5, "supervised_tokens": 40, "num_rows": 4}
GENERATION = {
    "empty_rate": 0.0,
    "unfinished_rate": 0.25,
    "unparseable_rate": 0.0,
    "avg_pred_len_tokens": 3.0,
    "avg_ref_len_tokens": 2.0,
    "len_ratio_pred_over_ref": 1.5,
    "distinct_1": 0.5,
    "distinct_2": 0.75,
    "num_rows": 4,
    "by_task": {},
}
SIDE = {
    "teacher_forcing": {**LOSS, "by_source": {"reviews": LOSS}, "by_task": {"sentiment": LOSS}},
    "generation": GENERATION,
}
FIGURE = {
    "base": 0.5,
    "tuned": 0.9,
    "difference": 0.4,
    "low": 0.3,
    "high": 0.5,
    "p_value": 0.001,
    "p_holm": 0.001,
    "test": "mcnemar",
    "higher_is_better": True,
    "finding": "better",
    "num_rows": 4,
    "rows_fixed": 60,
    "rows_broken": 2,
}


@pytest.fixture
def evaluation() -> Evaluation:
    metrics = {
        **copy.deepcopy(SIDE),
        "base": copy.deepcopy(SIDE),
        "comparison": {"outcome": "helped", "verdict": "Tuning helped.", "metrics": {"sentiment accuracy": FIGURE}},
        "data_stats": {
            "eval_size": 4,
            "truncation_rate": 0.25,
            "dropped_too_long": 1,
            "split": "test",
            "data": "mixed",
            "sha256": "ab" * 32,
        },
        "run": {
            "name": "demo",
            "base_model": {"name": "embedded"},
            "fingerprint": "cd" * 32,
            "max_new_tokens": {"sentiment": 15},
            "decoding": "greedy",
            "seed": 42,
            "versions": {"torch": "2.13.0"},
            "git_revision": None,
        },
        "artifacts": {},
    }
    row = {"id": "a", "task": "sentiment", "instruction": "q", "input": "", "reference": "r", "prediction": "p"}
    row |= {"base_prediction": "b", "nll": 1.0, "base_nll": 2.0}
    return Evaluation(metrics, [row])


def test_the_table_shows_base_tuned_and_difference_with_its_interval_and_then_the_verdict(evaluation):
    lines = render_table(evaluation.metrics).splitlines()
    assert lines[:3] == [
        "metric                base   tuned  difference  95 % interval       fixed  broken  finding",
        "------------------  ------  ------  ----------  ------------------  -----  ------  -------",
        "sentiment accuracy  0.5000  0.9000  +0.4000     [+0.3000, +0.5000]     60       2  better",
    ]
    assert lines[-1] == "Tuning helped."


def test_text_of_models_and_files_cannot_become_markup_or_steer_a_terminal(evaluation):
    evaluation.predictions[0]["prediction"] = "<script>alert(1)</script>\x1b[31m"
    evaluation.metrics["comparison"]["verdict"] = "Tuning \x1b[2Jhelped <b>"
    page = render_report(evaluation)
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;␛[31m" in page
    assert "Tuning ␛[2Jhelped &lt;b&gt;" in page
    assert "\x1b" not in render_table(evaluation.metrics)


def test_braces_in_texts_do_not_disturb_the_page(evaluation):
    evaluation.predictions[0]["prediction"] = '{"entity_text": "{title}"}'
    assert "{&quot;entity_text&quot;: &quot;{title}&quot;}" in render_report(evaluation)


def test_a_row_that_got_worse_is_shown_and_one_that_got_better_is_not(evaluation):
    assert "Rows that got worse" not in render_report(evaluation)
    evaluation.predictions[0]["nll"] = 3.0
    assert "Rows that got worse" in render_report(evaluation)
