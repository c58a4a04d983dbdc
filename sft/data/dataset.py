"""Opening data for training and evaluation: a dataset folder, or any single file of rows.

dataset = open_dataset("data/mixed")
len(dataset.train), dataset.train[0]["task"]         # 900, "sentiment"
"""

import collections
import csv
import hashlib
import io
import itertools
import random
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import orjson

from prompts.task import is_blank, label_key
from prompts.tasks import get_task
from sft.console import say, warn
from sft.data.building.candidates import join_sides
from sft.data.building.preset import make_source, preset_names
from sft.data.files.opening import is_packed, kind_of_file
from sft.data.files.reader import READABLE, BadRow, FoundRow, OnBadRow, RowReader, nearest_file
from sft.data.files.tables import declared_classes
from sft.data.folder import MANIFEST, read_manifest, read_split, recover_folder
from sft.data.named_files import by_split, find_files, hash_files, is_built, names_files
from sft.data.rows.canonical import Row, answer_of, asked_of, group_key, thread_of
from sft.data.rows.reading import Reading, make_reading, restore_tasks, with_declared_labels
from sft.data.rows.recognised import LABELS_KEPT, Recognised, check_numbers
from sft.data.sources.registry import known_names
from sft.errors import ConfigError, DataError, nearest_name
from sft.files import sha256_of

if TYPE_CHECKING:
    from sft.config.train import TrainSettings

SHORTEST_PARTED = 200  # characters of a document whose end may be held out
SHOWN_BAD_ROWS = 5
SHOWN_LABELS = 8
READ_ON = 10_000  # rows read after an unknown label, to name all unknown ones


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
    path: str | Path,
    *,
    eval_ratio: float = 0.1,
    seed: int = 42,
    on_bad_row: OnBadRow = "error",
    reading: Reading | None = None,
    validation_data: str | None = None,
    test_data: str | None = None,
    max_samples: int | None = None,
) -> Dataset:
    """A dataset folder as it was built, its hashes checked; or files in any accepted form, split by content hash.

    `path` names one file, a folder of them, a pattern, or several with commas between (sft/data/named_files.py); a
    name of the registry (recipes/datasets.yaml, or the user's own) is read and split like a file. Files give train and
    validation (`eval_ratio` of the rows, rows that ask the same on one side) and no test, unless their names or
    `validation_data` and `test_data` say which rows those are. max_samples: at most this many rows of train and of
    validation, drawn by the seed after the split. `reading` says what a file's columns leave open. Raises DataError if
    there is nothing, where a hash differs, and for bad rows unless they are quarantined; ConfigError for a reading of
    what was read already.
    """
    path, reading = Path(path), reading or Reading()
    recover_folder(path)
    if is_built(path) or (path.is_dir() and not any(path.iterdir())):
        if flags := reading.flags():
            raise ConfigError(
                f"{', '.join(flags)}: {path} is a built dataset, whose rows are read; give them to the build"
            )
        manifest = read_manifest(path)
        if given := _first_given(validation_data=validation_data, test_data=test_data):
            raise ConfigError(f"--{given}: {path} is a built dataset, which has its splits; leave it out")
        restore_tasks(manifest.get("tasks", []))
        train, validation, test = (read_split(path, manifest, name) for name in ("train", "validation", "test"))
        whole = Dataset(train, validation, test, sha256_of(path / MANIFEST), str(path), "as built")
        return _draw(whole, max_samples, seed)
    if not names_files(path):
        if str(path) in known_names():
            if flags := reading.flags():
                raise ConfigError(
                    f"{', '.join(flags)}: {path} is a name of a registry; write them into its entry there"
                )
            if given := _first_given(validation_data=validation_data, test_data=test_data):
                raise ConfigError(
                    f"--{given}: {path} is a name from a registry, alone; give only files, or mix with a preset"
                )
            return _draw(_open_named(str(path), eval_ratio, seed, on_bad_row), max_samples, seed)
        raise _explain_missing(path)
    parts = find_parts(path, validation_data, test_data)
    ids: set[str] = set()
    rows = {
        split: [row for file in files for row in _read_file(file, on_bad_row, reading, ids)]
        for split, files in parts.items()
    }
    _warn_of_conflicts(path, rows["train"], seed)
    how = f"by content hash, eval_ratio {eval_ratio:g}, seed {seed}"
    if "validation" in rows:
        train, validation, how = rows["train"], rows["validation"], "as given"
    else:
        train, validation = split_by_content(rows["train"], eval_ratio, seed)
    if len(parts["train"]) > 1:
        say(f"{path}: {len(rows['train']):,} rows of {len(parts['train']):,} files")
    test = rows.get("test", [])
    if len(parts) > 1:
        counts = {"train": len(train), "validation": len(validation), "test": len(test)}
        say(", ".join(f"{split} {count:,} rows" for split, count in counts.items() if count) + f"; validation {how}")
        _warn_of_repeats(train, {"validation": rows.get("validation", []), "test": test}, seed)
    return _draw(Dataset(train, validation, test, hash_files(parts), str(path), how), max_samples, seed)


def open_dataset_of(
    settings: "TrainSettings",
    *,
    eval_ratio: float | None = None,
    seed: int | None = None,
    on_bad_row: OnBadRow | None = None,
) -> Dataset:
    """The dataset that the settings of a run name, read and split as they say; raises as open_dataset."""
    return open_dataset(
        settings.data,
        eval_ratio=settings.eval_ratio if eval_ratio is None else eval_ratio,
        seed=settings.split_seed if seed is None else seed,
        on_bad_row=on_bad_row or settings.on_bad_row,
        reading=reading_of(settings),
        validation_data=settings.validation_data,
        test_data=settings.test_data,
        max_samples=settings.max_samples,
    )


def find_parts(path: str | Path, validation_data: str | None, test_data: str | None) -> dict[str, list[Path]]:
    """The files of each split that is given: {"train": [Path("a.jsonl")]} where nothing says more.

    Raises DataError if a file is in two splits.
    """
    files = find_files(path)
    parts = {"train": files} if validation_data or test_data else by_split(files) or {"train": files}
    parts |= {"validation": find_files(validation_data)} if validation_data else {}
    parts |= {"test": find_files(test_data)} if test_data else {}
    parts = {split: found for split, found in parts.items() if found}
    split_of: dict[Path, str] = {}
    for split, found in parts.items():
        for file in found:
            if (other := split_of.setdefault(file.resolve(), split)) != split:
                raise DataError(f"{file}: given for {other} and for {split}; a row belongs to one of them")
    return parts


def _first_given(**values: object) -> str | None:
    return next((name for name, value in values.items() if value is not None), None)


def _draw(dataset: Dataset, max_samples: int | None, seed: int) -> Dataset:
    """The dataset with at most this many rows of train and of validation, drawn at random, in their order."""
    if max_samples is None or max(len(dataset.train), len(dataset.validation)) <= max_samples:
        return dataset

    def draw(rows: list[Row]) -> list[Row]:
        kept = random.Random(seed).sample(range(len(rows)), min(max_samples or 0, len(rows)))
        return [rows[index] for index in sorted(kept)]

    drawn = replace(dataset, train=draw(dataset.train), validation=draw(dataset.validation))
    say(
        f"{dataset.path}: max_samples takes {len(drawn.train):,} of {len(dataset.train):,} training rows, "
        f"{len(drawn.validation):,} of {len(dataset.validation):,} validation rows"
    )
    return drawn


def _warn_of_repeats(train: list[Row], others: dict[str, list[Row]], seed: int) -> None:
    """Print how many rows of the given splits have the question of a training row."""
    asked = {group_key(asked_of(row), seed) for row in train}
    for split, rows in others.items():
        if count := sum(group_key(asked_of(row), seed) in asked for row in rows):
            warn(f"{count:,} of {len(rows):,} {split} rows ask the same as a training row; their scores mean little")


def _warn_of_conflicts(path: Path, rows: list[Row], seed: int) -> None:
    """Say how many texts have different labels of one task, of which only one can be right."""
    labels: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        if get_task(row["task"]).is_of_one_label:
            labels.setdefault((row["task"], group_key(asked_of(row), seed)), set()).add(answer_of(row))
    if count := sum(len(found) > 1 for found in labels.values()):
        warn(
            f"{path}: {count:,} texts have different labels in different rows, which no model can learn; a dataset of "
            "build_dataset.py leaves them out"
        )


def reading_of(settings: "TrainSettings") -> Reading:
    """Settings of a run -> how its rows are to be read. Raises ConfigError for what names no task, label or column."""
    orders_head = settings.is_classifier and not names_files(settings.data)  # of rows that were read before
    return make_reading(
        task=settings.task,
        labels=() if orders_head else settings.labels,
        label_map=settings.label_by_word(),
        columns=settings.columns_by_field(),
        group_by=settings.group_by,
        form=settings.form,
        encoding=settings.encoding,
    )


def _explain_missing(path: Path) -> DataError:
    name, mark, count = str(path).rpartition("#")
    if mark and count.isdigit() and (Path(name).exists() or name in known_names()):
        return DataError(f"{path}: no such data; for {count} rows of it: --data {name} --max_samples {count}")
    if near := nearest_file(path):
        return DataError(f"{path}: no such file or dataset folder{near}")
    if kind_of_file(path) in READABLE:
        return DataError(f"{path}: no such file; give a dataset folder or a file of rows")
    if len(path.parts) == 2 and not path.is_absolute() and path.parent.name != "data" and not path.parent.exists():
        return DataError(
            f"{path}: no such folder here; if it is a data set of the Hugging Face hub, name it in datasets.yaml "
            f"({path.name}: {{kind: hub, id: {path}}}) and pass --data {path.name}; one of ModelScope is named "
            f"--data modelscope:{path}"
        )
    if near := nearest_name(str(path), known_names()):
        return DataError(f"{path}: no such folder, file or name of recipes/datasets.yaml{near}")
    preset = path.name if path.name in preset_names() else "demo"
    flags = "" if path.name == "mixed" else f" --name {path.name}"
    flags += "" if path.parent.name == "data" else f" --data_dir {path.parent}"
    return DataError(
        f"{path}: no such dataset; build it: python build_dataset.py --preset {preset}{flags}; or pass "
        "your own rows: --data rows.csv"
    )


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


SPLIT_RULE = 2  # of split_by_content; 1 knew neither system prompts nor conversations nor groups


def splits_as_before(rows: Sequence[Row]) -> bool:
    """Whether rule 1 of split_by_content put these rows on the same sides as today's."""
    return not any(row.get("system") or "group" in row or thread_of(row) is not None for row in rows)


def split_by_content(rows: list[Row], eval_ratio: float, seed: int) -> tuple[list[Row], list[Row]]:
    """Train and validation rows, each in the order of the file; the sides of lowest seeded key are validation.

    Rows that ask the same, and those of one group or conversation, are one side; whole ones are taken until
    round(rows * eval_ratio) is reached, at least one row where the ratio is above 0. Of a single document the end is
    held out. Raises DataError if nothing would be left to train on.
    """
    if len(rows) == 1 and eval_ratio > 0 and (parts := part_document(rows[0], eval_ratio)):
        return [parts[0]], [parts[1]]
    keys = _find_sides(rows, seed)
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
    if taken == len(rows) or taken > 2 * wanted:
        what = "groups" if any("group" in row for row in rows) else "different texts"
        if any("messages" in row for row in rows):
            what = f"{what} or prefixes of conversations"
        told = f"{len(rows):,} rows of {len(sizes):,} {what}"
        if taken == len(rows):
            apart = "" if what == "different texts" else "; --group_by names a column whose values may be parted"
            raise DataError(f"{told} leave none to train on; add rows, or name others with --validation_data{apart}")
        warn(f"{told}: whole ones are held out, {taken:,} rows where {wanted:,} were asked for (--validation_data)")
    train = [row for row, key in zip(rows, keys, strict=True) if key not in held_out]
    return train, [row for row, key in zip(rows, keys, strict=True) if key in held_out]


def part_document(row: Row, eval_ratio: float) -> tuple[Row, Row] | None:
    """A single document and its held-out end, split at a line or sentence if there is one.

    None for a row that is no document, or a short one.
    """
    text = row.get("text", "")
    if get_task(row["task"]).kind != "document" or len(text) < SHORTEST_PARTED:
        return None
    place = round(len(text) * (1 - eval_ratio))
    place = max((text.rfind(mark, place // 2, place) + len(mark) for mark in ("\n", "。", ". ")), default=0) or place
    parts = text[:place], text[place:]
    if any(is_blank(part) for part in parts):
        return None
    say(f"one document: its last {len(parts[1]):,} of {len(text):,} characters are held out")
    return {**row, "text": parts[0]}, {**row, "id": f"{row['id']}.end", "text": parts[1]}


def _find_sides(rows: list[Row], seed: int) -> list[int]:
    """One key per row, equal for rows that must stay on the same side of a split."""
    group = [group_key(asked_of(row), seed) for row in rows]
    thread = [
        key if (named := thread_of(row)) is None else group_key(named, seed)
        for row, key in zip(rows, group, strict=True)
    ]
    sides: list[int] = join_sides(np.array(group, dtype=np.uint64), np.array(thread, dtype=np.uint64)).tolist()
    return sides


def _read_file(path: Path, on_bad_row: OnBadRow, reading: Reading, ids: set[str]) -> list[Row]:
    column = dict(reading.columns).get("label", "label")
    reading = with_declared_labels(reading, declared_classes(path).get(column, ()))
    reader = RowReader(path, reading=reading)
    name = path.name.removesuffix("".join(path.suffixes[-2:])) if is_packed(path) else path.stem
    rows = _take_rows(
        reader, name, str(path), on_bad_row, lambda: reader.recognised, ids, has_task=reading.task is not None
    )
    say(reader.describe())
    return rows


def _take_rows(
    found_rows: Iterable[FoundRow | BadRow],
    name: str,
    shown_as: str,
    on_bad_row: OnBadRow,
    recognised: Callable[[], Recognised] = Recognised,
    ids: set[str] | None = None,
    *,
    has_task: bool = False,
) -> list[Row]:
    """Every row with its id and source; unusable rows are reported or raised.

    The id is the row's own, else NAME-17 by its line; of several on a line the second is NAME-17.2.
    """
    rows: list[Row] = []
    bad: list[BadRow] = []
    ids = set() if ids is None else ids
    waiting = iter(found_rows)
    for found in waiting:
        if isinstance(found, FoundRow):
            row = found.row
            if not row["id"]:
                row["id"] = _choose_id(row, f"{name}-{found.line}", ids)
            row["source"] = row["source"] or name
            if row["id"] not in ids:
                ids.add(row["id"])
                rows.append(row)
                continue
            found = BadRow(found.file, found.line, "duplicate_id", f"id {row['id']!r} is given twice")
        if on_bad_row == "error":
            if found.reason == "unknown_label":
                collections.deque(itertools.islice(waiting, READ_ON), maxlen=0)
                raise _explain_labels(found, recognised(), has_task=has_task)
            raise found.to_error(others_fit=bool(rows))
        bad.append(found)
    check_numbers(shown_as, recognised())
    for row_error in bad[:SHOWN_BAD_ROWS]:
        say(f"warning: left out {row_error.file}:{row_error.line}: {row_error.message}")
    if len(bad) > SHOWN_BAD_ROWS:
        say(f"warning: left out {len(bad)} rows in all")
    if not rows:
        raise DataError(f"{shown_as}: {f'no row can be used; the first: {bad[0].message}' if bad else 'holds no rows'}")
    return rows


def _choose_id(row: Row, by_line: str, taken: set[str]) -> str:
    """The row's own id, where no other row has it; else the name by its line. An own id that gives way is kept."""
    own_id = row.get("own_id", "")
    if own_id and own_id not in taken:
        del row["own_id"]
        return own_id
    name, number = by_line, 1
    while name in taken:
        number += 1
        name = f"{by_line}.{number}"
    return name


def _explain_labels(found: BadRow, recognised: Recognised, *, has_task: bool) -> DataError:
    """What is in a label column that no task knows, or not the one that is given, and the flag that says what it is."""
    unknown = recognised.unknown_labels
    labels = list(unknown)
    shown = ", ".join(f"{label} ({count:,})" for label, count in unknown.most_common(SHOWN_LABELS))
    if len(labels) > SHOWN_LABELS:
        shown += f", and {len(labels) - SHOWN_LABELS} more" + (" at least" if len(labels) == LABELS_KEPT else "")
    if recognised.dialects or not labels or has_task:  # others are known: one label among them, or a class more
        others = f"; labels that nothing knows here: {shown}" if len(labels) > 1 else ""
        return DataError(f"{found.file}:{found.line}: {found.message}{others}")
    if all(label.lstrip("+-").isdigit() or label in ("True", "False") for label in labels):
        example = ",".join(f"{label}=..." for label in labels[:2])
        return DataError(f"{found.file}: the labels are {shown}; say what they mean: --label_map {example}")
    told = f"{found.file}: the labels are {shown}, which no task here has"
    if len(labels) == LABELS_KEPT:
        return DataError(
            f"{told}; if they are classes, list all of them in a YAML file and pass it with --task (docs/tasks.md); if "
            "they are free text, --columns instruction=text,output=label learns to write them"
        )
    classes = list({label_key(label): label for label in reversed(labels)}.values())[::-1]  # "Good" and "good" are one
    if len(classes) == 1:
        return DataError(f"{told}; one class leaves nothing to learn: add rows of another, then pass both by --labels")
    row = io.StringIO()
    csv.writer(row, lineterminator="").writerow([" ".join(label.split()) for label in classes])
    return DataError(
        f"{told}; if these are all, pass --labels {_quote(row.getvalue())}; or describe the task in a YAML file and "
        "pass it with --task (docs/tasks.md)"
    )


def _quote(word: str) -> str:
    """A word as a shell takes it; shlex quotes all that is not ASCII, too."""
    bare = "".join(filter(str.isascii, word))
    return word if shlex.quote(bare) == bare else shlex.quote(word)
