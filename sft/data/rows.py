"""The one reader of rows: any accepted file in any accepted form -> canonical rows, each with its place.

reader = RowReader(Path("reports.jsonl"))
for found in reader:                     # FoundRow(file, line, row) or BadRow(file, line, reason, message)
    ...
reader.describe()                        # "reports.jsonl: 12 rows, recognised as instruction/input/output"
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from sft.data.canonical import Row, RowError
from sft.data.dialects import Dialect, recognise_dialect
from sft.data.records import BadRecord, GoodRecord, read_records
from sft.errors import DataError

OnBadRow = Literal["error", "quarantine"]
REMEDY = "fix the row, or pass --on_bad_row quarantine"


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

    def to_error(self) -> DataError:
        """The error that ends a build or run which accepts no bad rows."""
        return DataError(f"{self.file}:{self.line}: {self.message}; {REMEDY}")


@dataclass
class Recognised:
    """What was recognised in a file: how many rows of each form, and the columns that nothing reads."""

    dialects: Counter[str] = field(default_factory=Counter)  # {"text/label": 9600}
    ignored_columns: set[str] = field(default_factory=set)

    def add(self, other: "Recognised") -> None:
        """Take in what was recognised in another part of the file."""
        self.dialects += other.dialects
        self.ignored_columns |= other.ignored_columns

    def describe(self, shown_as: str) -> str:
        """One line: `a.csv: 9 rows, recognised as text/label; ignored columns: qid`."""
        forms = ", ".join(
            name if len(self.dialects) == 1 else f"{name} ({count:,})" for name, count in self.dialects.most_common()
        )
        ignored = f"; ignored columns: {', '.join(sorted(self.ignored_columns))}" if self.ignored_columns else ""
        return f"{shown_as}: {self.dialects.total():,} rows, recognised as {forms or 'nothing'}{ignored}"


class RowReader:
    """Reads one file, once or more; counts what it recognised. `shown_as` is the file's name in messages."""

    def __init__(self, path: Path, *, shown_as: str | None = None, task: str | None = None) -> None:
        self.path = path
        self.shown_as = shown_as or str(path)
        self.recognised = Recognised()
        self._task = task

    def __iter__(self) -> Iterator[FoundRow | BadRow]:
        self.recognised = Recognised()
        yield from convert_records(read_records(self.path), self.shown_as, self._task, self.recognised)

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
    records: Iterable[GoodRecord | BadRecord], shown_as: str, task: str | None, recognised: Recognised
) -> Iterator[FoundRow | BadRow]:
    """Canonical rows of a file's records; `recognised` is brought up to date on the way."""
    by_columns: dict[tuple[str, ...], Dialect] = {}  # files have few sets of columns: recognise each once
    for record in records:
        if isinstance(record, BadRecord):
            yield BadRow(shown_as, *record)
            continue
        try:
            columns = tuple(record.fields)
            dialect = by_columns.get(columns)
            if dialect is None:
                dialect = by_columns[columns] = recognise_dialect(columns)
                recognised.ignored_columns |= set(columns) - dialect.columns
            row = dialect.convert(record.fields, task)
        except RowError as error:
            yield BadRow(shown_as, record.line, error.reason, str(error))
            continue
        recognised.dialects[dialect.name] += 1
        yield FoundRow(shown_as, record.line, row)
