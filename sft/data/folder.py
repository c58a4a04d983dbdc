"""The dataset folder data/<name>/: staged next to its final path, renamed when complete; checked against its manifest.

train.jsonl  validation.jsonl  test.jsonl  ledger.jsonl  manifest.json (last; SHA-256 of the others)
overlaps.jsonl, where sources come split by their publisher

An interrupted build leaves the old dataset unchanged: unfinished files are in data/.<name>.partial until the next
build of that name continues with it (--resume) or clears it away.
"""

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

import orjson

from sft.console import say
from sft.data.ledger import Example
from sft.data.quotas import SPLITS
from sft.data.rows.canonical import Json, Row
from sft.errors import DataError
from sft.files import flush, held, lock_of, sha256_of

MANIFEST = "manifest.json"
LEDGER = "ledger.jsonl"
FORMAT = 1  # of the manifest; a reader refuses another


class SourceEntry(TypedDict):
    """Counts of one source: read = kept + dropped + quarantined; rows written = kept + repeated."""

    kind: str
    id: str
    revision: str
    files: dict[str, str]  # name -> SHA-256
    asked: dict[str, int]  # split -> rows
    read: int
    kept: int
    dropped: dict[str, int]  # reason -> rows
    quarantined: dict[str, int]  # reason -> rows
    repeated: int  # more than once in train, by --on_shortage upsample
    written: dict[str, int]  # split -> rows
    strata: dict[str, int]  # stratum -> rows written
    examples: dict[str, Example]  # reason -> one row left out for it


class Overlap(TypedDict):
    """Rows of one published split that are in another."""

    split: str  # "test"
    other_split: str  # "train"
    rows: int  # of the split
    exact: int  # of them, those whose normalised text is in the other split
    near: int  # of the rest, those with a near duplicate there
    first: list[str]  # "chn_test-17 = chn_train-5", "chn_test-40 ~ chn_train-9 (0.87)"


class FileEntry(TypedDict):
    """One file of the folder."""

    sha256: str
    bytes: int


class Manifest(TypedDict):
    """manifest.json: the request, the result, and the hash of every other file."""

    format: int
    description: str
    seed: int
    settings: dict[str, Json]
    preset: dict[str, Json]
    splits: dict[str, int]  # split -> rows
    sources: dict[str, SourceEntry]
    files: dict[str, FileEntry]
    decontaminated: NotRequired[dict[str, str]]  # evaluation file -> SHA-256
    tasks: NotRequired[list[dict[str, object]]]  # of the rows, those that are described in words (prompts.task)
    overlaps: NotRequired[list[Overlap]]  # of sources that come split


class Staging(NamedTuple):
    """Working folder of a build: `dataset` becomes the dataset's folder, `sources` holds what --resume builds on."""

    dataset: Path
    sources: Path
    scratch: Path


@contextmanager
def stage_folder(target: Path, *, resume: bool = False) -> Iterator[Staging]:
    """Staging folders next to `target`; only one builder per name. Raises BusyError for a second one.

    `sources` keeps what an interrupted build left where `resume` says so. A build that fails leaves both behind.
    """
    with _lock_folder(target, timeout_s=0):
        _restore_interrupted(target)
        partial = target.parent / f".{target.name}.partial"
        staging = Staging(partial / "dataset", partial / "sources", partial / "scratch")
        if not resume and any(staging.sources.glob("*/finished.json")):
            say("clearing away what an interrupted build had read (--resume would use it)")
        for folder in (staging.dataset, staging.scratch) if resume else (partial,):
            shutil.rmtree(folder, ignore_errors=True)
        for folder in staging:
            folder.mkdir(parents=True, exist_ok=True)
        yield staging
        shutil.rmtree(partial, ignore_errors=True)


def publish_folder(staged: Path, target: Path, manifest: Manifest) -> None:
    """Write the manifest, flush everything to disk, and rename the folder to its final name."""
    (staged / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")
    for path in [*staged.iterdir(), staged]:
        flush(path)
    old = _old_folder(target)
    if target.exists():
        target.rename(old)
    staged.rename(target)
    flush(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Put the old dataset back where a build was killed between its two renames; else do nothing."""
    if not target.exists() and _old_folder(target).exists():
        with _lock_folder(target, timeout_s=10):  # it may also be a build that is just between them
            _restore_interrupted(target)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a dataset folder; raises DataError if it is missing or unreadable."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"{folder}: no {MANIFEST}, so no finished dataset; build it with: python build_dataset.py")
    try:
        manifest: Manifest = orjson.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise ValueError(f"format {manifest['format']}, expected {FORMAT}")
        missing = {f"{name}.jsonl" for name in SPLITS} - set(manifest["files"])
        if missing:
            raise ValueError(f"it does not list {sorted(missing)[0]}")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a dataset's manifest ({error}); build the dataset again") from None
    return manifest


def read_split(folder: Path, manifest: Manifest, name: str) -> list[Row]:
    """The rows of one split; raises DataError if the file is missing or does not match the manifest."""
    path = folder / f"{name}.jsonl"
    if not path.is_file() or sha256_of(path) != manifest["files"][path.name]["sha256"]:
        raise DataError(f"{path}: missing or changed since the dataset was built; build it again")
    with path.open("rb") as file:
        return [orjson.loads(line) for line in file]


def _old_folder(target: Path) -> Path:
    return target.parent / f".{target.name}.old"


def _restore_interrupted(target: Path) -> None:
    old = _old_folder(target)
    if old.exists() and not target.exists():
        old.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _lock_folder(target: Path, timeout_s: float) -> AbstractContextManager[None]:
    busy, advice = f"{target}: another build is writing it", "wait for it, or pass another --name"
    return held(lock_of(target), busy, advice, timeout_s=timeout_s)
