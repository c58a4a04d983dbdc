"""Set-up: what the requirements files promise, and what make does with them on machines of several kinds."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath

import pytest
import yaml

from tests.house import Module
from tests.requirements import NOT_IMPORTED, Pin, dependency_closure, read_pins, third_party_imports
from tests.test_house import MODULES, ROOT

NAMES = ("requirements.txt", "requirements-cpu.txt", "requirements-embedded.txt", "requirements-dev.txt")
PINS = {name: read_pins(ROOT / name) for name in NAMES}
OWN = {"prompts", "sft", "tests", "benchmarks", *(m.area for m in MODULES if m.is_script)}
SHIPPED = [m for m in MODULES if m.area in ("prompts", "sft") or m.is_script]


def pinned(*names: str) -> set[str]:
    return {pin.name for name in names for pin in PINS[name]}


# Requirements


@pytest.mark.parametrize("name", NAMES)
def test_every_requirement_is_pinned_and_says_why(name):
    assert [pin for pin in PINS[name] if not re.fullmatch(r"[0-9][0-9.]*", pin.version) or len(pin.reason) < 10] == []


def test_what_the_code_imports_is_required():
    runtime = pinned("requirements.txt", "requirements-cpu.txt")
    imported = third_party_imports(SHIPPED, OWN)
    assert {name: place for name, place in imported.items() if name not in runtime} == {}


def test_what_tests_and_benchmarks_import_is_required():
    imported = third_party_imports([m for m in MODULES if m not in SHIPPED], OWN)
    assert {name: place for name, place in imported.items() if name not in pinned(*NAMES)} == {}


def test_what_is_required_is_imported_or_says_why_not():
    imported = {
        name: set(third_party_imports(modules, OWN))
        for name, modules in [(name, MODULES if "dev" in name else SHIPPED) for name in NAMES]
    }
    unexplained = [
        pin.name
        for name in NAMES
        for pin in PINS[name]
        if (pin.name in imported[name]) == pin.reason.startswith(NOT_IMPORTED)
    ]
    assert unexplained == []


def test_requirements_for_a_gpu_are_those_for_a_cpu_and_unsloth():
    assert "-r requirements-cpu.txt" in (ROOT / "requirements.txt").read_text().splitlines()
    assert sorted(pinned("requirements.txt")) == ["liger-kernel", "unsloth", "unsloth-zoo"]


def test_requirements_without_a_gpu_bring_neither_torchvision_nor_unsloth_nor_cuda_companions():
    closure = dependency_closure(pinned("requirements-cpu.txt", "requirements-dev.txt"))
    assert closure & {"torchvision", "torchao", "torchaudio", "xformers", "unsloth", "unsloth-zoo"} == set()
    assert {"torch", "numpy", "tokenizers"} <= closure  # it was computed, and from installed packages


def test_a_pin_is_read_with_its_reason(tmp_path):
    (tmp_path / "r.txt").write_text("# head\n-r other.txt\n\nPyYAML==6.0.3  # recipes\nunpinned\n", encoding="utf-8")
    assert read_pins(tmp_path / "r.txt") == [Pin("pyyaml", "6.0.3", "recipes"), Pin("unpinned", "", "")]


def test_imports_are_counted_under_the_name_of_their_distribution():
    source = "import os, yaml\nfrom rouge_score import x\nimport sft.data\nfrom . import y\nimport not_installed_here"
    assert third_party_imports([Module(PurePosixPath("sft/a.py"), source)], {"sft"}) == {
        "pyyaml": "sft/a.py:1",
        "rouge-score": "sft/a.py:2",
        "not-installed-here": "sft/a.py:5",
    }


# make


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone as far as make can see: the Makefile, the requirements, a `bin` in front of PATH."""
    for name in ("Makefile", *NAMES):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    return tmp_path


def put_program(clone: Path, name: str, script: str) -> None:
    """A program in front of PATH: what `name` answers on that machine."""
    program = clone / "bin" / name
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


def run_make(clone: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment["PATH"] = f"{clone / 'bin'}:{environment['PATH']}"
    command = ["make", *arguments]
    return subprocess.run(command, cwd=clone, env=environment, input="", capture_output=True, text=True, timeout=60)


def installed_files(dry_run: str) -> list[str]:
    """The files pip is given, in order: ["requirements-cpu.txt", "requirements-embedded.txt"]."""
    return re.findall(r" -r (\S+)", dry_run)


def test_make_alone_lists_every_target_and_installs_nothing(clone):
    result = run_make(clone)
    assert result.returncode == 0
    assert re.findall(r"^make (\S+) +\S", result.stdout, re.MULTILINE) == [
        "help", "demo", "test", "test-all", "test-faults", "fuzz", "licences", "check", "mutants",
        "vllm", "llama-server", "format",
    ]  # fmt: skip
    assert not (clone / ".venv").exists()


def test_without_a_gpu_make_installs_the_requirements_without_unsloth(clone):
    put_program(clone, "nvidia-smi", "echo 'NVIDIA-SMI has failed'; exit 9")
    assert installed_files(run_make(clone, "-n", "demo").stdout) == [
        "requirements-cpu.txt",
        "requirements-embedded.txt",
    ]


def test_with_a_gpu_make_installs_unsloth_and_asks_no_cpu_index(clone):
    put_program(clone, "nvidia-smi", "echo 'GPU 0: NVIDIA T4 (UUID: GPU-1)'")
    dry_run = run_make(clone, "-n", "demo").stdout
    assert installed_files(dry_run) == ["requirements.txt", "requirements-embedded.txt"]
    assert "download.pytorch.org" not in dry_run


def test_make_demo_runs_the_three_scripts_in_order_and_checks_that_tuning_helped(clone):
    commands = re.findall(r"^\.venv/bin/python (\w+\S*\.py.*)$", run_make(clone, "-n", "demo").stdout, re.MULTILINE)
    assert commands == [
        "build_dataset.py --preset demo",
        "train.py --config recipes/demo.yaml",
        "evaluate.py --rouge",
        "benchmarks/demo_helped.py",
    ]


@pytest.mark.parametrize(("high_of_loss", "code"), [(-0.1, 0), (0.1, 1)])
def test_the_demo_fails_where_a_figure_did_not_move_for_certain(tmp_path, high_of_loss, code):
    up = {"base": 0.5, "tuned": 0.9, "low": 0.3, "high": 0.5, "higher_is_better": True}
    down = {"base": 2.0, "tuned": 1.0, "low": -1.5, "high": high_of_loss, "higher_is_better": False}
    metrics = {"topic accuracy": up, "topic accuracy (generated)": up, "eval_loss": down, "rougeL": down}
    (tmp_path / "evaluation").mkdir()
    content = json.dumps({"comparison": {"metrics": metrics}})
    (tmp_path / "evaluation" / "metrics.json").write_text(content, encoding="utf-8")
    command = [sys.executable, ROOT / "benchmarks" / "demo_helped.py", tmp_path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    verdict = "NOT better" if code else "better"
    lines = result.stdout.splitlines()
    assert result.returncode == code
    assert lines[2] == f"eval_loss                  2.000 -> 1.000  (-1.500 to {high_of_loss:+.3f})  {verdict}"
    assert json.loads(lines[3])["helped"] is (code == 0)


@pytest.mark.parametrize("target", ["demo", "test", "check"])
def test_an_old_python_is_refused_in_one_line(clone, target):
    put_program(clone, "python3.11", "exit 127")
    put_program(clone, "python3", "exit 1")
    result = run_make(clone, target)
    assert result.returncode == 2
    assert result.stderr.splitlines()[0] == (
        "make: no Python 3.11 or newer found; install one, or name it: make PYTHON=/path/to/python"
    )


def make_venv_by_hand(clone: Path) -> None:
    """A .venv whose pip notes what it is asked for and installs nothing."""
    put_program(clone, "nvidia-smi", "exit 1")
    (clone / ".venv" / "bin").mkdir(parents=True)
    (clone / ".venv" / "bin" / "python").symlink_to(clone / "bin" / "noting-python")
    put_program(clone, "noting-python", f'echo "$@" >> {clone}/asked')
    put_program(clone, "python3.11", f'[ "$1" = -c ] || echo "$@" >> {clone}/asked')


def asked_files(clone: Path) -> list[str]:
    """What pip was asked to install since the last call."""
    asked = clone / "asked"
    files = installed_files(asked.read_text(encoding="utf-8")) if asked.exists() else []
    asked.unlink(missing_ok=True)
    return files


@pytest.mark.parametrize(("answers", "options"), [("exit 0", "--extra-index-url {index} "), ("exit 1", "")])
def test_only_torch_comes_from_pytorchs_index_and_only_if_that_index_answers(clone, answers, options):
    make_venv_by_hand(clone)
    put_program(clone, "uname", "echo Linux")
    put_program(clone, "noting-python", f'if [ "$1" = -c ]; then {answers}; fi; echo "$@" >> {clone}/asked')
    result = run_make(clone, "demo")
    index = "https://download.pytorch.org/whl/cpu/"
    asked = (clone / "asked").read_text(encoding="utf-8").splitlines()
    version = next(pin.version for pin in PINS["requirements-cpu.txt"] if pin.name == "torch")
    assert result.returncode == 0
    assert [line.partition(" install ")[2] for line in asked if index in line or "torch==" in line] == [
        f"--no-compile --no-deps {options.format(index=index)}torch=={version}"
    ]
    assert (f"the CPU build of {index}" if options else "the build of your package index") in result.stdout


def set_age(path: Path, seconds: int) -> None:
    """Make a file look changed so many seconds ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_the_venv_is_made_once_and_refreshed_when_a_requirements_file_changes(clone):
    make_venv_by_hand(clone)
    for name in NAMES:
        set_age(clone / name, seconds=300)
    assert run_make(clone, "test").returncode == 0
    assert asked_files(clone) == ["requirements-cpu.txt", "requirements-embedded.txt", "requirements-dev.txt"]

    set_age(clone / ".venv" / "made", seconds=250)
    for stamp in clone.glob(".venv/*.installed"):
        set_age(stamp, seconds=200)
    assert run_make(clone, "test").returncode == 0
    assert asked_files(clone) == []

    set_age(clone / "requirements-dev.txt", seconds=100)
    assert run_make(clone, "test").returncode == 0
    assert asked_files(clone) == ["requirements-dev.txt"]

    set_age(clone / "requirements-embedded.txt", seconds=100)
    assert run_make(clone, "test").returncode == 0
    assert asked_files(clone) == ["requirements-cpu.txt", "requirements-embedded.txt"]


def test_an_installation_that_fails_is_tried_again_by_the_next_command(clone):
    make_venv_by_hand(clone)
    put_program(clone, "noting-python", f'echo "$@" >> {clone}/asked; case "$*" in *embedded*) exit 1;; esac')
    assert run_make(clone, "demo").returncode == 2
    assert asked_files(clone) == ["requirements-cpu.txt", "requirements-embedded.txt"]
    assert run_make(clone, "demo").returncode == 2
    assert asked_files(clone) == ["requirements-cpu.txt", "requirements-embedded.txt"]


# CI and the licence


def test_ci_runs_the_checks_and_the_tests_and_the_workflow_runs_the_same():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in script if line.startswith("make ")] == ["make check", "make test"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert [step["with"]["python-version"] for step in job["steps"] if "with" in step] == ["3.11"]


def test_the_licence_is_the_full_text_of_apache_2():
    # of https://www.apache.org/licenses/LICENSE-2.0.txt
    published = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == published


def test_the_tests_run_on_the_python_the_project_asks_for():
    assert sys.version_info >= (3, 11)
