"""Sources cut into chunks: the unit that one process reads, filters and hashes while others do the next ones.

A source that yields rows is cut by batch_rows. One whose raw bytes can be cut before they are parsed brings a chunk of
its own (LinesChunk), so that parsing is spread over the processes too. Where the cuts fall never changes what is built.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sft.data.mapping import NOTHING, Mapping
from sft.data.reading import Reading
from sft.data.recognised import Recognised
from sft.data.records import BadRecord, GoodRecord, parse_lines
from sft.data.rows import BadRow, FoundRow, convert_records
from sft.errors import UserError

CHUNK_ROWS = 1024
Item = TypeVar("Item")


class Chunk(Protocol):
    """A part of a source that another process can read; it must pickle."""

    def read(self, recognised: dict[str, Recognised]) -> Iterator[FoundRow | BadRow]:
        """The rows in their order; what was recognised in which file is added to `recognised`, if anything."""
        ...


@dataclass(frozen=True)
class RowsChunk:
    """Rows that are there already."""

    found: list[FoundRow | BadRow]

    def read(self, recognised: dict[str, Recognised]) -> Iterator[FoundRow | BadRow]:
        """The rows; who read them has said what it recognised."""
        return iter(self.found)


@dataclass(frozen=True)
class LinesChunk:
    """Whole lines of a JSONL file, not yet parsed."""

    shown_as: str
    reading: Reading
    first_line: int
    data: bytes
    mapping: Mapping = NOTHING

    def read(self, recognised: dict[str, Recognised]) -> Iterator[FoundRow | BadRow]:
        """The rows of these lines."""
        found = recognised.setdefault(self.shown_as, Recognised())
        records = self.mapping.map_records(parse_lines(io.BytesIO(self.data), self.first_line), found.ignored_columns)
        return convert_records(records, self.shown_as, self.reading, found)


@dataclass(frozen=True)
class RecordsChunk:
    """Records that are parsed, but not yet mapped and converted."""

    shown_as: str
    reading: Reading
    records: Sequence[GoodRecord | BadRecord]
    mapping: Mapping = NOTHING

    def read(self, recognised: dict[str, Recognised]) -> Iterator[FoundRow | BadRow]:
        """The rows of these records."""
        found = recognised.setdefault(self.shown_as, Recognised())
        records = self.mapping.map_records(self.records, found.ignored_columns)
        return convert_records(records, self.shown_as, self.reading, found)


def batch_rows(rows: Iterable[FoundRow | BadRow]) -> Iterator[RowsChunk]:
    """Rows in chunks of CHUNK_ROWS. Where reading fails, the rows before come first, then the error."""
    return map(RowsChunk, cut(rows))


def cut(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Lists of CHUNK_ROWS. Where reading fails, what came before is given first, then the error."""
    batch: list[Item] = []
    try:
        for item in items:
            batch.append(item)
            if len(batch) == CHUNK_ROWS:
                yield batch
                batch = []
    except UserError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
