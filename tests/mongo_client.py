"""A server of its own process for each test that needs one, ended with the test."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import bson.json_util
import pytest

from sft.console import repeat_warnings, run_command
from tests.commands import ROOT

Documents = list[dict[str, object]]
StartServer = Callable[..., int]
Finished = subprocess.CompletedProcess[str]
RunExtract = Callable[..., Finished]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """start_server(documents, user="ada", password="x", hang_up_at=[3]) -> the port of database texts.rows."""
    processes: list[subprocess.Popen[str]] = []

    def start(documents: Documents, **behaviour: object) -> int:
        path = tmp_path / f"documents-{len(processes)}.json"
        path.write_text(bson.json_util.dumps({"texts": {"rows": documents}}), encoding="utf-8")
        argument = bson.json_util.dumps({"documents": str(path), "auth_database": "texts", **behaviour})
        command = [sys.executable, str(ROOT / "tests/mongo_server.py"), argument]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return int(processes[-1].stdout.readline())

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def run_command_line(tmp_path: Path) -> RunExtract:
    """run_command_line("--port", 27017, password="x") -> the finished `python extract_mongo.py`, in an empty folder."""

    def run(*arguments: object, password: str) -> Finished:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("SFT_", "MONGO_"))}
        command = [sys.executable, str(ROOT / "extract_mongo.py"), *map(str, arguments)]
        env["MONGO_PASSWORD"] = password
        return subprocess.run(
            command, cwd=tmp_path, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
        )

    return run


@pytest.fixture
def run_extract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunExtract:
    """The same in this process, a second faster; the server stays a process of its own."""
    monkeypatch.chdir(tmp_path)
    main = runpy.run_path(str(ROOT / "extract_mongo.py"))["main"]

    def run(*arguments: object, password: str | None = None) -> Finished:
        monkeypatch.delenv("MONGO_PASSWORD", raising=False)
        if password:
            monkeypatch.setenv("MONGO_PASSWORD", password)
        code = 0
        try:
            run_command(lambda: main([str(word) for word in arguments]))
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capsys.readouterr()
        repeat_warnings()  # a command that failed has left its warnings behind
        capsys.readouterr()
        return subprocess.CompletedProcess([], code, out, err)

    return run
