"""Records into files that keep every text exactly: JSONL, CSV and Excel (.xlsx); read_records reads them back.

    with open_writer(Path("out.xlsx"), ["text_cn", "n_labels"]) as writer:
        writer.write({"text_cn": "=1+1", "n_labels": "正常"})

In Excel "=1+1", "NA" and "001" stay text, spaces at the ends and control characters stay, and an integer of more than
15 digits is written as text. What a kind of file cannot hold is found by check_writable before it is written.
"""

import csv
import re
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType

import orjson

from sft.data.rows.canonical import Json, Record, RowError
from sft.errors import ConfigError

WRITABLE = (".jsonl", ".csv", ".xlsx")
CELL_CHARACTERS = 32_767  # of an Excel cell, counted as UTF-16 code units
SHEET_ROWS = 1_048_576  # of an Excel sheet, the header included
EXACT_NUMBERS = 10**15
# Cells that spreadsheets run (https://owasp.org/www-community/attacks/CSV_Injection), also after spaces; not numbers.
FORMULA = re.compile(r"[\s]*[=+@\-](?![\d.,\s%]*$)")


def kind_of(path: Path) -> str:
    """The kind of file to write, by the name: "out.xlsx" -> ".xlsx". Raises ConfigError for one that is not written."""
    kind = path.suffix.lower()
    if kind not in WRITABLE:
        raise ConfigError(
            f"{path}: cannot write {kind or 'a file without a suffix'}; name one of: {', '.join(WRITABLE)}"
        )
    return kind


def check_writable(kind: str, record: Record) -> None:
    """Raise RowError if a record cannot be written as it is: reason "cell_too_long", "not_a_number", ..."""
    for name, value in record.items():
        if isinstance(value, float) and value - value != 0:  # NaN and the infinities
            raise RowError("not_a_number", f"{name!r} is {value}, which is no number")
        if kind != ".xlsx":
            continue
        text = _as_text(value)
        length = len(text) + sum(character > "\uffff" for character in text)
        if length > CELL_CHARACTERS:
            raise RowError(
                "cell_too_long",
                f"{name!r} has {length:,} characters, an Excel cell holds {CELL_CHARACTERS:,}; write .csv or .jsonl",
            )


def count_formulas(record: Record) -> int:
    """Cells of a record that a spreadsheet would compute when it opens them from CSV: "=1+1", "@SUM(A1)"; not "-5"."""
    return sum(isinstance(value, str) and FORMULA.match(value) is not None for value in record.values())


class RecordWriter(ABC):
    """Writes records of the same columns to one file; a context manager."""

    @abstractmethod
    def write(self, record: Record) -> None:
        """Append one record, which check_writable has passed; a column it does not have stays empty."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file."""

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_writer(path: Path, columns: list[str], kind: str | None = None) -> RecordWriter:
    """A writer for the file, by what its name ends in, or of the kind given: ".xlsx"."""
    kind = kind or kind_of(path)
    if kind == ".jsonl":
        return JsonLinesWriter(path, columns)
    return CsvWriter(path, columns) if kind == ".csv" else ExcelWriter(path, columns)


class JsonLinesWriter(RecordWriter):
    """One JSON object per line, in UTF-8."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        self._file = path.open("wb")
        self._columns = columns

    def write(self, record: Record) -> None:
        """Append one line."""
        self._file.write(orjson.dumps({name: record.get(name) for name in self._columns}) + b"\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class CsvWriter(RecordWriter):
    """RFC 4180 in UTF-8; nothing is empty text, lists and objects are JSON."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)  # lines end in \r\n: so a text with either of them is quoted
        self._columns = columns
        self._writer.writerow(columns)

    def write(self, record: Record) -> None:
        """Append one line."""
        cells = [_as_text(record.get(name)) for name in self._columns]
        if len(cells) == 1 and not cells[0]:
            self._file.write('""\r\n')  # csv would write a blank line, which is no row
        else:
            self._writer.writerow(cells)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class ExcelWriter(RecordWriter):
    """One sheet, written row by row; text stays text even if it looks like a formula or number."""

    def __init__(self, path: Path, columns: list[str]) -> None:
        from openpyxl import Workbook  # takes 0.2 s

        self._path, self._columns = path, columns
        self._workbook = Workbook(write_only=True)
        self._sheet = self._workbook.create_sheet("rows")
        self._sheet.append([self._make_cell(name) for name in columns])

    def write(self, record: Record) -> None:
        """Append one row to the sheet."""
        self._sheet.append([self._make_cell(record.get(name)) for name in self._columns])

    def close(self) -> None:
        """Write the workbook around the sheet."""
        self._workbook.save(self._path)

    def _make_cell(self, value: Json) -> object:
        from openpyxl.cell import WriteOnlyCell

        from sft.data.files.excel import escape_text

        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < EXACT_NUMBERS
        if value is None or value == "" or is_number:
            return value
        cell = WriteOnlyCell(self._sheet)
        # Past the setter, which makes "=1+1" a formula and "#N/A" an error and cuts the escaped text at 32,767.
        cell._value, cell.data_type = escape_text(_as_text(value)), "s"
        return cell


def _as_text(value: Json) -> str:
    """What a cell holds: text as it is, nothing as "", true as "true", lists and objects as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # also beyond 64 bits, where orjson ends
    return "" if value is None else orjson.dumps(value).decode()
