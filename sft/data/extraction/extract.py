"""Rows of a MongoDB collection into Excel, CSV or JSONL files: exact quotas per label, every document accounted for.

    manifest = extract(collection, plan, Retry(), shown="mongodb://localhost:27017")
    manifest["labels"]["正常"]["kept"]        # 15000

Files are written aside and renamed when all are whole; <output>.manifest.json comes last. A table of what was found and
kept per label is what the script says at its end.
"""

import os
import random
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TypedDict

import numpy as np
import orjson
from pymongo.collection import Collection

from sft.console import progress, warn
from sft.data.building.manifest import list_counts
from sft.data.building.mixing import Mixture, mix
from sft.data.building.selection import NOT_CHOSEN
from sft.data.extraction.draw import LABEL_COLUMN, Draw, ExtractPlan, id_key
from sft.data.files.writing import check_writable, count_formulas, kind_of, open_writer
from sft.data.ledger import Tally
from sft.data.mongo.connection import Document, Retry, read_field, stream_documents, to_json
from sft.data.rows.canonical import Json, Record, RowError, group_key
from sft.errors import DataError
from sft.files import sha256_of

FORMAT = 1
PROGRESS_ROWS = 1000
LONG_FILE_ROWS = 20_000  # a few seconds of writing; below it a bar is noise
SHOWN_BAD_ROWS = 5


class LabelEntry(TypedDict):
    """What became of one label's documents: read = kept + dropped + quarantined."""

    asked: dict[str, int]  # split -> rows
    read: int
    kept: int
    dropped: dict[str, int]  # reason -> documents
    quarantined: dict[str, int]
    written: dict[str, int]  # split -> rows, repeats included


class ExtractManifest(TypedDict):
    """<output>.manifest.json."""

    format: int
    source: dict[str, str]  # server, collection, label field; no user, no password
    settings: dict[str, Json]
    labels: dict[str, LabelEntry]
    files: dict[str, dict[str, Json]]  # name -> rows, SHA-256
    bad_rows: list[str]  # the first few, by _id


class _Books:
    """A tally for each label, and the first documents that could not be used."""

    def __init__(self, plan: ExtractPlan, name: str) -> None:
        self.tallies = {label: Tally() for label in plan.quotas}
        self.bad_rows: list[str] = []
        self._plan, self._name = plan, name

    def quarantine(self, label: str, document: Document, error: RowError) -> None:
        """Note a document that cannot be used; raises DataError where that ends the extraction."""
        where = f"{self._name}: _id {document['_id']}: {error}"
        if self._plan.on_bad_row == "error":
            raise DataError(f"{where}; mend the document, or pass --on_bad_row quarantine")
        self.tallies[label].quarantined[error.reason] += 1
        if len(self.bad_rows) < SHOWN_BAD_ROWS:
            self.bad_rows.append(where)
        count = sum(tally.quarantined.total() for tally in self.tallies.values())
        if self._plan.max_bad_rows is not None and count > self._plan.max_bad_rows:
            first = "; ".join(self.bad_rows[:3])
            raise DataError(f"more than {self._plan.max_bad_rows} bad rows (--max_bad_rows); the first: {first}")


def extract(collection: Collection[Document], plan: ExtractPlan, retry: Retry, *, shown: str) -> ExtractManifest:
    """Draw the rows, write the files and the manifest, and return it. `shown`: the server's name, without secrets.

    Raises DataError for a short label (by `on_shortage`), an unusable document (by `on_bad_row`) and a lost server.
    """
    folder = plan.output.parent
    folder.mkdir(parents=True, exist_ok=True)
    books = _Books(plan, collection.full_name)
    with closing(Draw(plan.quotas, one_per_text=bool(plan.shares), spool_folder=folder)) as draw:
        _read(collection, plan, retry, draw, books)
        mixture = _choose(plan, draw, books)
        _write_files(plan, draw, mixture)
    for shortage in mixture.shortages:
        warn(f"{shortage.describe()} (--on_shortage {plan.on_shortage})")
    for text in books.bad_rows:
        warn(f"left out {text}")
    manifest = _describe(collection, plan, books, mixture, shown)
    _write_atomically(manifest_path(plan.output), orjson.dumps(manifest, option=orjson.OPT_INDENT_2) + b"\n")
    return manifest


def manifest_path(output: Path) -> Path:
    """out.xlsx -> out.manifest.json."""
    return output.with_suffix(".manifest.json")


def _read(collection: Collection[Document], plan: ExtractPlan, retry: Retry, draw: Draw, books: _Books) -> None:
    """Every document with one of the labels, offered to the draw; in the order of _id, until nothing is missing."""
    kind, asked = kind_of(plan.output), sum(plan.quotas.values())
    query: Document = {plan.label_field: {"$in": [form for label in plan.quotas for form in _forms(label)]}}
    with progress(description=f"read {collection.full_name}", unit="row") as bar:
        for count, document in enumerate(stream_documents(collection, query, _fetched(plan), retry), start=1):
            labels = [label for label in _labels_of(document, plan) if label in plan.quotas]
            tally = books.tallies[labels[0]]
            tally.read += 1
            if len(labels) > 1:
                tally.dropped["several_labels"] += 1
            else:
                try:
                    record = _make_record(document, plan, labels[0], kind)
                    draw.offer(labels[0], _key(document, record, plan, count), record)
                except RowError as error:
                    books.quarantine(labels[0], document, error)
            if count % PROGRESS_ROWS == 0:
                found = sum(draw.found(label) for label in plan.quotas)
                bar.note(f"{found:,} of {asked:,} rows found ({found / asked:.0%})")
                bar.update(PROGRESS_ROWS)
            if not plan.random and all(draw.found(label) == rows for label, rows in plan.quotas.items()):
                break


def _fetched(plan: ExtractPlan) -> list[str]:
    return list(dict.fromkeys([plan.label_field, *plan.fields]))


def _forms(label: str) -> list[str | int]:
    """How a label may be stored: "3" as text or as a number."""
    return [label, int(label)] if label.isascii() and label.isdigit() else [label]


def _labels_of(document: Document, plan: ExtractPlan) -> list[str]:
    value = read_field(document, plan.label_field)
    return list(dict.fromkeys(str(part) for part in (value if isinstance(value, list) else [value])))


def _make_record(document: Document, plan: ExtractPlan, label: str, kind: str) -> Record:
    record: Record = {name: to_json(read_field(document, name), name) for name in plan.fields}
    text = record[plan.fields[0]]
    if text is None or (isinstance(text, str) and not text.strip()):
        name = plan.fields[0]
        raise RowError("empty_text", f"no {name!r}" if text is None else f"{name!r} is empty")
    record.setdefault(LABEL_COLUMN, label)
    check_writable(kind, record)
    return record


def _key(document: Document, record: Record, plan: ExtractPlan, count: int) -> int:
    """What decides whether a row is drawn: its text if there are splits, its _id at random, else its place."""
    if plan.shares:
        text = record[plan.fields[0]]
        return group_key(text if isinstance(text, str) else orjson.dumps(text).decode(), plan.seed)
    return id_key(document, plan.seed) if plan.random else count


def _choose(plan: ExtractPlan, draw: Draw, books: _Books) -> Mixture:
    cells, index = plan.cells(), draw.index()
    everything = np.ones(len(index), dtype=bool)
    mixture = mix(index, everything, cells, plan.plans(), plan.on_shortage, random.Random(plan.seed))
    for number, (label, tally) in enumerate(books.tallies.items()):
        mine = index.cell == number
        tally.kept = int(np.count_nonzero(mine & (mixture.split_of != NOT_CHOSEN)))
        tally.dropped += draw.left_out[label] + Counter({"over_quota": int(np.count_nonzero(mine)) - tally.kept})
        tally.check_balance(label)
    return mixture


def _write_files(plan: ExtractPlan, draw: Draw, mixture: Mixture) -> None:
    """Write all files beside their places, then rename them: nothing old is lost before the new is whole."""
    kind = kind_of(plan.output)
    staged: dict[Path, Path] = {}
    formulas = 0
    try:
        for split in plan.splits:
            target = plan.file_of(split)
            staged[target] = target.with_name(f".{target.name}.partial")
            numbers = [number for number, _ in mixture.copies[split]]
            with open_writer(staged[target], plan.columns, kind) as writer:
                shown = len(numbers) >= LONG_FILE_ROWS
                rows = progress(draw.read(numbers), total=len(numbers), description=f"write {target.name}", shown=shown)
                for record in rows:
                    writer.write(record)
                    formulas += count_formulas(record) if kind == ".csv" else 0
        for target, path in staged.items():
            path.replace(target)
    except OSError as error:
        raise DataError(f"{plan.output}: cannot be written ({error.strerror or error}); name another file") from None
    finally:
        for path in staged.values():
            path.unlink(missing_ok=True)
    if formulas:
        warn(
            f"{plan.output}: {formulas:,} cells begin with =, +, - or @, which a spreadsheet runs as formulas when it "
            "opens a CSV; they are written as they are: import the columns as text, or write .xlsx"
        )


def _write_atomically(path: Path, content: bytes) -> None:
    staged = path.with_name(f".{path.name}.partial")
    staged.write_bytes(content)
    os.replace(staged, path)


def _describe(
    collection: Collection[Document], plan: ExtractPlan, books: _Books, mixture: Mixture, shown: str
) -> ExtractManifest:
    labels: dict[str, LabelEntry] = {}
    for number, (label, tally) in enumerate(books.tallies.items()):
        labels[label] = {
            "asked": {split: mixture.asked[split][number] for split in plan.splits},
            "read": tally.read,
            "kept": tally.kept,
            "dropped": {reason: count for reason, count in sorted(tally.dropped.items()) if count},
            "quarantined": dict(sorted(tally.quarantined.items())),
            "written": {split: mixture.written[split][number] for split in plan.splits},
        }
    return {
        "format": FORMAT,
        "source": {"server": shown, "collection": collection.full_name, "label_field": plan.label_field},
        "settings": {
            "fields": list(plan.fields),
            "random": plan.random,
            "seed": plan.seed,
            "splits": {name: float(share) for name, share in plan.shares.items()},
            "on_shortage": plan.on_shortage,
            "on_bad_row": plan.on_bad_row,
        },
        "labels": labels,
        "files": {
            plan.file_of(split).name: {
                "rows": len(mixture.copies[split]),
                "sha256": sha256_of(plan.file_of(split)),
            }
            for split in plan.splits
        },
        "bad_rows": books.bad_rows,
    }


def summary_rows(manifest: ExtractManifest) -> list[list[object]]:
    """One row per label: label, asked, read, kept, written, and why the others were left out.

    ["暴恐", 6000, 6105, 6000, 6000, "104 over_quota, 1 empty_text"]
    """
    rows: list[list[object]] = []
    for label, entry in manifest["labels"].items():
        reasons = list_counts(Counter(entry["dropped"]) + Counter(entry["quarantined"]))
        counts = (sum(entry["asked"].values()), entry["read"], entry["kept"], sum(entry["written"].values()))
        rows.append([label, *counts, reasons])
    return rows
