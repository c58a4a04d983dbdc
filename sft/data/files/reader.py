"""The one reader of rows: any accepted file in any accepted form -> canonical rows, each with its place.

reader = RowReader(Path("reports.jsonl"))
for found in reader:                     # FoundRow(file, line, row) or BadRow(file, line, reason, message)
    ...
reader.describe()                        # "reports.jsonl: 12 rows, recognised as instruction/input/output"
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from sft.data.files import BadRecord, GoodRecord, kind_of_file, read_records
from sft.data.rows.canonical import Row, RowError
from sft.data.rows.dialects import TABLES, Context, convert_record
from sft.data.rows.reading import Reading
from sft.data.rows.recognised import Recognised
from sft.errors import DataError

OnBadRow = Literal["error", "quarantine"]
REMEDY = "fix the row, or pass --on_bad_row quarantine"
# What no single row is to blame for: the message itself says what helps.
NO_FAULT_OF_THE_ROW = ("unknown_dialect", "unknown_label", "unknown_task", "missing_column", "preference", "rejected",
                       "tools", "tokens", "by_columns")  # fmt: skip


class FoundRow(NamedTuple):
    """A canonical row and where it stands; `id` and `source` are filled in by whoever knows the source."""

    file: str
    line: int
    row: Row


class BadRow(NamedTuple):
    """A row that cannot be used and where it stands: reason "empty_answer", message "'output' is empty"."""

    file: str
    line: int
    reason: str
    message: str

    def to_error(self, *, others_fit: bool = False) -> DataError:
        """The error that ends a build or run which accepts no bad rows; others_fit: rows before it did."""
        is_its_fault = self.reason not in NO_FAULT_OF_THE_ROW or (others_fit and self.reason == "unknown_dialect")
        remedy = f"; {REMEDY}" if is_its_fault else ""
        return DataError(f"{self.file}:{self.line}: {self.message}{remedy}")


class RowReader:
    """Reads one file, once or more; counts what it recognised. `shown_as` is the file's name in messages."""

    def __init__(self, path: Path, *, shown_as: str | None = None, reading: Reading | None = None) -> None:
        self.path = path
        self.shown_as = shown_as or str(path)
        self.recognised = Recognised()
        self._reading = reading or Reading()

    def __iter__(self) -> Iterator[FoundRow | BadRow]:
        self.recognised = Recognised()
        yield from convert_records(
            read_records(self.path, self._reading.encoding), self.shown_as, self._reading, self.recognised
        )

    @property
    def dialects(self) -> Counter[str]:
        """Rows of each form, after reading: {"text/label": 9600}."""
        return self.recognised.dialects

    @property
    def ignored_columns(self) -> set[str]:
        """Columns that nothing reads."""
        return self.recognised.ignored_columns

    def describe(self) -> str:
        """What was recognised, after reading: `a.csv: 9 rows, recognised as text/label; ignored columns: qid`."""
        return self.recognised.describe(self.shown_as)


def convert_records(
    records: Iterable[GoodRecord | BadRecord], shown_as: str, reading: Reading, recognised: Recognised
) -> Iterator[FoundRow | BadRow]:
    """Canonical rows of a file's records; `recognised` is brought up to date on the way."""
    context = Context(reading, recognised)
    is_table = kind_of_file(shown_as) in TABLES
    for record in records:
        if isinstance(record, BadRecord):
            yield BadRow(shown_as, *record)
            continue
        try:
            row = convert_record(record.fields, context, is_table=is_table)
        except RowError as error:
            yield BadRow(shown_as, record.line, error.reason, str(error))
            continue
        except RecursionError:
            yield BadRow(shown_as, record.line, "too_deep", "nested too deeply")
            continue
        yield FoundRow(shown_as, record.line, row)


def draw_sample(
    rows: Iterable[FoundRow | BadRow], size: int, rng: random.Random
) -> tuple[list[FoundRow | BadRow], int]:
    """`size` of the rows, each as likely as any other, in their order, and how many there were in all.

    Algorithm R of Vitter, Random sampling with a reservoir, 1985.
    """
    kept: list[tuple[int, FoundRow | BadRow]] = []
    count = 0
    for count, row in enumerate(rows, start=1):
        if len(kept) < size:
            kept.append((count, row))
        elif (place := rng.randrange(count)) < size:
            kept[place] = (count, row)
    return [row for _, row in sorted(kept, key=lambda pair: pair[0])], count
