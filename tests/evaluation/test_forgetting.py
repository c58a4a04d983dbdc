"""What a run forgot: the loss of general text and chat before and after tuning."""

import json
from collections import Counter

import pytest

from sft.config.evaluate import EvaluateSettings
from sft.config.layers import load_settings
from sft.errors import ConfigError
from sft.evaluation.flow import evaluate_run
from sft.evaluation.probes import judge_forgetting, measure_forgetting, read_sample
from sft.models.loading import load_run
from sft.report.markdown import render_table
from sft.runs.run import open_run


def test_the_sample_has_both_languages_and_chat():
    assert Counter(row["source"] for row in read_sample()) == {"Chinese text": 12, "English text": 12, "chat": 12}


def test_both_sides_are_measured_on_the_whole_sample_and_reported(tiny_run):
    settings = load_settings(
        EvaluateSettings, ["--run", str(tiny_run), "--max_new_tokens", "2", "--num_samples", "4", "--forgetting"]
    )
    metrics = evaluate_run(open_run(tiny_run), settings).metrics
    found = metrics["forgetting"]
    assert found["loss"]["num_rows"] == 36
    assert {part: figures["num_rows"] for part, figures in found["by_part"].items()} == {
        "Chinese text": 12, "English text": 12, "chat": 12,
    }  # fmt: skip
    assert json.loads(json.dumps(found)) == found
    assert found["loss"]["base"] != found["loss"]["tuned"]
    assert render_table(metrics).endswith(found["verdict"])
    assert found["verdict"].startswith("General text and chat (36 rows): loss ")


def test_the_untuned_side_is_the_base_with_the_adapter_off(tiny_run):
    run = open_run(tiny_run)
    loaded = load_run(run)
    found = measure_forgetting(loaded, run, seed=1)
    with loaded.adapter_off():
        untuned = measure_forgetting(loaded, run, seed=1)
    assert untuned["loss"]["tuned"] == pytest.approx(found["loss"]["base"], abs=1e-6)


@pytest.mark.parametrize(
    ("finding", "said"), [("worse", "some of it was forgotten"), ("better", "nothing was"), ("unclear", "no clear")]
)
def test_a_clear_rise_alone_is_called_forgetting(finding, said):
    loss = {"base": 3.0, "tuned": 3.2, "low": 0.1, "high": 0.3, "finding": finding, "num_rows": 36}
    assert said in judge_forgetting(loss)[0]
    assert "通用文本与对话（36 行）：损失 3.000 -> 3.200 (+0.100 至 +0.300)" in judge_forgetting(loss)[1]


def test_a_classifier_has_no_loss_of_text(head_run):
    settings = load_settings(EvaluateSettings, ["--run", str(head_run), "--forgetting"])
    with pytest.raises(ConfigError, match="--forgetting: a classification head has no loss of text"):
        evaluate_run(open_run(head_run), settings)
