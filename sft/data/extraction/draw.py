"""The plan of an extraction (rows per label, columns, splits, files), and the seeded draw that fills it in one pass.

    parse_quotas(["正常:15000", "暴恐:6000"])                     # {"正常": 15000, "暴恐": 6000}
    parse_shares(["train:0.8", "validation:0.1", "test:0.1"])

The draw takes this many rows per label out of a stream of unknown length. Every document has a key: a hash of seed and
_id (or of seed and text, where equal texts must stay together). The rows of lowest key are drawn, so the draw depends
on seed and content only, never on the order in which a server happens to hand documents out. Memory holds one small
entry for each row drawn; the rows wait on disk. A row that is drawn and displaced later costs disk: of N rows in random
order n (1 + ln N/n) are ever written.
"""

import hashlib
import heapq
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import bson
import numpy as np
import orjson

from sft.config.extract_mongo import ExtractSettings
from sft.data.building.candidates import CandidateIndex
from sft.data.building.mixing import OnShortage
from sft.data.files.reader import OnBadRow
from sft.data.files.writing import SHEET_ROWS, kind_of
from sft.data.mongo.connection import Document
from sft.data.quotas import SPLITS, Cell, Quotas, SplitPlan, largest_remainder, parse_label_quota, parse_pairs
from sft.data.rows.canonical import Record
from sft.errors import ConfigError, nearest_name

RESERVE_ROWS, RESERVE_SHARE = 64, 50  # drawn beyond the quota: rows that do not fit the last places of a split
LABEL_COLUMN = "extracted_label"  # R3's name; the row reader knows it


def id_key(document: Document, seed: int) -> int:
    """A 64-bit hash of seed and _id, whatever the type of the _id."""
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
        """Take a row if its key is among the lowest so far; what is not taken, or pushed out by it, is counted."""
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
    """Rows to draw and where they go. shares: parts of each label's rows per split, none for one file."""

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
        """A label is what a source is to a mixture."""
        return [Cell(label, "", Fraction(1)) for label in self.quotas]

    def plans(self) -> list[SplitPlan]:
        """The splits as a mixture asks for them."""
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
