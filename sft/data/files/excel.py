r"""Excel sheets (.xlsx) as records, streamed: text exactly as it is in the cell, and the row number of everything.

"=1+1", "NA" and "001" that were typed as text stay that. What only looks like text is not made text: a formula, a date,
an error and a number whose digits Excel has rounded come as a NotAValue, and a row that needs such a cell is refused
with words. The first visible sheet is read; its first row that is not empty names the columns.

Excel files escape control characters in text (_x0001_; ECMA-376 part 1, 22.9.2.19, ST_Xstring). openpyxl neither
escapes nor unescapes, so texts would come back changed; both is done here:

    unescape_text("_x0001_ _x005F_x0001_")        # "\x01 _x0001_"
    escape_text("\x01 _x0001_")                   # and back
"""

import contextlib
import re
import tempfile
import warnings
import zipfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from openpyxl.cell.text import Text
from openpyxl.reader.excel import ExcelReader
from openpyxl.utils import get_column_letter
from openpyxl.utils.escape import unescape
from openpyxl.workbook import Workbook
from openpyxl.worksheet._read_only import ReadOnlyWorksheet
from openpyxl.worksheet._reader import WorkSheetParser
from openpyxl.xml.constants import SHARED_STRINGS, SHEET_MAIN_NS
from openpyxl.xml.functions import iterparse

from sft.console import warn
from sft.data.rows.canonical import BadRecord, GoodRecord, Json, NotAValue, name_kind
from sft.errors import DataError

ROW, ALL_ROWS = f"{{{SHEET_MAIN_NS}}}row", f"{{{SHEET_MAIN_NS}}}sheetData"
OLD_EXCEL = b"\xd0\xcf\x11\xe0"  # .xls, and .xlsx with a password: both lie in a compound file
EXACT_NUMBERS = 10**15  # Excel keeps 15 digits of a number and makes the rest zeros
BOMB_BYTES, BOMB_RATIO = 16 << 20, 200  # of one part, unpacked; sheets of texts shrink 3- to 40-fold
Cells = dict[int, Json]  # column number from 1 -> value; empty cells are left out
STRING = f"{{{SHEET_MAIN_NS}}}si"
WORKBOOK, STRICT = "xl/workbook.xml", b"http://purl.oclc.org/ooxml/"  # the namespaces of Excel's other .xlsx
MEMORY_BYTES = 16 << 20  # a larger table goes to disk

# What XML cannot hold, carriage returns (XML makes them newlines), and underscores that would be taken for an escape.
TO_ESCAPE = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")


class SheetRow(NamedTuple):
    """One row that is not empty: its number from 1, and its cells."""

    number: int
    cells: Cells


def read_xlsx(path: Path) -> Iterator[GoodRecord | BadRecord]:
    """The rows under the header of the first visible sheet; `line` is Excel's row number.

    An empty cell is "", as in CSV. Raises DataError for a file that is no workbook, has a password, is a zip
    bomb or breaks off, with the row before which it does.
    """
    rows = _read_sheet(path)
    header_row = next(rows, None)
    if header_row is None:
        raise DataError(f"{path}: the file has no rows, only empty cells")
    header = _read_header(path, header_row)
    for row in rows:
        yield _make_record(row, header)


def _read_header(path: Path, row: SheetRow) -> dict[int, str]:
    header: dict[int, str] = {}
    names: set[str] = set()
    for column, name in row.cells.items():
        where = f"{path}:{row.number}"
        if not isinstance(name, str):
            raise DataError(
                f"{where}: the first row must name the columns; {get_column_letter(column)} is {name_kind(name)}"
            )
        if name in names:
            raise DataError(f"{where}: column {name!r} is there twice; rename one")
        header[column] = name
        names.add(name)
    return header


def _make_record(row: SheetRow, header: dict[int, str]) -> GoodRecord | BadRecord:
    nameless = next((column for column in row.cells if column not in header), None)
    if nameless is not None:
        cell = f"{get_column_letter(nameless)}{row.number}"
        if len(header) == 1 < len(row.cells):
            what = f"{len(row.cells)} cells, but the first row names one column; it must name all: remove rows above it"
            return BadRecord(row.number, "wrong_columns", what)
        return BadRecord(
            row.number, "wrong_columns", f"cell {cell} is under no column name; name the column or empty the cell"
        )
    return GoodRecord(row.number, {name: row.cells.get(column, "") for column, name in header.items()})


def _read_sheet(path: Path) -> Iterator[SheetRow]:
    last = 0
    try:
        _refuse_no_workbook(path)
        with path.open("rb") as file:
            reader = _Reader(file)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of styles and extensions, which carry no data
                reader.read()
            for last, cells in _read_rows(reader, _choose_sheet(path, reader.wb)):
                yield SheetRow(last, cells)
    except (DataError, GeneratorExit, MemoryError):
        raise
    except Exception as error:  # a damaged file can fail anywhere in zip, XML and openpyxl, with any exception
        where = f"{path}: after row {last}" if last else str(path)
        reason = str(error.args[0] if error.args else type(error).__name__).partition("\n")[0].rstrip(".")
        raise DataError(f"{where}: not a sound Excel file ({reason}); save it again as .xlsx") from None


def _refuse_no_workbook(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(4) == OLD_EXCEL:
            raise DataError(f"{path}: an old .xls, or protected by a password; save it as .xlsx without one")
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path}: not a sound Excel file (no zip archive, or cut off); save it again as .xlsx")
    with zipfile.ZipFile(path) as archive:
        if WORKBOOK in archive.namelist() and STRICT in archive.read(WORKBOOK)[:4096]:
            raise DataError(f"{path}: a Strict Open XML workbook; save it as Excel Workbook (.xlsx), without Strict")
        for part in archive.infolist():
            if part.file_size > BOMB_BYTES and part.file_size > BOMB_RATIO * part.compress_size:
                ratio = part.file_size // max(1, part.compress_size)
                raise DataError(
                    f"{path}: unpacks {ratio:,}-fold to {part.file_size / 1e6:,.0f} MB, which no sheet of texts does "
                    "(a zip bomb?); write the rows as .csv or .jsonl"
                )


class _Reader(ExcelReader):
    """openpyxl's reader of a workbook, without sheets; the table of texts stays on disk and is unescaped."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, read_only=True, keep_links=False)

    def read_strings(self) -> None:
        part = self.package.find(SHARED_STRINGS)
        with contextlib.nullcontext() if part is None else self.archive.open(part.PartName[1:]) as source:
            self.shared_strings = SharedStrings(source)

    def read_properties(self) -> None:
        """Author and dates are nothing that rows need."""

    read_custom = read_theme = read_properties


class _Parser(WorkSheetParser):
    """openpyxl's parser of rows; texts that are in the cell itself are unescaped too."""

    def parse_cell(self, element):  # type: ignore[no-untyped-def]  # as in openpyxl
        cell = super().parse_cell(element)
        if element.get("t") in ("inlineStr", "str") and isinstance(cell["value"], str) and cell["data_type"] == "s":
            cell["value"] = unescape_text(cell["value"])
        return cell


def _choose_sheet(path: Path, workbook: Workbook) -> ReadOnlyWorksheet:
    sheets = [sheet for sheet in workbook.worksheets if sheet.sheet_state == "visible"]
    if not sheets:
        raise DataError(f"{path}: the file has no visible sheet; save the rows in one")
    if len(sheets) > 1:
        others = ", ".join(repr(sheet.title) for sheet in sheets[1:])
        warn(f"{path}: only its first sheet {sheets[0].title!r} is read, not {others}")
    return sheets[0]


def _read_rows(reader: _Reader, sheet: ReadOnlyWorksheet) -> Iterator[tuple[int, Cells]]:
    workbook = reader.wb
    parser = _Parser(
        None,
        reader.shared_strings,
        epoch=workbook.epoch,
        date_formats=workbook._date_formats,
        timedelta_formats=workbook._timedelta_formats,
    )
    with reader.archive.open(sheet._worksheet_path) as source:
        all_rows = None
        for event, element in iterparse(source, events=("start", "end")):
            if event == "start":
                all_rows = element if element.tag == ALL_ROWS else all_rows
            elif element.tag == ROW:
                number, cells = parser.parse_row(element)
                parser.row_dimensions.clear()
                if all_rows is not None:
                    all_rows.clear()  # else a million empty elements stay in memory
                found = {cell["column"]: _read_value(cell["value"], cell["data_type"]) for cell in cells}
                found = {column: value for column, value in found.items() if value not in (None, "")}
                if found:
                    yield number, found


def _read_value(value: object, data_type: str) -> Json:
    if data_type == "s" or value is None or isinstance(value, bool):
        return value  # type: ignore[return-value]  # text
    if data_type == "f":
        return _not_a_value("a formula (paste it as a value)")
    if data_type == "e":
        return _not_a_value(f"an error ({value})")
    if data_type == "n" and isinstance(value, int | float):
        if abs(value) >= EXACT_NUMBERS:
            return _not_a_value("a number of more than 15 digits, which Excel has rounded (format the column as text)")
        return int(value) if float(value).is_integer() else value  # Excel has one kind of number: 1.0 is 1
    return _not_a_value("a date (format the column as text)")


def _not_a_value(kind: str) -> Json:
    return NotAValue(kind)  # type: ignore[return-value]  # see NotAValue


def escape_text(text: str) -> str:
    r"""Text as it must be in a cell's XML: "a\x01" -> "a_x0001_"."""
    return TO_ESCAPE.sub(lambda match: f"_x{ord(match.group()):04X}_", text)


def unescape_text(text: str) -> str:
    r"""Text as it was meant: "a_x0001_" -> "a\x01". Escaped halves of a character beyond U+FFFF are joined."""
    plain = unescape(text)
    return plain if plain is text else plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


class SharedStrings:
    """A workbook's table of texts, read once from its XML and kept on disk: 8 bytes of memory a text.

    openpyxl uses it like its list of strings, by number. The file has no name and is deleted with this object.
    """

    def __init__(self, source: IO[bytes] | None) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115  lives as long as this
        self._ends = array("Q", [0])
        root = None
        for event, element in iterparse(source, events=("start", "end")) if source else ():
            root = element if root is None else root
            if event == "end" and element.tag == STRING:
                data = unescape_text(Text.from_tree(element).content).encode("utf-8", "surrogatepass")
                self._spool.write(data)
                self._ends.append(self._ends[-1] + len(data))
                root.clear()

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < len(self._ends) - 1:
            raise IndexError(f"a cell names text {number} of {len(self._ends) - 1}")
        start, end = self._ends[number], self._ends[number + 1]
        self._spool.seek(start)
        return self._spool.read(end - start).decode("utf-8", "surrogatepass")
