"""The command itself, as a user types it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sft.files import held
from tests.commands import ROOT


def run_script(*flags: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "evaluate.py"), *map(str, flags)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_without_a_run_it_says_in_one_line_what_to_run_first(tmp_path):
    result = run_script(cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "error: no finished run yet; run `python train.py` first, or name a run folder with --run\n"
    )


def test_a_mistyped_flag_names_the_nearest():
    result = run_script("--rogue")
    assert (result.returncode, result.stderr) == (2, "error: --rogue: unknown flag; did you mean --rouge?\n")


def test_a_second_evaluation_of_a_run_at_once_is_refused_in_one_line(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    with held(run / ".evaluation.lock", "held by the test", "wait"):
        result = run_script("--run", "run", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (2, "")
    who = rf"process {os.getpid()} on {re.escape(socket.gethostname())}, since [-0-9: ]+"
    line = rf"error: run: another evaluation of this run is running \({who}\); wait for it to end"
    assert re.fullmatch(line, result.stderr.splitlines()[-1])


def test_with_rouge_and_json_it_measures_the_run_and_prints_metrics_json_alone(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    result = run_script("--run", run, "--rouge", "--json", "--max_new_tokens", 4, "--num_samples", 3)
    assert result.returncode == 0, result.stderr
    metrics = json.loads(result.stdout)
    assert metrics == json.loads((run / "evaluation" / "metrics.json").read_text())
    assert metrics["data_stats"]["eval_size"] == metrics["generation"]["rouge"]["num_rows"] == 3
    assert "3 of 4 rows of the validation split (3 instruct)" in result.stderr
    assert sorted(path.name for path in (run / "evaluation").iterdir()) == [
        "metrics.json",
        "predictions.jsonl",
        "report.html",
        "report.md",
    ]


@pytest.mark.slow
def test_a_condition_that_holds_ends_in_1_with_one_line_after_the_results_are_written(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    flags = ("--run", "run", "--max_new_tokens", 4, "--num_samples", 3)
    result = run_script(*flags, "--fail_if", "teacher_forcing.eval_loss > 0.1", cwd=tmp_path)
    assert result.returncode == 1
    loss = json.loads((run / "evaluation" / "metrics.json").read_text())["teacher_forcing"]["eval_loss"]
    assert result.stderr.splitlines()[-2:] == [
        "written: run/evaluation/metrics.json, predictions.jsonl, report.html, report.md",
        f"failed: teacher_forcing.eval_loss > 0.1 (teacher_forcing.eval_loss is {loss:.4g})",
    ]
    assert "metric" in result.stdout


@pytest.mark.slow
def test_a_misspelt_figure_is_refused_before_anything_is_measured(tiny_run):
    result = run_script("--run", tiny_run, "--fail_if", "teacher_forcing.evalloss > 0.1")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        "error: --fail_if: teacher_forcing has no 'evalloss'; did you mean 'eval_loss'?"
    )
    assert "of the validation split" not in result.stderr
