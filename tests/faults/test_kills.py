"""Every command that writes is killed at points spread over all its calls that change files; the rerun ends it.

What two undisturbed runs write alike, a run that was killed and run again has to write alike, too. train.py has its own
sweep (benchmarks/kill_sweep.py, 201 points).
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.attacks_disks import write_rows
from tests.faults.commands_apart import Runner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="stops the process by ptrace"),
]
POINTS = int(os.environ.get("FAULTS_KILLS", "21"))  # of each command
Sources = dict[str, Path]


def with_run(folder: Path, sources: Sources) -> None:
    write_rows(folder)
    shutil.copytree(sources["run"], folder / "r")


def with_rows(folder: Path, sources: Sources) -> None:
    write_rows(folder)


# command -> what it starts from, what it runs, what is added to run it again, what it writes
COMMANDS: dict[str, tuple[Callable[[Path, Sources], None], str, str, str]] = {
    "build_dataset": (with_rows, "build_dataset.py --preset p.yaml --name x --data_dir d", " --resume", "d/x"),
    "inference --file": (
        with_rows, "inference.py --model {model} --max_new_tokens 2 --file rows.jsonl --output o/a.jsonl", "", "o"),
    "evaluate": (
        with_run, "evaluate.py --run r --num_samples 4 --max_new_tokens 2 --no-yardsticks", "", "r/evaluation"),
    "export": (
        with_run, "export.py --run r --merge --num_prompts 1 --max_new_tokens 2 --output_dir o", "", "o"),
    "extract_mongo": (
        with_rows,
        "extract_mongo.py --port {mongo} --database texts --collection rows -l 正常:6 --random "
        "--splits train:0.5,test:0.5 -o o/q.csv",
        "", "o"),
}  # fmt: skip


def written(folder: Path) -> dict[str, bytes]:
    """Every file below a folder; lock files are no result."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(files)}


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_anywhere_and_run_again_it_has_written_the_same(
    name: str, sources: Sources, runner: Runner, tmp_path: Path, record_property
):
    prepare, command, again, result = COMMANDS[name]
    for source, path in sources.items():
        command = command.replace(f"{{{source}}}", str(path))
    record_property("kind", "killed and run again")
    record_property("tried", POINTS)

    def start(which: object) -> Path:
        folder = tmp_path / str(which)
        folder.mkdir()
        prepare(folder, sources)
        return folder

    first, second = start("first"), start("second")
    counted = runner.run_killed(command, first)
    assert counted.code == 0
    assert runner.run(command, second).code == 0
    whole, twice = written(first / result), written(second / result)
    stable = {path: content for path, content in whole.items() if twice[path] == content}
    assert stable
    assert whole.keys() == twice.keys()

    for point in range(POINTS):
        fatal, folder = 1 + point * counted.num_calls // POINTS, start(point)
        killed = runner.run_killed(command, folder, fatal)
        assert killed.code in (-signal.SIGKILL, 0), f"call {fatal}"
        ended = runner.run(command + again, folder)
        after = written(folder / result)
        assert after.keys() == whole.keys(), f"killed before call {fatal} of {counted.num_calls}: {ended.err[-800:]}"
        changed = [path for path, content in stable.items() if after[path] != content]
        assert changed == [], f"killed before call {fatal} of {counted.num_calls}: {ended.err[-800:]}"
        left = [path.name for path in folder.rglob("*") if path.name.endswith((".partial", ".lock"))]
        assert [path for path in left if path.endswith(".partial")] == []
        shutil.rmtree(folder)
