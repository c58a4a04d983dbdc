"""A staged folder is whole or not there: after an error, a kill, a full disk; what is damaged is found."""

import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sft.errors import RunError, is_full
from sft.files import (
    BusyError,
    DiskFullError,
    NotWritableError,
    adopt,
    check_disk_space,
    find_damage,
    held,
    publish,
    remove,
    seal,
    staged,
    staging,
)

BUSY = ("x: another one is running", "wait")
HOLDER = """
import sys, time
from pathlib import Path
from sft.files import held
with held(Path(sys.argv[1]), "busy", "wait"):
    print("held", flush=True)
    time.sleep(60)
"""


def write(folder: Path, content: str = "weights") -> Path:
    with staged(folder) as stage:
        (stage / "a.bin").write_text(content)
        (stage / "sub").mkdir()
        (stage / "sub/b.bin").write_text("more")
    publish(folder)
    return folder


def test_a_folder_appears_whole_under_its_name_and_nothing_else_is_left(tmp_path):
    folder = write(tmp_path / "checkpoint-1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1"]
    assert sorted(path.name for path in folder.rglob("*")) == ["a.bin", "b.bin", "manifest.json", "sub"]
    assert find_damage(folder) is None


def test_a_folder_written_again_replaces_the_old_one(tmp_path):
    write(tmp_path / "checkpoint-1", "old")
    assert (write(tmp_path / "checkpoint-1", "new") / "a.bin").read_text() == "new"
    assert find_damage(tmp_path / "checkpoint-1") is None


def test_after_an_error_there_is_nothing_and_the_old_one_is_as_it_was(tmp_path):
    write(tmp_path / "checkpoint-1", "old")

    def fail() -> None:
        with staged(tmp_path / "checkpoint-1") as stage:
            (stage / "a.bin").write_text("half")
            raise ValueError("oops")

    with pytest.raises(ValueError, match="oops"):
        fail()
    assert (tmp_path / "checkpoint-1/a.bin").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_what_a_crash_left_is_swept_away_by_the_next_save(tmp_path):
    (tmp_path / ".staged-checkpoint-1").mkdir()
    (tmp_path / ".deleted-checkpoint-0").mkdir()
    write(tmp_path / "checkpoint-2")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda folder: (folder / "a.bin").unlink(), "a.bin is missing"),
        (lambda folder: (folder / "a.bin").write_text("wei"), "a.bin has 3 of 7 bytes"),
        (lambda folder: (folder / "a.bin").write_text("weighty"), "a.bin is not what was written"),
        (lambda folder: (folder / "manifest.json").unlink(), "no manifest.json: it was not written to its end"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("[1]"), "manifest.json cannot be read"),
    ],
)
def test_damage_is_found_and_named(damage, found, tmp_path):
    folder = write(tmp_path / "checkpoint-1")
    damage(folder)
    assert find_damage(folder) == found


def test_too_little_room_is_reported_in_bytes_before_anything_is_written(tmp_path):
    write(tmp_path / "checkpoint-1")
    with pytest.raises(DiskFullError) as caught, staged(tmp_path / "checkpoint-2", num_bytes=10**18):
        pass
    assert str(caught.value).startswith(f"{tmp_path}/checkpoint-2: no room: needs 1,020,000,000,000,000,000 bytes, ")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]
    assert find_damage(tmp_path / "checkpoint-1") is None


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_disk_that_fills_while_writing_is_one_line_and_leaves_no_half_folder(kind, tmp_path):
    with pytest.raises(DiskFullError, match="no room: needs 102 bytes"), staged(tmp_path / "c", num_bytes=100):
        raise OSError(kind, os.strerror(kind))
    assert list(tmp_path.iterdir()) == []


def test_the_words_of_torch_and_safetensors_for_a_full_disk_are_known():
    assert is_full(RuntimeError("[enforce fail at inline_container.cc:664] . PytorchStreamWriter file write failed"))
    assert is_full(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not is_full(RuntimeError("shape mismatch"))
    assert not is_full(OSError(errno.EACCES, "denied"))


def test_a_half_deleted_folder_never_has_its_final_name(tmp_path, monkeypatch):
    folder = write(tmp_path / "checkpoint-1")
    monkeypatch.setattr("sft.files.shutil.rmtree", lambda *args, **kwargs: None)  # killed while deleting
    remove(folder)
    assert [path.name for path in tmp_path.iterdir()] == [".deleted-checkpoint-1"]


def test_the_rename_is_the_last_thing_and_everything_is_flushed_before_it(tmp_path, monkeypatch):
    events = []
    fsync, rename = os.fsync, Path.rename
    monkeypatch.setattr("sft.files.os.fsync", lambda fd: (events.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(Path, "rename", lambda self, to: (events.append("rename"), rename(self, to))[1])
    stage = tmp_path / ".staged-c"
    (stage / "sub").mkdir(parents=True)
    (stage / "sub/a.bin").write_text("x")
    seal(stage)
    publish(tmp_path / "c")
    assert events == [
        f"{stage}/sub",
        f"{stage}/sub/a.bin",
        f"{stage}/manifest.json",
        str(stage),
        "rename",
        str(tmp_path),
    ]


# Between sealed and published


def test_what_was_sealed_gets_its_name_by_adoption_and_what_was_not_does_not(tmp_path):
    for name, content in (("whole", "new"), ("cut", "new"), ("rotten", "new")):
        with staged(tmp_path / name / "checkpoint-2") as stage:
            (stage / "a.bin").write_text(content)
    (tmp_path / "cut/.staged-checkpoint-2/manifest.json").unlink()
    (tmp_path / "rotten/.staged-checkpoint-2/a.bin").write_text("old")
    assert adopt(tmp_path / "whole") == [tmp_path / "whole/checkpoint-2"]
    assert find_damage(tmp_path / "whole/checkpoint-2") is None
    assert adopt(tmp_path / "cut") == adopt(tmp_path / "rotten") == adopt(tmp_path / "nowhere") == []
    assert not (tmp_path / "cut/checkpoint-2").exists()


def test_what_cannot_be_flushed_never_gets_its_name(tmp_path, monkeypatch):
    with staged(tmp_path / "c", num_bytes=100) as stage:
        (stage / "a.bin").write_text("x")

    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("sft.files.os.fsync", fail)
    with pytest.raises(DiskFullError, match="no room: needs 102 bytes"):
        publish(tmp_path / "c", num_bytes=100)
    assert list(tmp_path.iterdir()) == []  # nor is it adopted later: the kernel tells of lost pages once


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_get_the_permissions_of_the_umask_whatever_wrote_them(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with staged(tmp_path / "folder") as stage:
            save_file({"weight": torch.zeros(2)}, stage / "model.safetensors")  # makes it 0600
        publish(tmp_path / "folder")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "folder").iterdir()} == {mode}


def test_the_staged_folder_replaces_the_old_one(tmp_path):
    target = tmp_path / "export"
    for content in ("old", "new"):
        with staging(target) as stage:
            (stage / "merged").mkdir()
            (stage / "merged" / f"{content}.safetensors").write_text(content)
            (stage / "gguf").mkdir()
            (stage / "gguf" / f"{content}.gguf").write_text(content)
            (stage / "export.json").write_text(content)
    files = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    assert files == ["export.json", "gguf/new.gguf", "gguf/old.gguf", "merged/new.safetensors"]
    assert (target / "export.json").read_text() == "new"


def test_a_failed_export_leaves_what_was_there_and_nothing_new(tmp_path):
    target = tmp_path / "export"
    target.mkdir()
    (target / "export.json").write_text("before")

    def fail(where):
        with staging(where) as stage:
            (stage / "export.json").write_text("after")
            raise RunError("differs")

    with pytest.raises(RunError, match=r"^differs$"):
        fail(target)
    assert [path.name for path in target.rglob("*")] == ["export.json"]
    assert (target / "export.json").read_text() == "before"
    with pytest.raises(RunError, match=r"^differs$"):
        fail(tmp_path / "fresh")
    assert not (tmp_path / "fresh").exists()


def test_what_a_killed_export_left_behind_is_removed_by_the_next(tmp_path):
    (tmp_path / ".unfinished-abc" / "merged").mkdir(parents=True)
    with staging(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_exports_to_one_folder_are_refused(tmp_path):
    with staging(tmp_path), pytest.raises(BusyError, match="another export is writing here"), staging(tmp_path):
        pass


def test_a_disk_too_small_is_refused_with_both_figures(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 10_000_000_000))
    check_disk_space(tmp_path / "not" / "there" / "yet", 9_000_000_000)
    with pytest.raises(RunError, match=r"/yet: 15\.8 GB needed, 10\.0 GB free; make room, or give --output_dir"):
        check_disk_space(tmp_path / "not" / "there" / "yet", 15_000_000_000)


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
        refusal = pytest.raises(BusyError, match=r"^x: another one is running \(.*\); wait$")
        with held(path, *BUSY), refusal, held(path, *BUSY):
            pass
        assert list(tmp_path.iterdir()) == []


def test_a_second_process_learns_who_holds_the_lock_since_when(holder, tmp_path):
    with pytest.raises(BusyError) as caught, held(tmp_path / "new" / ".lock", *BUSY):
        pass
    who = f"process {holder.pid} on {re.escape(socket.gethostname())}"
    assert re.fullmatch(
        rf"x: another one is running \({who}, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\); wait", str(caught.value)
    )


def test_a_killed_holder_locks_nobody_out(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert (tmp_path / "new" / ".lock").exists()  # what it left
    with held(tmp_path / "new" / ".lock", *BUSY):
        pass


@pytest.mark.parametrize("host", ["ada", socket.gethostname()])
def test_a_lock_left_by_another_machine_is_reported(host, tmp_path, capsys):
    path = tmp_path / ".lock"
    path.write_text(json.dumps({"pid": 7, "host": host, "since": "2026-12-01 10:00:00"}))
    with held(path, *BUSY):
        pass
    told = (
        f"WARNING {path}: signed by another machine (process 7 on ada, since 2026-12-01 10:00:00) but not locked; "
        "if that process still runs, locks do not bind two machines here: stop one of them\n"
    )
    assert capsys.readouterr().err == (told if host == "ada" else "")


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


def test_a_folder_where_no_file_can_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / ".lock", tmp_path / "file" / "below" / ".lock", Path("/proc/nowhere/.lock")):
        line = r": cannot be written to \(.*\); free it, or name another place$"
        with pytest.raises(NotWritableError, match=line), held(path, *BUSY):
            pass


def test_a_file_system_without_locks_gives_a_warning_and_the_work_continues(tmp_path, monkeypatch, capsys):
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("sft.files.fcntl.flock", no_locks)
    with held(tmp_path / ".lock", *BUSY):
        pass
    line = f"WARNING {tmp_path}: this file system knows no locks; see to it that nothing else writes there\n"
    assert capsys.readouterr().err == line
