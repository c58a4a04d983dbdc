"""The examples that are programs: they run where the package they show is installed, and else name it in one line."""

import importlib.util
import json
import subprocess
import sys

import pytest

from tests.commands import ROOT

HAS_DATATROVE = importlib.util.find_spec("datatrove") is not None


@pytest.mark.skipif(HAS_DATATROVE, reason="datatrove is installed")
def test_without_datatrove_the_example_names_it_in_one_line():
    done = subprocess.run(
        [sys.executable, "examples/stackexchange_datatrove.py"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout, done.stderr) == (
        2,
        "",
        "error: No module named 'datatrove'; run: pip install \"datatrove[io,processing]==0.10.1\"\n",
    )


@pytest.mark.slow
@pytest.mark.skipif(not HAS_DATATROVE, reason="datatrove is not installed: see docs/scale.md")
def test_datatrove_keeps_rows_with_a_keyword_once_each(tmp_path):
    command = [sys.executable, str(ROOT / "examples/stackexchange_datatrove.py"), "--make_sample", "100"]
    subprocess.run([*command, "--input", "sample", "--output", "shards", "--workers", "2"], cwd=tmp_path, check=True)

    rows = [
        json.loads(line) for path in (tmp_path / "shards").glob("*.jsonl") for line in path.read_text().splitlines()
    ]

    assert len(rows) == 50
    assert all("neural network" in row["question"] for row in rows)
    assert len({row["answers"][0]["text"] for row in rows}) == 50
