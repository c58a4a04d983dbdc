"""The real command lines, each in a process of its own that is there at once: a warm interpreter forks one per call.

with Runner() as runner:
    ended = runner.run("inspect_data.py --data rows.jsonl", folder)
    ended.code, ended.out, ended.err, ended.seconds      # 2, "", "error: rows.jsonl: ...\\n", 0.4

The interpreter has imported what the scripts import (ten seconds, once) and has used none of it: a fork of it behaves
as a fresh process does, and costs 0.01 s. A child is killed at its time limit, and may have less memory, the rights of
no root, a full disk.

    python -m tests.faults.commands_apart                # the warm interpreter: a JSON object per line, in and out
"""

import ctypes
import json
import os
import resource
import runpy
import selectors
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.commands import ROOT
from tests.system_calls import Traced, run_traced

GB = 2**30
# linux/capability.h: what lets root read and write whatever its permissions say
CAPABILITIES_VERSION, OVERRIDES = 0x20080522, (1 << 1) | (1 << 2)
HUNG = -signal.SIGKILL  # the code of a command that was still running at its limit
WARM = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "datasets",
    "pyarrow.parquet",
    "openpyxl",
    "pymongo",
    "tokenizers",
    "rich",
)
WARM_ROOMS = ("training.fit", "evaluation", "inference", "talk", "export", "data.building", "data.extraction")


@dataclass(frozen=True)
class Limits:
    """What a command is given: seconds, memory, the largest file it may write, whether permissions count for root."""

    seconds: float = 60
    memory_gb: float = 12
    file_bytes: int | None = None
    obeys_permissions: bool = False
    stdin: str = ""
    stdout: str | None = None  # a path, "/dev/full" for one
    env: dict[str, str | None] = field(default_factory=dict)  # None takes a variable away


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or minus a signal; what it printed; how long it took."""

    code: int
    out: str
    err: str
    seconds: float


class Runner:
    """The warm interpreter, seen from outside; a context manager."""

    def __enter__(self) -> "Runner":
        env = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "tests.faults.commands_apart"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def run(self, command: str, folder: Path, limits: Limits | None = None) -> Ended:
        """Run `script.py --flag value` in a folder and wait for its end."""
        asked = {"words": shlex.split(command), "folder": str(folder), "limits": asdict(limits or Limits())}
        return Ended(**self._ask(asked))

    def run_killed(self, command: str, folder: Path, fatal: int | None = None) -> Traced:
        """Run it, with SIGKILL before its call number `fatal` of those that change files; how many it made."""
        asked = {"words": shlex.split(command), "folder": str(folder), "limits": asdict(Limits()), "fatal": fatal}
        return Traced(**self._ask(asked))

    def _ask(self, asked: dict[str, object]) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


def _serve() -> None:
    """Import, then fork for each line of standard input until it ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for name in (*WARM, *(f"sft.{room}" for room in WARM_ROOMS)):
        __import__(name)
    for line in sys.stdin:
        asked = json.loads(line)
        words, folder, limits = asked["words"], Path(asked["folder"]), Limits(**asked["limits"])
        ended = (
            _run_traced(words, folder, limits, asked["fatal"])
            if "fatal" in asked
            else _run_child(words, folder, limits)
        )
        print(json.dumps(asdict(ended)), file=answers, flush=True)


def _run_child(words: list[str], folder: Path, limits: Limits) -> Ended:
    (out, out_end), (err, err_end) = os.pipe(), os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            code = _be_script(words, folder, limits, out_end, err_end)
        finally:
            os._exit(code)
    os.close(out_end)
    os.close(err_end)
    texts = _read_both(out, err, began + limits.seconds)
    if time.monotonic() > began + limits.seconds:
        os.killpg(pid, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Ended(code, *texts, seconds=round(time.monotonic() - began, 2))


def _run_traced(words: list[str], folder: Path, limits: Limits, fatal: int | None) -> Traced:
    """The same, stopped at each call that changes files; what it prints goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        return run_traced(lambda: os._exit(_be_script(words, folder, limits, nowhere, nowhere)), fatal=fatal)
    finally:
        os.close(nowhere)


def _read_both(out: int, err: int, until: float) -> list[str]:
    """What a child writes to two pipes, up to its end or the time `until`."""
    said = {out: b"", err: b""}
    with selectors.DefaultSelector() as selector:
        for end in said:
            selector.register(end, selectors.EVENT_READ)
        while selector.get_map() and (left := until - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                chunk = os.read(key.fd, 1 << 16)
                said[key.fd] += chunk
                if not chunk:
                    selector.unregister(key.fd)
    for end in said:
        os.close(end)
    return [content.decode("utf-8", "replace") for content in said.values()]


def _be_script(words: list[str], folder: Path, limits: Limits, out: int, err: int) -> int:
    """Turn this child into `python script.py ...`; its exit code."""
    os.setsid()  # what it starts is killed with it
    with tempfile.TemporaryFile() as typed:  # a pipe would have to be filled by somebody
        typed.write(limits.stdin.encode())
        typed.seek(0)
        os.dup2(typed.fileno(), 0)
    os.dup2(os.open(limits.stdout, os.O_WRONLY) if limits.stdout else out, 1)
    os.dup2(err, 2)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w", encoding="utf-8"), open(2, "w", encoding="utf-8")  # noqa: SIM115
    os.chdir(folder)
    for name, value in limits.env.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    resource.setrlimit(resource.RLIMIT_AS, (round(limits.memory_gb * GB),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits.file_bytes is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits.file_bytes,) * 2)
    if limits.obeys_permissions and os.getuid() == 0:
        _drop_overrides()
    sys.argv = [str(ROOT / words[0]), *words[1:]]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _drop_overrides() -> None:
    """Give up what lets root pass by permissions; capset(2) takes three sets (effective first) of twice 32 bits."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(CAPABILITIES_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()
    libc.capget(header, sets)
    for index in range(3):
        sets[index] &= ~OVERRIDES
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


if __name__ == "__main__":
    _serve()
