"""The one reader of rows: any accepted file in any accepted form -> canonical rows, each with its place.

reader = RowReader(Path("reports.jsonl"))
for found in reader:                     # FoundRow(file, line, row) or BadRow(file, line, reason, message)
    ...
reader.describe()                        # "reports.jsonl: 12 rows, recognised as instruction/input/output"
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from sft.data.canonical import Row, RowError
from sft.data.dialects import Dialect, recognise_dialect
from sft.data.records import BadRecord, read_records
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


class RowReader:
    """Reads one file, once or more; counts what it recognised. `shown_as` is the file's name in messages."""

    def __init__(self, path: Path, *, shown_as: str | None = None, task: str | None = None) -> None:
        self.path = path
        self.shown_as = shown_as or str(path)
        self.dialects: Counter[str] = Counter()  # rows of each form: {"text/label": 9600}
        self.ignored_columns: set[str] = set()
        self._task = task

    def __iter__(self) -> Iterator[FoundRow | BadRow]:
        self.dialects.clear()
        by_columns: dict[tuple[str, ...], Dialect] = {}  # files have few sets of columns: recognise each once
        for record in read_records(self.path):
            if isinstance(record, BadRecord):
                yield BadRow(self.shown_as, *record)
                continue
            try:
                columns = tuple(record.fields)
                dialect = by_columns.get(columns)
                if dialect is None:
                    dialect = by_columns[columns] = recognise_dialect(columns)
                    self.ignored_columns |= set(columns) - dialect.columns
                row = dialect.convert(record.fields, self._task)
            except RowError as error:
                yield BadRow(self.shown_as, record.line, error.reason, str(error))
                continue
            self.dialects[dialect.name] += 1
            yield FoundRow(self.shown_as, record.line, row)

    def describe(self) -> str:
        """What was recognised, after reading: `a.csv: 9 rows, recognised as text/label; ignored columns: qid`."""
        forms = ", ".join(
            name if len(self.dialects) == 1 else f"{name} ({count:,})" for name, count in self.dialects.most_common()
        )
        ignored = f"; ignored columns: {', '.join(sorted(self.ignored_columns))}" if self.ignored_columns else ""
        return f"{self.shown_as}: {self.dialects.total():,} rows, recognised as {forms or 'nothing'}{ignored}"
