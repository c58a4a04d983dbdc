"""One writer at a time: who comes second is told who is at work, and a kill leaves nothing that locks."""

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sft.locks import BusyError, NotWritableError, held

BUSY = ("x: another one is at work", "wait")
HOLDER = """
import sys, time
from pathlib import Path
from sft.locks import held
with held(Path(sys.argv[1]), "busy", "wait"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock until it is killed."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "new" / ".lock")]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_one_at_a_time_and_the_next_one_after_it(tmp_path):
    path = tmp_path / ".lock"
    for _ in range(2):
        refusal = pytest.raises(BusyError, match=r"^x: another one is at work \(.*\); wait$")
        with held(path, *BUSY), refusal, held(path, *BUSY):
            pass
        assert list(tmp_path.iterdir()) == []


def test_who_comes_second_is_told_who_holds_it_since_when(holder, tmp_path):
    with pytest.raises(BusyError) as caught, held(tmp_path / "new" / ".lock", *BUSY):
        pass
    who = f"process {holder.pid} on {re.escape(socket.gethostname())}"
    assert re.fullmatch(
        rf"x: another one is at work \({who}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\); wait", str(caught.value)
    )


def test_a_killed_holder_locks_nobody_out(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "new" / ".lock").exists()  # what it left
    with held(tmp_path / "new" / ".lock", *BUSY):
        pass


def test_who_is_willing_to_wait_gets_it_when_it_is_free_and_never_two_hold_it(tmp_path):
    inside, most, done = 0, 0, []

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with held(tmp_path / ".lock", *BUSY, timeout_s=60):
                inside += 1
                most = max(most, inside)
                inside -= 1
        done.append(True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(done), most) == (4, 1)


def test_a_place_where_no_file_can_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / ".lock", tmp_path / "file" / "below" / ".lock", Path("/proc/nowhere/.lock")):
        line = r": cannot be written to \(.*\); free it, or name another place$"
        with pytest.raises(NotWritableError, match=line), held(path, *BUSY):
            pass


def test_a_file_system_without_locks_is_told_of_and_the_work_goes_on(tmp_path, monkeypatch, capsys):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("sft.locks.fcntl.flock", no_locks)
    with held(tmp_path / ".lock", *BUSY):
        pass
    line = f"WARNING {tmp_path}: this file system knows no locks; see to it that nothing else writes there\n"
    assert capsys.readouterr().err == line
