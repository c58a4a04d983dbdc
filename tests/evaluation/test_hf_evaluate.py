"""Hugging Face's package `evaluate` and our script evaluate.py share a name: whoever asks gets the package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sft.evaluation.hf_evaluate import load_hf_evaluate

ROOT = Path(__file__).parents[2]

# What a script does; the metric file then imports `evaluate` by name, as all of HF's do.
PROBE = """
from sft.evaluation.hf_evaluate import load_hf_evaluate

package = load_hf_evaluate()
import evaluate
from evaluate.naming import camelcase_to_snakecase

assert evaluate is package and package.Metric.__module__ == "evaluate.module", package
metric = package.load("same.py", cache_dir="cache", keep_in_memory=True)
print(metric.compute(predictions=["a", "b"], references=["a", "c"]))
"""
METRIC_FILE = """
import datasets
import evaluate

class Same(evaluate.Metric):
    def _info(self):
        features = datasets.Features({name: datasets.Value("string") for name in ("predictions", "references")})
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references):
        return {"same": sum(map(str.__eq__, predictions, references)) / len(references)}
"""
OURS = 'print("our evaluate.py was imported")\n'


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project root in small: the real sft, and room for scripts beside it."""
    for package in ("sft", "prompts"):
        (tmp_path / package).symlink_to(ROOT / package)
    (tmp_path / "same.py").write_text(METRIC_FILE)
    return tmp_path


def _run(project: Path, script: str) -> str:
    environment = {**os.environ, "HF_HOME": str(project / "home"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        [sys.executable, script], cwd=project, env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_a_script_named_evaluate_reaches_the_package_and_so_do_metric_files(project):
    (project / "evaluate.py").write_text(PROBE)
    assert _run(project, "evaluate.py") == "{'same': 0.5}\n"


@pytest.mark.slow
def test_a_script_beside_evaluate_py_reaches_the_package_even_after_importing_ours_by_mistake(project):
    (project / "evaluate.py").write_text(OURS)
    (project / "train.py").write_text("import evaluate\n" + PROBE)
    assert _run(project, "train.py") == "our evaluate.py was imported\n{'same': 0.5}\n"


def test_pytest_reaches_the_package_and_gets_the_same_object_each_time():
    package = load_hf_evaluate()
    assert package.Metric.__module__ == "evaluate.module"
    assert load_hf_evaluate() is package is sys.modules["evaluate"]
