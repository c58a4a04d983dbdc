"""Folders that are whole or not there: written aside, flushed to the disk, a manifest of checksums last, then renamed.

with staged(Path("checkpoints/checkpoint-50"), num_bytes=9_000_000) as stage:
    (stage / "weights").write_bytes(...)
find_damage(Path("checkpoints/checkpoint-50"))      # None, or "optimizer.pt has 1,024 of 2,048 bytes"
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from sft.errors import UserError

MANIFEST = "manifest.json"
STAGE_PREFIX, DELETED_PREFIX = ".staged-", ".deleted-"
CHUNK_BYTES = 1 << 22
NUM_THREADS = 8
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SPARE = 1.02  # tokenizer, configuration and the file system's own needs, beside the tensors


class DiskFullError(UserError):
    """A folder that does not fit: `checkpoints/checkpoint-50: needs 9,000,000 bytes, 1,024 are free; ...`"""


@contextmanager
def staged(folder: Path, *, num_bytes: int = 0) -> Iterator[Path]:
    """A new folder to fill; at the end it is whole under its name, after an error or a crash it is not there.

    num_bytes: what will be written at least. Raises DiskFullError where that is not free, before or while writing.
    """
    stage = begin_stage(folder, num_bytes=num_bytes)
    try:
        yield stage
        finish_stage(stage, folder)
    except Exception as error:
        shutil.rmtree(stage, ignore_errors=True)
        if is_full(error):
            raise DiskFullError(_explain(folder, num_bytes)) from None
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def begin_stage(folder: Path, *, num_bytes: int = 0) -> Path:
    """An empty folder beside the one to come; what a crash left of an earlier attempt is removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(folder.parent)
    if shutil.disk_usage(folder.parent).free < num_bytes * SPARE:
        raise DiskFullError(_explain(folder, num_bytes))
    stage = folder.with_name(STAGE_PREFIX + folder.name)
    stage.mkdir()
    return stage


def finish_stage(stage: Path, folder: Path) -> None:
    """Checksums of all files into the manifest, everything flushed to the disk, then the rename that makes it count."""
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    with ThreadPoolExecutor(NUM_THREADS) as pool:  # hashing and waiting for the disk overlap, and both leave the GIL
        flushes = [pool.submit(_flush, path) for path in files]
        sums = list(pool.map(_hash, files))
        for flush in flushes:
            flush.result()
    entries = {
        str(path.relative_to(stage)): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(files, sums, strict=True)
    }
    manifest = stage / MANIFEST
    manifest.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    for path in [manifest, *(path for path in stage.rglob("*") if path.is_dir()), stage]:
        _flush(path)
    if folder.exists():  # a step that was saved before, and is done again
        remove(folder)
    stage.rename(folder)
    _flush(folder.parent)


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
            if _hash(path) != entry["sha256"]:
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


def _explain(folder: Path, num_bytes: int) -> str:
    free = shutil.disk_usage(folder.parent).free
    needed = f"needs {round(num_bytes * SPARE):,} bytes, " if num_bytes else ""
    return (
        f"{folder}: no room: {needed}{free:,} are free (a quota may allow less); what was saved before is as it was. "
        "Make room, or lower --save_total_limit, and go on"
    )


def _hash(path: Path) -> str:
    sha = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
