"""`--help` of every script: complete, and at once (seconds are in benchmarks/help_time.py; here, what makes them)."""

import re
import subprocess
import sys

import pytest

from tests.commands import ROOT, SCRIPTS, flags_of, settings_class_of
from tests.house import HEAVY


def run_help(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", script, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def imported_packages(importtime: str) -> set[str]:
    """Top-level packages in the report of -X importtime: "import time: 5 | 9 |   torch.nn" -> {"torch"}."""
    return {name.partition(".")[0] for name in re.findall(r"^import time:.*\| +(\S+)$", importtime, re.MULTILINE)}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_ends_in_0_names_every_flag_and_imports_no_framework(script):
    result = run_help(script)
    flags = flags_of(settings_class_of(script))
    assert result.returncode == 0
    assert [flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", result.stdout)] == []
    assert result.stdout.startswith(f"usage: {script} ")
    # the rest of the stack takes its time as well: plots, tables and metrics are for after --help
    assert imported_packages(result.stderr) & {*HEAVY, "datasets", "matplotlib", "pandas", "scipy", "sklearn"} == set()


def test_the_imported_packages_are_read_from_the_importtime_report():
    header, lines = "import time: self [us] | cumulative | imported package\n", "import time: 74 | 120 |   torch.nn\n"
    assert imported_packages(f"{header}{lines}import time: 74 | 120 | json\n") == {"torch", "json"}
