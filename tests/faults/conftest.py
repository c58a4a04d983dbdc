"""What the fault suite stands on: the warm interpreter, the runs that are spoilt, and the table of what was tried.

pytest tests/faults --table docs/reliability.md      # writes the table when all is done; so does `make test-faults`
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from tests.commands import ROOT
from tests.faults.attacks_disks import SOURCES
from tests.faults.commands_apart import Runner

BEFORE = Path(__file__).with_name("failed_before.json")  # kind -> attacks that failed on the commits that it names
FUZZED = Path(__file__).with_name("fuzzed.json")  # what was fuzzed for minutes -> inputs, minutes and the last day
SUMMARY = """# Reliability: what was tried against the commands

Written by `make test-faults`, which runs all of it again (tests/faults; a slice runs in `make test`). Each attack is
one entry of a list there. The rule that an attack has to hold: the command ends in time with exit code 2 and one line
on stderr that says what, where and what to do next; no traceback, nothing half-written, nothing run, no secret shown.
What can be used as it stands may also be used.

"Failed before" are attacks of these very lists that failed when they were first tried ({commits}).

| kind | tried | held | failed before | failed now |
| --- | ---: | ---: | ---: | ---: |
"""
FUZZING = """
Fuzzing for minutes (`make fuzz MINUTES=6`), added up over all runs. What it found is mended and an attack above, or a
test of its room; a short slice of it is in the table above.

| fuzzed | inputs | minutes | until |
| --- | ---: | ---: | --- |
"""
ENDING = """
Not covered: two machines that write one shared folder. The locks are flock(2), which binds the processes of one
machine; between machines it is as good as the file server makes it, and on NFS without lockd, or on some cloud mounts,
it is only advice. Folders and files that two machines write at the same time need a name for each machine.
"""
counts: dict[str, dict[str, int]] = defaultdict(lambda: {"tried": 0, "held": 0})


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", type=Path, help="write what was tried and what held to this file")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Count by kind; a test of many attacks says how many (record_property)."""
    said = dict(report.user_properties)
    if "fuzzed" in said and report.when == "teardown" and "FAULTS_SECONDS" in os.environ:
        _add_fuzzed(*json.loads(str(said["fuzzed"])))
    if "kind" in said and (report.when == "call" or report.failed):
        counts[str(said["kind"])]["tried"] += int(said.get("tried", 1))
        counts[str(said["kind"])]["held"] += 0 if report.failed else int(said.get("tried", 1))


def _add_fuzzed(what: str, inputs: int, seconds: float) -> None:
    """Add a long run to those before it; one that ended in a finding counts, too."""
    known = json.loads(FUZZED.read_text(encoding="utf-8")) if FUZZED.exists() else {}
    before = known.get(what, {"inputs": 0, "minutes": 0})
    known[what] = {
        "inputs": before["inputs"] + inputs,
        "minutes": round(before["minutes"] + seconds / 60, 2),
        "until": f"{date.today()}",
    }
    FUZZED.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def pytest_sessionfinish(session: pytest.Session) -> None:
    table = session.config.getoption("--table")
    if table is None or hasattr(session.config, "workerinput"):
        return
    before = json.loads(BEFORE.read_text(encoding="utf-8"))
    everything = {name: sum(count[name] for count in counts.values()) for name in ("tried", "held")}
    failed_before = before["failed"] | {"all": sum(before["failed"].values())}
    rows = [
        f"| {kind} | {tried:,} | {held:,} | {failed_before.get(kind, 0):,} | {tried - held:,} |"
        for kind, (tried, held) in [
            (kind, count.values()) for kind, count in [*sorted(counts.items()), ("all", everything)]
        ]
    ]
    head = SUMMARY.format(commits=before["commits"])
    table.write_text("\n".join([head + rows[0], *rows[1:], write_fuzzed()]) + ENDING, encoding="utf-8")


def write_fuzzed() -> str:
    """The table of fuzzed.json."""
    fuzzed = json.loads(FUZZED.read_text(encoding="utf-8"))
    fuzzed["all"] = {name: sum(each[name] for each in fuzzed.values()) for name in ("inputs", "minutes")}
    fuzzed["all"]["until"] = max(each["until"] for each in fuzzed.values() if "until" in each)
    rows = [
        f"| {what} | {each['inputs']:,} | {each['minutes']:.0f} | {each['until']} |" for what, each in fuzzed.items()
    ]
    return FUZZING + "\n".join(rows) + "\n"


@pytest.fixture(scope="session")
def mongo_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A MongoDB server with texts that spreadsheets would run; its port."""
    documents = tmp_path_factory.mktemp("mongo") / "documents.json"
    rows = [{"_id": i, "text_cn": f"=HYPERLINK({i})", "n_labels": "正常"} for i in range(9)]
    documents.write_text(json.dumps({"texts": {"rows": rows}}), encoding="utf-8")
    command = [sys.executable, str(ROOT / "tests/mongo_server.py"), json.dumps({"documents": str(documents)})]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield server.stdout.readline().strip()
        server.kill()


@pytest.fixture(scope="session")
def sources(tiny_model_folder: Path, tiny_run: Path, head_run: Path, mongo_port: str) -> dict[str, Path]:
    """What attacks copy and spoil, and name in their commands: {"model": a folder, ..., "mongo": a port}."""
    SOURCES.update(model=tiny_model_folder, run=tiny_run, head=head_run)
    return SOURCES | {"mongo": Path(mongo_port)}


@pytest.fixture(scope="session")
def runner() -> Iterator[Runner]:
    """The warm interpreter."""
    with Runner() as running:
        yield running
