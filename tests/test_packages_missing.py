"""A script on a Python that lacks the project's packages."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(path.name for path in ROOT.glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_without_the_packages_one_line_says_what_to_do(script, tmp_path):
    for name in ("sft", "prompts"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / script, tmp_path)
    bare = [sys.executable, "-S", str(tmp_path / script)]  # -S: no site-packages

    ended = subprocess.run(bare, capture_output=True, text=True, cwd=tmp_path, timeout=60)

    assert ended.returncode == 2
    assert ended.stdout == ""
    todo = "run `make demo` in the project's folder, then use its .venv/bin/python"
    assert ended.stderr == f"error: {sys.executable} lacks the project's packages; {todo}\n"
