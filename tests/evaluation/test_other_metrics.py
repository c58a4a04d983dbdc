"""--metric over real metric files, loaded by HF's evaluate."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sft.errors import ConfigError
from sft.evaluation.model_answers import Outcome
from sft.evaluation.other_metrics import load_metric
from sft.evaluation.rows import EvalRow, prepare_rows, select_rows
from tests.evaluation.conftest import settings_of

HEAD = "import datasets\nimport evaluate\nimport numpy as np\n\n"
METRIC = """
class {name}(evaluate.Metric):
    def _info(self):
        features = datasets.Features({{"predictions": {prediction}, "references": {reference}}})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        {body}
"""
TEXT, NUMBER = 'datasets.Value("string")', 'datasets.Value("int32")'


def write_metric(folder: Path, name: str, body: str, prediction: str = TEXT, reference: str = TEXT) -> str:
    path = folder / f"{name.lower()}.py"
    path.write_text(HEAD + METRIC.format(name=name, prediction=prediction, reference=reference, body=body))
    return str(path)


@pytest.fixture(scope="module")
def rows(run, loaded, mixed_file) -> list[EvalRow]:
    selected = select_rows(run, settings_of("--data", mixed_file)).rows
    return prepare_rows(selected, loaded.chat, run.system_prompt, run.train_settings(), 512).rows


def outcomes_of(rows: list[EvalRow]) -> list[Outcome]:
    """Every label row right but s2, whose answer is no label at all."""
    references = {"s1": "正面", "s2": "负面", "s3": "正面", "j1": "负面", "t1": "体育"}
    found = [references.get(row.row["id"]) for row in rows]
    return [Outcome(reference=label, generated=label if row.row["id"] != "s2" else None)
            for row, label in zip(rows, found, strict=True)]  # fmt: skip


def test_a_text_metric_is_given_the_free_text_rows(rows, tmp_path):
    body = 'return {"same": sum(map(str.__eq__, predictions, references)) / len(references), "texts": list(references)}'
    metric = load_metric(write_metric(tmp_path, "Same", body))
    texts = ["An adapter." if row.row["id"] == "q1" else "?" for row in rows]
    assert metric.summarise(rows, texts, outcomes_of(rows)) == {
        "figures": {"same": pytest.approx(1 / 3)},  # q1, q2 and c1
        "left_out": ["texts"],
        "num_rows": 3,
        "over": "texts",
        "signature": "evaluate:0.4.6|same",
    }


def test_a_metric_of_numbers_is_given_the_classes_and_an_unreadable_answer_is_none_of_them(rows, tmp_path):
    body = 'return {"accuracy": np.float64(np.mean(np.equal(predictions, references))), "highest": max(predictions)}'
    metric = load_metric(write_metric(tmp_path, "Accuracy", body, NUMBER, NUMBER))
    found = metric.summarise(rows, [""] * len(rows), outcomes_of(rows))
    assert (found["figures"], found["num_rows"], found["over"]) == ({"accuracy": 0.8, "highest": 4.0}, 5, "labels")


def test_a_metric_that_wants_several_references_gets_a_list_of_one(rows, tmp_path):
    body = 'return {"lengths": [len(several) for several in references], "nan": float("nan")}'
    wanted = f"datasets.Sequence({TEXT})"
    metric = load_metric(write_metric(tmp_path, "Several", body, TEXT, wanted))
    assert metric.summarise(rows, ["x"] * len(rows), outcomes_of(rows))["figures"] == {"lengths": 1.0, "nan": None}


def test_a_metric_that_fails_is_named_in_one_line(rows, tmp_path):
    metric = load_metric(write_metric(tmp_path, "Broken", 'raise RuntimeError("two\\n lines")'))
    with pytest.raises(ConfigError, match=r"--metric .*broken.py: it failed \(two lines\); fix it or leave it out"):
        metric.summarise(rows, ["x"] * len(rows), outcomes_of(rows))


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("no/such/metric.py", "--metric 'no/such/metric.py': no such file or folder"),
        ("metrics/missing.py", "--metric 'metrics/missing.py': no such file or folder"),  # no repository is called so
        ("./missing", "--metric './missing': no such file or folder"),
        ("", "--metric '': no such file or folder"),
        ("no_such_metric", "--metric no_such_metric: cannot be loaded .*give the path of a metric's folder"),
    ],
)
def test_a_missing_metric_is_one_line(name, complaint):
    with pytest.raises(ConfigError, match=complaint) as told:
        load_metric(name)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("file", "code", "why"),
    [
        ("same.py", "x = 1", "'NoneType' object is not callable"),
        ("same.py", "def f(:", r"invalid syntax .*line 1.*"),
        ("other.py", HEAD, "Couldn't find a module script at .*same.py.*"),
    ],
)
def test_a_folder_without_a_metric_is_refused_with_what_it_must_contain(file, code, why, tmp_path):
    folder = tmp_path / "same"
    folder.mkdir()
    (folder / file).write_text(code)
    with pytest.raises(
        ConfigError, match=rf"cannot be loaded \({why}\); .*/same/same.py has to hold a class of evaluate.Metric$"
    ):
        load_metric(str(folder))


def test_a_metric_of_numbers_without_label_rows_is_refused(rows, tmp_path):
    metric = load_metric(write_metric(tmp_path, "Numbers", "return {}", NUMBER, NUMBER))
    texts = [row for row in rows if row.task.kind == "text"]
    with pytest.raises(ConfigError, match="it compares numbers, and none of the rows has labels"):
        metric.summarise(texts, ["x"] * len(texts), [Outcome()] * len(texts))


@pytest.mark.slow
def test_what_a_metric_keeps_beside_it_is_gone_when_the_command_ends(tmp_path):
    path = write_metric(tmp_path, "Same", "return {}")
    (tmp_path / "temporary").mkdir()
    code = f"from sft.evaluation.other_metrics import load_metric; load_metric({path!r})"
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert not list((tmp_path / "temporary").glob("metric-*"))
