r"""CSV and TSV. Cells stay the text they are: "NA", "001" and "1.0" are not turned into anything.

How a file separates and quotes is read off its content, and said where it is not what its name promises. Two things
are looked for that the format itself does not tell: quotes that are plain text (tabs need no quoting, so that many TSV
files do not know it), and a quote that was opened and never closed, which swallows the rows up to the next quote.
"""

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from prompts.task import BLANK
from sft.console.narration import say_once
from sft.data.files.opening import kind_of_file, open_text
from sft.data.rows.fields import BadRecord, GoodRecord
from sft.errors import DataError

CELL_LIMIT = min(sys.maxsize, 2**31 - 1)  # characters; the module's own limit is 131,072
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SAMPLE_LINES = 1000
SAMPLE_CHARACTERS = 1 << 20
LONGEST_CELL = 10_000  # lines of a cell in quotes, where it is asked whether quotes enclose cells at all
SHORT_VALUE = 32  # characters of a value that may stand in many rows, as a label does
TOLD_SEPARATOR = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)  # Excel's first line that names the delimiter
QUOTED = re.compile(r'"(?:[^"]|"")*"')
NEEDS_QUOTES = re.compile(r'[",;\t\r\n]|^\s|\s$')  # in a quoted cell: why it was quoted
NUMBER = re.compile(r"[-+]?\d*[.,]?\d+")


class Layout(NamedTuple):
    """How a file is laid out: what separates its cells, and whether its quotes are text."""

    delimiter: str
    is_told: bool = False  # by a first line `sep=;`, which is no row
    plain_quotes: bool = False


def read_separated(path: Path, encoding: str) -> Iterator[GoodRecord | BadRecord]:
    """Rows under a header line; quoted cells may span lines, and a record's line is where it begins."""
    csv.field_size_limit(CELL_LIMIT)
    sample = _read_sample(path, encoding)
    layout = _find_layout(path, sample)
    if layout.delimiter == "\t" and _has_plain_quotes(path, encoding):
        layout = layout._replace(plain_quotes=True)
        say_once(f"{path}: quotes are part of the text: they enclose no cells in this file", about=path)
    with open_text(path, encoding) as file:
        lines = _Lines(file)
        if layout.is_told:
            next(lines)
        quoting: Literal[0, 3] = csv.QUOTE_NONE if layout.plain_quotes else csv.QUOTE_MINIMAL
        reader = csv.reader(lines, delimiter=layout.delimiter, strict=True, quoting=quoting)
        header = _read_header(path, reader)
        repeated = _find_repeated(sample, layout, len(header))
        while True:
            line = lines.number + 1
            lines.taken.clear()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise DataError(f"{path}:{line}: a quote opened here is never closed; mend the file") from None
                until = f" up to line {lines.number}" if lines.number > line else ""
                yield BadRecord(line, "wrong_quotes", f"quotes are wrong{until} ({error}); double those inside a cell")
                continue
            if not cells:
                continue  # a blank line is no row
            if len(lines.taken) > 1 and _swallows_rows(lines.taken, layout.delimiter, len(header), repeated):
                yield BadRecord(
                    line,
                    "wrong_quotes",
                    f"a quote opened here swallows the rows up to line {lines.number}; double the quotes inside a cell",
                )
                continue
            yield _check_cells(line, header, cells, layout.delimiter, encoding)


class _Lines:
    """The physical lines of a file, counted; `taken` keeps those of the record being read, which ends at `most`."""

    def __init__(self, file: Iterable[str], most: int = sys.maxsize) -> None:
        self._file = iter(file)
        self._most = most
        self.number = 0
        self.taken: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if len(self.taken) > self._most:
            raise StopIteration
        line = next(self._file)
        self.number += 1
        self.taken.append(line)
        return line


def _read_sample(path: Path, encoding: str) -> list[str]:
    lines: list[str] = []
    size = 0
    with open_text(path, encoding) as file:
        while size < SAMPLE_CHARACTERS and len(lines) < SAMPLE_LINES and (line := file.readline(SAMPLE_CHARACTERS)):
            lines.append(line)
            size += len(line)
    return lines


def _find_layout(path: Path, sample: list[str]) -> Layout:
    """The delimiter: as the name promises, unless that makes no table of the file and another does."""
    promised = "\t" if kind_of_file(path) == ".tsv" else ","
    told = TOLD_SEPARATOR.fullmatch(sample[0]) if sample else None
    if told:
        return Layout(told.group(1), is_told=True)
    fitting = {delimiter: _fit(sample, delimiter) for delimiter in DELIMITERS}
    best = max(DELIMITERS, key=lambda delimiter: (fitting[delimiter], delimiter == promised))
    if fitting[promised] >= 0.5 or fitting[best] < 0.8:
        best = promised
    if best != promised:
        say_once(f"{path}: cells are separated by {DELIMITERS[best]}, not {DELIMITERS[promised]}", about=path)
    return Layout(best)


def _fit(sample: list[str], delimiter: str) -> float:
    """The share of rows that have as many cells as the header, of two cells or more; 0 where it has one."""
    rows = []
    try:
        for cells in csv.reader(sample, delimiter=delimiter):
            if cells:
                rows.append(len(cells))
    except csv.Error:
        pass  # a sample may end within a cell; what was read before it tells enough
    if not rows or rows[0] < 2:
        return 0.0
    return sum(count == rows[0] for count in rows) / len(rows)


def _has_plain_quotes(path: Path, encoding: str) -> bool:
    """Whether the quotes of a file of tabs are text: taken as enclosing cells they leave more rows out of shape.

    Or whole cells stand in quotes that need none, beside others of their column without. Reads the file once, and once
    more where cells begin with a quote.
    """
    with open_text(path, encoding) as file:
        lines = (line.rstrip("\r\n") for line in file if line.strip())
        width = next(lines, "").count("\t") + 1
        num_unfit, num_quoted = 0, 0
        needless: set[int] = set()  # columns of cells in quotes that need none
        without: set[int] = set()  # columns of text without quotes
        for number, line in enumerate(lines):
            num_unfit += line.count("\t") + 1 != width
            if '"' in line or number < SAMPLE_LINES:
                for column, cell in enumerate(line.split("\t")):
                    if cell.startswith('"'):
                        num_quoted += 1
                        if QUOTED.fullmatch(cell) and not NEEDS_QUOTES.search(cell[1:-1]):
                            needless.add(column)
                    elif cell and not NUMBER.fullmatch(cell):
                        without.add(column)
    if not num_quoted:
        return False
    if needless & without and not num_unfit:
        return True
    return _count_unfit_if_quoted(path, encoding, width, enough=num_unfit + 1) > num_unfit


def _count_unfit_if_quoted(path: Path, encoding: str, width: int, enough: int) -> int:
    """Rows of a file of tabs that are out of shape where quotes enclose cells; counted up to `enough`."""
    with open_text(path, encoding) as file:
        lines = _Lines(file, most=LONGEST_CELL)
        reader = csv.reader(lines, delimiter="\t", strict=True)
        count = 0
        while count < enough:
            lines.taken.clear()
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error:
                count += 1
                if len(lines.taken) > LONGEST_CELL:
                    return enough
                continue
            glued = len(lines.taken) > 1 and _swallows_rows(lines.taken, "\t", width, [])
            count += bool(cells) and (glued or len(cells) != width)
        return count


def _find_repeated(sample: list[str], layout: Layout, width: int) -> list[set[str]]:
    """For each column short values that stand in several lines, as labels do."""
    counts: list[Counter[str]] = [Counter() for _ in range(width)]
    for line in sample[1:]:
        cells = line.rstrip("\r\n").split(layout.delimiter)
        if len(cells) == width:
            for counter, cell in zip(counts, cells, strict=True):
                if len(cell) <= SHORT_VALUE:
                    counter[cell] += 1
    return [{value for value, count in counter.items() if value and count > 1} for counter in counts]


def _swallows_rows(lines: list[str], delimiter: str, width: int, repeated: list[set[str]]) -> bool:
    """Whether the lines of one record are rows themselves, glued by a quote that was opened and not closed.

    Each has as many cells as the header, and some column of each holds a value that other rows have, or a number; of
    tabs the count alone tells, for hardly a text holds them.
    """
    split = [line.rstrip("\r\n").split(delimiter) for line in lines if line.strip()]
    if width < 2 or any(len(cells) != width for cells in split):
        return False
    if delimiter == "\t":
        return True
    return any(
        all(cells[column] in repeated[column] for cells in split)
        or all(NUMBER.fullmatch(cells[column].strip()) for cells in split)
        for column in range(width)
    )


def _read_header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next((cells for cells in reader if cells), None)
    except csv.Error as error:
        raise DataError(f"{path}:1: the header line cannot be read ({error})") from None
    if header is None:
        raise DataError(f"{path}: the file holds no rows, only blank lines")
    header = [name.strip(BLANK) for name in header]
    repeated = {name for name in header if name and header.count(name) > 1}
    if repeated:
        raise DataError(f"{path}:1: column {sorted(repeated)[0]!r} is there twice; rename one")
    return [name or f"(column {number})" for number, name in enumerate(header, start=1)]


def _check_cells(
    line: int, header: list[str], cells: list[str], delimiter: str, encoding: str
) -> GoodRecord | BadRecord:
    if len(header) == 1 < len(cells):
        what = f"{len(cells)} cells, but the first line names one column; it must name all: remove what stands above"
        return BadRecord(line, "wrong_columns", what)
    if len(cells) != len(header):
        quote = f"quote the {DELIMITERS.get(delimiter, repr(delimiter))}"
        return BadRecord(line, "wrong_columns", f"{len(cells)} cells under a header of {len(header)}; {quote}")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        shown = "UTF-8" if encoding == "utf-8-sig" else encoding
        return BadRecord(line, "invalid_utf8", f"holds bytes that are not {shown}")
    return GoodRecord(line, dict(zip(header, cells, strict=True)))
