"""Opening data for training and evaluation: a dataset folder, or any single file of rows.

dataset = open_dataset("data/mixed")
len(dataset.train), dataset.train[0]["task"]         # 900, "sentiment"
"""

from dataclasses import dataclass
from pathlib import Path

from sft.console import say
from sft.data.canonical import Row, question_of
from sft.data.content import group_key
from sft.data.folder import MANIFEST, read_manifest, read_split, recover_folder
from sft.data.places import sha256_of
from sft.data.rows import BadRow, FoundRow, OnBadRow, RowReader
from sft.errors import DataError

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
        if path.suffix:
            raise DataError(f"{path}: no such file; give a dataset folder or a file of rows")
        flags = "" if path.name == "mixed" else f" --name {path.name}"
        flags += "" if path.parent.name == "data" else f" --data_dir {path.parent}"
        raise DataError(f"{path}: no such dataset; run first: python build_dataset.py --preset demo{flags}")
    rows = _read_file(path, on_bad_row)
    train, validation = split_by_content(rows, eval_ratio, seed)
    how = f"by content hash, eval_ratio {eval_ratio:g}, seed {seed}"
    return Dataset(train, validation, [], sha256_of(path), str(path), how)


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
    rows: list[Row] = []
    bad: list[BadRow] = []
    ids: set[str] = set()
    for found in reader:
        if isinstance(found, FoundRow):
            row = found.row
            row["id"] = row["id"] or f"{path.stem}-{found.line}"
            row["source"] = row["source"] or path.stem
            if row["id"] not in ids:
                ids.add(row["id"])
                rows.append(row)
                continue
            found = BadRow(found.file, found.line, "duplicate_id", f"id {row['id']!r} is given twice")
        if on_bad_row == "error":
            raise found.to_error()
        bad.append(found)
    say(reader.describe())
    for row_error in bad[:SHOWN_BAD_ROWS]:
        say(f"warning: left out {row_error.file}:{row_error.line}: {row_error.message}")
    if len(bad) > SHOWN_BAD_ROWS:
        say(f"warning: left out {len(bad)} rows in all")
    if not rows:
        raise DataError(f"{path}: no row can be used")
    return rows
