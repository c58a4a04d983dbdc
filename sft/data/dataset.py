"""Opening data for training and evaluation: a dataset folder, or any single file of rows.

dataset = open_dataset("data/mixed")
len(dataset.train), dataset.train[0]["task"]         # 900, "sentiment"
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from sft.console import say
from sft.data.canonical import Row, question_of
from sft.data.content import group_key
from sft.data.folder import MANIFEST, read_manifest, read_split, recover_folder
from sft.data.places import sha256_of
from sft.data.preset import make_source
from sft.data.records import READABLE
from sft.data.registry import known_names
from sft.data.rows import BadRow, FoundRow, OnBadRow, RowReader
from sft.errors import DataError, nearest_name

SHOWN_BAD_ROWS = 5


@dataclass(frozen=True)
class Dataset:
    """Rows of the three splits, and what identifies them in a run: the hash, and how the split came about."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    sha256: str  # of the manifest, which holds the hash of every file; or of the single file
    path: str
    split: str  # "as built", or "by content hash, eval_ratio 0.1, seed 42"


def open_dataset(
    path: str | Path, *, eval_ratio: float = 0.1, seed: int = 42, on_bad_row: OnBadRow = "error"
) -> Dataset:
    """A dataset folder as it was built, its hashes checked; or one file in any accepted form, split by content hash.

    A name of the registry (recipes/datasets.yaml, or the user's own) is read and split like a file.
    A single file gives train and validation (`eval_ratio` of its rows, rows that ask the same on one side) and no test.
    Raises DataError where there is nothing, where a hash differs, and for bad rows unless they are quarantined.
    """
    path = Path(path)
    recover_folder(path)
    if path.is_dir():
        manifest = read_manifest(path)
        train, validation, test = (read_split(path, manifest, name) for name in ("train", "validation", "test"))
        return Dataset(train, validation, test, sha256_of(path / MANIFEST), str(path), "as built")
    if not path.exists():
        if str(path) in known_names():
            return _open_named(str(path), eval_ratio, seed, on_bad_row)
        raise _explain_missing(path)
    rows = _read_file(path, on_bad_row)
    train, validation = split_by_content(rows, eval_ratio, seed)
    how = f"by content hash, eval_ratio {eval_ratio:g}, seed {seed}"
    return Dataset(train, validation, [], sha256_of(path), str(path), how)


def _explain_missing(path: Path) -> DataError:
    if path.suffix in READABLE:
        return DataError(f"{path}: no such file; give a dataset folder or a file of rows")
    if len(path.parts) == 2 and not path.is_absolute() and path.parent.name != "data" and not path.parent.exists():
        return DataError(
            f"{path}: no such folder here; if it is a data set of the Hugging Face hub, name it in datasets.yaml "
            f"({path.name}: {{kind: hub, id: {path}}}) and pass --data {path.name}"
        )
    if near := nearest_name(str(path), known_names()):
        return DataError(f"{path}: no such folder, file or name of recipes/datasets.yaml{near}")
    flags = "" if path.name == "mixed" else f" --name {path.name}"
    flags += "" if path.parent.name == "data" else f" --data_dir {path.parent}"
    return DataError(f"{path}: no such dataset; run first: python build_dataset.py --preset demo{flags}")


def _open_named(name: str, eval_ratio: float, seed: int, on_bad_row: OnBadRow) -> Dataset:
    """A data set of the registry, all its rows, split like a single file. Its hash is that of its canonical rows."""
    source = make_source(name)
    rows = _take_rows(_number_rows(source.read(), name), name, name, source.on_bad_row or on_bad_row)
    train, validation = split_by_content(rows, eval_ratio, seed)
    digest = hashlib.sha256()
    for row in rows:
        digest.update(orjson.dumps(row, option=orjson.OPT_SORT_KEYS))
    origin = source.origin()
    how = f"{origin.id} at {origin.revision}, by content hash, eval_ratio {eval_ratio:g}, seed {seed}"
    return Dataset(train, validation, [], digest.hexdigest(), name, how)


def _number_rows(found_rows: Iterable[FoundRow | BadRow], name: str) -> Iterator[FoundRow | BadRow]:
    """Ids by the order of reading, as a build gives them: a source may have several parts that all begin at 1."""
    for number, found in enumerate(found_rows, start=1):
        if isinstance(found, FoundRow):
            found.row["id"] = f"{name}-{number}"
        yield found


def split_by_content(rows: list[Row], eval_ratio: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Train and validation rows, each in the order of the file; the groups of lowest seeded key are validation.

    Whole groups are taken until round(rows * eval_ratio) is reached, at least one row where the ratio is above 0.
    Raises DataError where nothing would be left to train on.
    """
    keys = [group_key(question_of(row), seed) for row in rows]
    wanted = max(1, round(len(rows) * eval_ratio)) if eval_ratio > 0 else 0
    sizes: dict[int, int] = {}
    for key in keys:
        sizes[key] = sizes.get(key, 0) + 1
    held_out: set[int] = set()
    taken = 0
    for key in sorted(sizes):
        if taken >= wanted:
            break
        held_out.add(key)
        taken += sizes[key]
    if taken == len(rows):
        raise DataError(f"{len(rows)} rows of {len(sizes)} different texts leave none to train on; add rows")
    train = [row for row, key in zip(rows, keys, strict=True) if key not in held_out]
    return train, [row for row, key in zip(rows, keys, strict=True) if key in held_out]


def _read_file(path: Path, on_bad_row: OnBadRow) -> list[Row]:
    reader = RowReader(path)
    rows = _take_rows(reader, path.stem, str(path), on_bad_row)
    say(reader.describe())
    return rows


def _take_rows(found_rows: Iterable[FoundRow | BadRow], name: str, shown_as: str, on_bad_row: OnBadRow) -> list[Row]:
    """Every row with its id and source, NAME-17 of NAME where it brings none; what cannot be used is told or raised."""
    rows: list[Row] = []
    bad: list[BadRow] = []
    ids: set[str] = set()
    for found in found_rows:
        if isinstance(found, FoundRow):
            row = found.row
            row["id"] = row["id"] or f"{name}-{found.line}"
            row["source"] = row["source"] or name
            if row["id"] not in ids:
                ids.add(row["id"])
                rows.append(row)
                continue
            found = BadRow(found.file, found.line, "duplicate_id", f"id {row['id']!r} is given twice")
        if on_bad_row == "error":
            raise found.to_error()
        bad.append(found)
    for row_error in bad[:SHOWN_BAD_ROWS]:
        say(f"warning: left out {row_error.file}:{row_error.line}: {row_error.message}")
    if len(bad) > SHOWN_BAD_ROWS:
        say(f"warning: left out {len(bad)} rows in all")
    if not rows:
        raise DataError(f"{shown_as}: no row can be used")
    return rows
