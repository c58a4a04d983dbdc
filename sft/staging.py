"""Folders that are whole or not there: written aside, sealed with checksums, flushed to the disk, then renamed.

with staged(Path("checkpoints/checkpoint-50"), num_bytes=9_000_000) as stage:
    (stage / "weights").write_bytes(...)            # sealed at the end: a kill loses nothing of it any more
publish(Path("checkpoints/checkpoint-50"))          # flushed and renamed: a power cut neither; it may run in a thread
find_damage(Path("checkpoints/checkpoint-50"))      # None, or "optimizer.pt has 1,024 of 2,048 bytes"
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import xxhash

from sft.errors import UserError

MANIFEST = "manifest.json"
CHECKSUM = "xxh3_128"  # 128 bits against torn and rotten bytes, 8 times as fast as SHA-256; no shield against forgery
STAGE_PREFIX, DELETED_PREFIX = ".staged-", ".deleted-"
CHUNK_BYTES = 1 << 20
NUM_THREADS = 8
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SPARE = 1.02  # tokenizer, configuration and the file system's own needs, beside the tensors


class DiskFullError(UserError):
    """A folder that does not fit: `checkpoints/checkpoint-50: needs 9,000,000 bytes, 1,024 are free; ...`"""


@contextmanager
def staged(folder: Path, *, num_bytes: int = 0) -> Iterator[Path]:
    """A new folder to fill, which gets its name by publish(); after an error it is not there.

    num_bytes: what will be written at least. Raises DiskFullError where that is not free, before or while writing.
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
    """An empty folder beside the one to come; what a crash left of an earlier attempt is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    if shutil.disk_usage(folder.parent).free < num_bytes * SPARE:
        raise DiskFullError(_explain(folder, num_bytes))
    stage = _stage_of(folder)
    stage.mkdir()
    return stage


def seal(stage: Path) -> None:
    """Length and checksum of every file, into the manifest: from here on adopt() can tell that it is whole."""
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    with ThreadPoolExecutor(NUM_THREADS) as pool:  # hashing leaves the GIL
        sums = list(pool.map(checksum, files))
    entries = {
        str(path.relative_to(stage)): {"bytes": path.stat().st_size, CHECKSUM: digest}
        for path, digest in zip(files, sums, strict=True)
    }
    (stage / MANIFEST).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    apply_umask(stage)


def apply_umask(folder: Path) -> None:
    """Give all files below a folder the permissions that the umask asks for; safetensors makes its own as 0600."""
    umask = os.umask(0o077)  # there is no reading it without setting it; for that moment nobody else may read
    os.umask(umask)
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o666 & ~umask)


def publish(folder: Path, *, num_bytes: int = 0) -> None:
    """Flush what was sealed to the disk, then give it its name: what has the name is there after a power cut, too.

    num_bytes: for the message of the DiskFullError that is raised where the disk, asked now, has no room after all.
    """
    stage = _stage_of(folder)
    manifest = stage / MANIFEST
    content = sorted(path for path in stage.rglob("*") if path != manifest)  # files, and folders below
    try:
        with _told_in_bytes(folder, num_bytes):
            for path in [*content, manifest, stage]:
                _flush(path)
    except Exception:  # after an error the next flush may say that all is well (https://lwn.net/Articles/752063/)
        shutil.rmtree(stage, ignore_errors=True)
        raise
    if folder.exists():  # a step that was saved before, and is done again
        remove(folder)
    stage.rename(folder)
    _flush(folder.parent)


def adopt(parent: Path) -> list[Path]:
    """Publish what was sealed in this folder when its process was killed; the folders that have their name now."""
    whole = [stage for stage in sorted(parent.glob(f"{STAGE_PREFIX}*")) if find_damage(stage) is None]
    folders = [stage.with_name(stage.name.removeprefix(STAGE_PREFIX)) for stage in whole]
    for folder in folders:
        publish(folder)
    return folders


def find_damage(folder: Path) -> str | None:
    """What is wrong with a folder that was staged: a file gone, of another length, or of other bytes; None: nothing."""
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
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
    """Delete a folder; one that is half deleted never stands under its own name."""
    aside = folder.with_name(DELETED_PREFIX + folder.name)
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove what a crash left beside the whole folders."""
    for path in [*parent.glob(f"{STAGE_PREFIX}*"), *parent.glob(f"{DELETED_PREFIX}*")]:
        shutil.rmtree(path, ignore_errors=True)


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk, a quota or a limit is full; safetensors and torch wrap the system's own."""
    if isinstance(error, OSError):
        return error.errno in FULL
    text = str(error).lower()
    return any(sign in text for sign in ("no space left", "quota exceeded", "file too large", "os error 28")) or (
        isinstance(error, RuntimeError) and ("file write failed" in text or "unexpected pos" in text)
    )


@contextmanager
def told_when_full(folder: Path, command: str) -> Iterator[None]:
    """Raise DiskFullError for what else finds the disk full while it writes below a folder; command: what goes on."""
    try:
        yield
    except Exception as error:
        if not is_full(error) or isinstance(error, DiskFullError):
            raise
        line = (
            f"{folder}: no room on the disk; what was saved before is as it was. Make room, and go on with: {command}"
        )
        raise DiskFullError(line) from None


def _explain(folder: Path, num_bytes: int) -> str:
    free = shutil.disk_usage(folder.parent).free
    needed = f"needs {round(num_bytes * SPARE):,} bytes, " if num_bytes else ""
    return (
        f"{folder}: no room: {needed}{free:,} are free (a quota may allow less); what was saved before is as it was. "
        "Make room, or lower --save_total_limit, and go on"
    )


def _stage_of(folder: Path) -> Path:
    return folder.with_name(STAGE_PREFIX + folder.name)


@contextmanager
def _told_in_bytes(folder: Path, num_bytes: int) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_full(error):
            raise DiskFullError(_explain(folder, num_bytes)) from None
        raise


def checksum(path: Path) -> str:
    """xxh3_128 of a file's bytes, 32 hexadecimal digits."""
    sum_so_far, chunk = xxhash.xxh3_128(), memoryview(bytearray(CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while num_bytes := file.readinto(chunk):
            sum_so_far.update(chunk[:num_bytes])
    return sum_so_far.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
