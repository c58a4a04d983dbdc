"""A seeded draw of so many rows per label out of a stream of unknown length, in one pass.

Every document has a key: a hash of seed and _id (or of seed and text, where texts that are alike must stay together).
The rows of lowest key are the draw, so it depends on seed and content only, never on the order in which a server
happens to hand documents out. Memory holds one small entry for each row drawn; the rows wait on disk. A row that comes
and goes again costs disk: of N rows in random order n (1 + ln N/n) ever come.
"""

import hashlib
import heapq
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import bson
import numpy as np
import orjson

from sft.data.candidates import CandidateIndex
from sft.data.fields import Record
from sft.data.mongo.connection import Document

RESERVE_ROWS, RESERVE_SHARE = 64, 50  # drawn beyond the quota: rows that do not fit the last places of a split


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
