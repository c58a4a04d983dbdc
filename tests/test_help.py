"""`--help` of every script answers at once (seconds: benchmarks/help_time.py; here, what makes them).

What it shows is tested in config/test_help.py.
"""

import re
import subprocess
import sys

import pytest

from tests.commands import ROOT, SCRIPTS
from tests.house import HEAVY


def run_help(script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-X", "importtime", script, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def imported_packages(importtime: str) -> set[str]:
    """Top-level packages in the report of -X importtime: "import time: 5 | 9 |   torch.nn" -> {"torch"}."""
    return {name.partition(".")[0] for name in re.findall(r"^import time:.*\| +(\S+)$", importtime, re.MULTILINE)}


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_ends_in_0_and_imports_no_framework(script):
    result = run_help(script)
    assert result.returncode == 0
    assert result.stdout.startswith(f"usage: python {script} ")
    # the rest of the stack takes its time as well: plots, tables and metrics are for after --help
    assert imported_packages(result.stderr) & {*HEAVY, "datasets", "matplotlib", "pandas", "scipy", "sklearn"} == set()


def test_the_imported_packages_are_read_from_the_importtime_report():
    header, lines = "import time: self [us] | cumulative | imported package\n", "import time: 74 | 120 |   torch.nn\n"
    assert imported_packages(f"{header}{lines}import time: 74 | 120 | json\n") == {"torch", "json"}
