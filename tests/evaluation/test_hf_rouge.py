import pytest

from sft.evaluation.hf_evaluate import load_hf_evaluate
from sft.evaluation.hf_rouge import MixedRouge, rouge_of_rows
from sft.metrics.generations import rouge_signature


@pytest.fixture
def metric(tmp_path):
    return MixedRouge(keep_in_memory=True, cache_dir=str(tmp_path))


def test_it_is_a_metric_of_the_package_and_names_its_tokenisation(metric):
    assert isinstance(metric, load_hf_evaluate().Metric)
    assert rouge_signature() in metric.description


def test_it_returns_means_over_rows_as_the_hubs_metric_does(metric):
    means = metric.compute(predictions=["你好", "hello"], references=["你好", "再见"])
    assert means == {"rouge1": 0.5, "rouge2": 0.5, "rougeL": 0.5}


def test_rows_added_one_by_one_count_the_same(metric):
    metric.add(prediction="你好", reference="你好")
    metric.add(prediction="hello", reference="再见")
    assert metric.compute() == {"rouge1": 0.5, "rouge2": 0.5, "rougeL": 0.5}


def test_every_row_can_be_had():
    assert rouge_of_rows(["你好", "a b c"], ["你们好", ""]) == {
        "rouge1": [0.8, 0.0],
        "rouge2": [0.0, 0.0],
        "rougeL": [0.8, 0.0],
    }
