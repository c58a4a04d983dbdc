"""The notebooks: clean files, and commands that work where they are typed."""

import io
import json
import runpy
import sys

import pytest

from sft.config.layers import load_settings
from tests.commands import ROOT, settings_class_of
from tests.readme import script_calls

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read_commands(path) -> list[str]:
    """The shell lines of a notebook's cells: ["python train.py --config recipes/demo.yaml", ...]."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    lines = [line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).splitlines()]
    return [line.removeprefix("!") for line in lines if line.startswith("!")]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_no_output_and_only_commands_that_the_scripts_take(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["nbformat"], len({cell["id"] for cell in content["cells"]})) == (4, len(content["cells"]))
    assert all(
        cell["outputs"] == [] and cell["execution_count"] is None for cell in content["cells"] if "outputs" in cell
    )
    calls = [call for command in read_commands(path) for call in script_calls(command)]
    assert len(calls) >= 7
    for script, *words in calls:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(ROOT)
            load_settings(settings_class_of(script), words)


@pytest.mark.slow
def test_the_quickstart_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch, embedded_folder, capsys):
    """In this process, so that the libraries load once; two optimizer steps."""
    for name in ("examples", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    short = {"MAX_STEPS": 2, "MAX_NEW_TOKENS": 3, "NUM_PROMPTS": 1, "PER_DEVICE_TRAIN_BATCH_SIZE": 2}
    for name, value in short.items():
        monkeypatch.setenv(f"SFT_{name}", str(value))
    for command in read_commands(ROOT / "notebooks/quickstart.ipynb"):
        for script, *words in script_calls(command):
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"hello\nexit\n")))
            runpy.run_path(str(ROOT / script))["main"](words)
    assert (tmp_path / "outputs/quickstart/evaluation/report.html").is_file()
    assert (tmp_path / "outputs/quickstart/export/merged/model.safetensors").is_file()
    assert "adapter_model.safetensors" in capsys.readouterr().out
