"""Rows of a MongoDB collection into Excel, CSV or JSONL files: exact quotas per label, every document accounted for.

    manifest = extract(collection, plan, Retry(), shown="mongodb://localhost:27017")
    manifest["labels"]["正常"]["kept"]        # 15000

Files are written aside and renamed when all are whole; <output>.manifest.json comes last. A table of what was found and
kept per label is what the script says at its end.

The draw takes this many rows per label out of a stream of unknown length. Every document has a key: a hash of seed and
_id (or of seed and text, where equal texts must stay together). The rows of lowest key are drawn, so the draw depends
on seed and content only, never on the order in which a server hands documents out. Memory holds one small entry for
each row drawn; the rows wait on disk: of N rows in random order n (1 + ln N/n) are ever written.
"""

import hashlib
import heapq
import os
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, TypedDict

import bson
import numpy as np
import orjson
from pymongo.collection import Collection

from sft.config.extract_mongo import ExtractSettings
from sft.console import progress, warn
from sft.data.building.candidates import CandidateIndex
from sft.data.building.manifest import list_counts
from sft.data.building.mixing import Mixture, OnShortage, mix
from sft.data.building.selection import NOT_CHOSEN
from sft.data.files.reader import OnBadRow
from sft.data.files.writing import SHEET_ROWS, check_writable, count_formulas, kind_of, open_writer
from sft.data.ledger import Tally
from sft.data.mongo import Document, Retry, read_field, stream_documents, to_json
from sft.data.quotas import SPLITS, Cell, Quotas, SplitPlan, largest_remainder, parse_label_quota, parse_pairs
from sft.data.rows.canonical import Json, Record, RowError, group_key
from sft.errors import ConfigError, DataError, nearest_name
from sft.files import sha256_of

RESERVE_ROWS, RESERVE_SHARE = 64, 50  # drawn beyond the quota, for rows that do not fit into a split any more
LABEL_COLUMN = "extracted_label"  # R3's name; the row reader knows it


def id_key(document: Document, seed: int) -> int:
    """A 64-bit hash of seed and _id, for an _id of any type."""
    data = bson.encode({"_id": document["_id"]})
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, key=str(seed).encode()).digest(), "little")


class Entry(NamedTuple):
    """A row that is drawn so far. Ordered by -key, so that the heap's first is the next to go."""

    negative_key: int
    start: int  # in the spool
    length: int


class Draw:
    """The rows of lowest key of every label. `one_per_text`: of rows with one key only the first stays."""

    def __init__(self, quotas: dict[str, int], *, one_per_text: bool, spool_folder: Path) -> None:
        reserve = {
            label: max(RESERVE_ROWS, rows // RESERVE_SHARE) if one_per_text else 0 for label, rows in quotas.items()
        }
        self._room = {label: rows + reserve[label] for label, rows in quotas.items()}
        self._quotas = quotas
        self._one_per_text = one_per_text
        self._heaps: dict[str, list[Entry]] = {label: [] for label in quotas}
        self._keys: dict[str, set[int]] = {label: set() for label in quotas}
        self._spool = tempfile.TemporaryFile(dir=spool_folder)  # noqa: SIM115  lives as long as this
        self._end = 0
        self.left_out: dict[str, Counter[str]] = {label: Counter() for label in quotas}  # label -> reason -> rows

    def offer(self, label: str, key: int, record: Record) -> None:
        """Take a row if its key is among the lowest so far; rejected and displaced rows are counted."""
        heap, keys = self._heaps[label], self._keys[label]
        if self._one_per_text and key in keys:
            self.left_out[label]["same_text"] += 1
            return
        if len(heap) == self._room[label]:
            self.left_out[label]["over_quota"] += 1
            if key > -heap[0].negative_key:
                return
            keys.discard(-heapq.heappop(heap).negative_key)
        line = orjson.dumps(record)
        self._spool.seek(self._end)
        self._spool.write(line)
        heapq.heappush(heap, Entry(-key, self._end, len(line)))
        if self._one_per_text:
            keys.add(key)
        self._end += len(line)

    def found(self, label: str) -> int:
        """Rows drawn of a label so far, at most its quota."""
        return min(len(self._heaps[label]), self._quotas[label])

    def index(self) -> CandidateIndex:
        """What dealing out needs to know of every row drawn, reserves included; label by label, lowest key first."""
        group = [-entry.negative_key for entry in self._entries()]
        cell = [number for number, heap in enumerate(self._heaps.values()) for _ in heap]
        nothing = np.zeros(len(group), dtype=np.uint16)
        groups = np.array(group, dtype=np.uint64)
        return CandidateIndex(groups, groups, nothing.astype(np.uint8), nothing, np.array(cell, dtype=np.uint16))

    def read(self, numbers: list[int]) -> Iterator[Record]:
        """The rows of these numbers of the index, in this order."""
        entries = list(self._entries())
        for number in numbers:
            self._spool.seek(entries[number].start)
            yield orjson.loads(self._spool.read(entries[number].length))

    def close(self) -> None:
        """Forget the rows."""
        self._spool.close()

    def _entries(self) -> Iterator[Entry]:
        for heap in self._heaps.values():
            yield from sorted(heap, reverse=True)


@dataclass(frozen=True)
class ExtractPlan:
    """Rows to draw and their targets. shares: parts of each label's rows per split; empty for one file."""

    quotas: dict[str, int]  # label -> rows
    fields: tuple[str, ...]  # the first is the text: it must be there, and texts that are alike share a split
    label_field: str
    output: Path
    shares: dict[str, Fraction]
    random: bool = False
    seed: int = 42
    on_shortage: OnShortage = "error"
    on_bad_row: OnBadRow = "error"
    max_bad_rows: int | None = None

    def __post_init__(self) -> None:
        if not self.fields:
            raise ConfigError("fields: none is named; give -f text_cn,n_labels")
        if self.shares and not self.random:
            raise ConfigError("splits: rows are dealt out to splits at random; add --random")
        if kind_of(self.output) == ".xlsx":
            for name, rows in self.asked().items():
                if sum(rows) >= SHEET_ROWS:
                    raise ConfigError(
                        f"{self.file_of(name)}: {sum(rows):,} rows and a header, an Excel sheet holds {SHEET_ROWS:,}; "
                        "name a .csv or .jsonl file"
                    )

    @property
    def columns(self) -> list[str]:
        """The columns of the files: the requested fields, and the label under which a row was drawn."""
        return [*self.fields, *([] if LABEL_COLUMN in self.fields else [LABEL_COLUMN])]

    @property
    def splits(self) -> list[str]:
        """Names of the splits; one file is all "train", so that a shortage can repeat its rows."""
        return list(self.shares) or ["train"]

    def file_of(self, split: str) -> Path:
        """out.xlsx -> out.train.xlsx if there are splits."""
        return self.output.with_suffix(f".{split}{self.output.suffix}") if self.shares else self.output

    def asked(self) -> Quotas:
        """Rows per split and label; each label's rows are divided by largest remainder, so they add up exactly."""
        shares = list(self.shares.values()) or [Fraction(1)]
        parts = [largest_remainder(rows, shares) for rows in self.quotas.values()]
        return {split: [part[number] for part in parts] for number, split in enumerate(self.splits)}

    def cells(self) -> list[Cell]:
        """Labels play the role that sources have in a mixture."""
        return [Cell(label, "", Fraction(1)) for label in self.quotas]

    def plans(self) -> list[SplitPlan]:
        """The splits in the form of a mixture."""
        labels = list(self.quotas)
        return [
            SplitPlan(
                split, dict(zip(labels, rows, strict=True)), {name: Fraction(n) for name, n in self.quotas.items()}
            )
            for split, rows in self.asked().items()
        ]


def make_plan(settings: ExtractSettings, output: Path) -> ExtractPlan:
    """The plan of a command line. Raises ConfigError for words that are no quotas or shares."""
    return ExtractPlan(
        quotas=parse_quotas(settings.labels),
        fields=tuple(dict.fromkeys(settings.fields)),
        label_field=settings.label_field,
        output=output,
        shares=parse_shares(settings.splits),
        random=settings.random,
        seed=settings.seed,
        on_shortage=settings.on_shortage,
        on_bad_row=settings.on_bad_row,
        max_bad_rows=settings.max_bad_rows,
    )


def parse_quotas(words: Sequence[str]) -> dict[str, int]:
    """Rows per label from words such as "正常:15000" (sft.data.quotas). Raises ConfigError."""
    if not words:
        raise ConfigError(
            'labels: none is named; give -l "正常:15000,暴恐:6000", or see which there are: --list-labels'
        )
    try:
        quotas = parse_label_quota(",".join(words))
    except ValueError as error:
        raise ConfigError(f"labels: {error}") from None
    if none := next((label for label, rows in quotas.items() if not rows), None):
        raise ConfigError(f"labels: {none}:0 asks for no rows; leave it out, or write {none}:15000")
    return quotas


def parse_shares(words: Sequence[str]) -> dict[str, Fraction]:
    """Shares of the splits from words such as "train:0.8", which must add up to 1; none for no words."""
    if not words:
        return {}
    try:
        pairs = parse_pairs(",".join(words), "train:0.8,validation:0.1,test:0.1")
    except ValueError as error:
        raise ConfigError(f"splits: {error}") from None
    for name, share in pairs.items():
        if name not in SPLITS:
            raise ConfigError(f"splits: {name!r} is none of {', '.join(SPLITS)}{nearest_name(name, SPLITS)}")
        if not re.fullmatch(r"\d?\.\d{1,15}|[01]", share):
            raise ConfigError(f"splits: {name}:{share}: {share!r} is no share; write {name}:0.8")
    shares = {name: Fraction(share) for name, share in pairs.items()}
    if sum(shares.values()) != 1:
        raise ConfigError(f"splits: the shares add up to {float(sum(shares.values())):g}, expected 1")
    return shares


FORMAT = 1
PROGRESS_ROWS = 1000
LONG_FILE_ROWS = 20_000  # a few seconds of writing; below it a bar is noise
SHOWN_BAD_ROWS = 5


class LabelEntry(TypedDict):
    """Counts of one label's documents: read = kept + dropped + quarantined."""

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
            raise DataError(f"{where}; fix the document, or pass --on_bad_row quarantine")
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
    """The key of a row's draw: its text if there are splits, its _id in a random draw, else its position."""
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
    """Write all files beside their targets, then rename them, so that nothing old is lost before the new is
    complete."""
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
