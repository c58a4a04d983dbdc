"""The notebooks: clean files, and commands that work where they are typed."""

import json
import os
import re
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from sft.config.layers import load_settings
from tests.commands import ROOT, settings_class_of
from tests.readme import script_calls

SHORT = {"MAX_STEPS": 2, "MAX_NEW_TOKENS": 3, "NUM_PROMPTS": 1, "PER_DEVICE_TRAIN_BATCH_SIZE": 2}
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
def test_the_quickstart_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch, embedded_folder):
    """By Jupyter's own client, in a copy of the project; two optimizer steps."""
    for name in ("prompts", "sft", "recipes", "examples", "Makefile", *(script.name for script in ROOT.glob("*.py"))):
        (tmp_path / name).symlink_to(ROOT / name)
    for requirements in ROOT.glob("requirements*.txt"):
        (tmp_path / requirements.name).symlink_to(requirements)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name, value in SHORT.items():
        monkeypatch.setenv(f"SFT_{name}", str(value))
    notebook = nbformat.read(ROOT / "notebooks/quickstart.ipynb", as_version=4)
    for cell in notebook.cells:  # what the tests run in has been installed
        cell.source = re.sub("^!(make|pip|nvidia-smi) .*", "", cell.source)
        cell.source = re.sub("^!(.*)", r"%%bash\nset -o pipefail; \1", cell.source)  # a failing command ends the test
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    run = tmp_path / "outputs/quickstart"
    assert (run / "evaluation/report.html").is_file()
    assert (run / "export/merged/model.safetensors").is_file()
