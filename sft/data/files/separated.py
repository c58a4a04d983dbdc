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
from sft.data.files.opening import UTF8, kind_of_file, open_bytes, open_text
from sft.data.rows.canonical import BadRecord, GoodRecord
from sft.errors import DataError

CELL_LIMIT = min(sys.maxsize, 2**31 - 1)  # characters; the module's own limit is 131,072
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
SAMPLE_LINES = 1000
SAMPLE_CHARACTERS = 1 << 20
LONGEST_CELL = 10_000  # lines of a quoted cell, while it is unclear whether quotes enclose cells at all
BLOCK_BYTES = 1 << 20
BOM_QUOTE = b'\xef\xbb\xbf"'
SHORT_VALUE = 32  # characters of a value that may be in many rows, as a label does
TOLD_SEPARATOR = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)  # Excel's first line that names the delimiter
QUOTED = re.compile(r'"(?:[^"]|"")*"')
NEEDS_QUOTES = re.compile(r'[",;\t\r\n]|^\s|\s$')  # in a quoted cell: why it was quoted
NUMBER = re.compile(r"[-+]?\d*[.,]?\d+")
QUOTE_BEHIND_BLANKS = re.compile(r'[ ]+"')
TELLING_SHARE = 0.8  # of lines, or of cells, from which on what they have is how the file is laid out


class Layout(NamedTuple):
    """How a file is laid out: what separates its cells, what encloses them, and whether its quotes are text."""

    delimiter: str
    is_told: bool = False  # by a first line `sep=;`, which is no row
    plain_quotes: bool = False
    quote: str = '"'
    skips_blanks: bool = False  # after a delimiter, if quoted cells follow spaces

    def reader(self, lines: Iterable[str], *, strict: bool = True) -> Iterator[list[str]]:
        """The cells of each row."""
        quoting: Literal[0, 3] = csv.QUOTE_NONE if self.plain_quotes else csv.QUOTE_MINIMAL
        return csv.reader(
            lines,
            delimiter=self.delimiter,
            quotechar=self.quote,
            skipinitialspace=self.skips_blanks,
            strict=strict,
            quoting=quoting,
        )


def read_separated(path: Path, encoding: str) -> Iterator[GoodRecord | BadRecord]:
    """Rows under a header line; quoted cells may span lines, and a record's line is its first one."""
    csv.field_size_limit(CELL_LIMIT)
    sample = _read_sample(path, encoding)
    layout = _find_layout(path, sample)
    if layout.delimiter == "\t" and _may_quote(path, encoding) and _has_plain_quotes(path, encoding, sample):
        layout = layout._replace(plain_quotes=True)
        say_once(f"{path}: quotes are part of the text: they enclose no cells in this file", about=path)
    with open_text(path, encoding) as file:
        lines = _Lines(file)
        if layout.is_told:
            next(lines)
        reader = layout.reader(lines)
        header = _read_header(path, reader)
        columns = _Columns.of(sample, layout.delimiter, len(header))
        while True:
            line = lines.number + 1
            lines.taken.clear()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise DataError(f"{path}:{line}: a quote opened here is never closed; fix the file") from None
                until = f" up to line {lines.number}" if lines.number > line else ""
                yield BadRecord(line, "wrong_quotes", f"quotes are wrong{until} ({error}); double those inside a cell")
                continue
            if not cells:
                continue  # a blank line is no row
            if len(lines.taken) > 1 and columns.are_like_rows(lines.taken):
                if columns.tell_rows(lines.taken):
                    yield BadRecord(
                        line,
                        "wrong_quotes",
                        f"a quote opened here swallows the rows up to line {lines.number}; double the quotes inside a "
                        "cell",
                    )
                    continue
                say_once(
                    f"{path}:{line}: read as one row up to line {lines.number}, as its quotes say, though each line is "
                    "like a row; if a quote is text there, double it",
                    about=path,
                )
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
    """The delimiter: as the name promises, unless that makes no table of the file and another does; and the quotes."""
    promised = "\t" if kind_of_file(path) == ".tsv" else ","
    told = TOLD_SEPARATOR.fullmatch(sample[0]) if sample else None
    if told:
        return Layout(told.group(1), is_told=True)
    fitting = {delimiter: _fit(sample, Layout(delimiter)) for delimiter in DELIMITERS}
    best = max(DELIMITERS, key=lambda delimiter: (fitting[delimiter], delimiter == promised))
    if fitting[promised] >= 0.5 or fitting[best] < TELLING_SHARE:
        best = promised
    if best != promised:
        say_once(f"{path}: cells are separated by {DELIMITERS[best]}, not {DELIMITERS[promised]}", about=path)
    return _find_quotes(path, sample, Layout(best))


def _find_quotes(path: Path, sample: list[str], layout: Layout) -> Layout:
    """The layout with its quotes: single ones if they enclose cells, and double ones after spaces."""
    lines = sample[1:]
    with_quotes = [line for line in lines if '"' in line]
    if layout.delimiter != "\t" and with_quotes and all(_quotes_behind_blanks(line, layout) for line in with_quotes):
        skipping = layout._replace(skips_blanks=True)
        if _fit(sample, skipping, strict=True) >= max(TELLING_SHARE, _fit(sample, layout)):
            return skipping
    if not lines or with_quotes:
        return layout
    single, cut = layout._replace(quote="'"), re.escape(layout.delimiter)
    enclosed = re.compile(rf"(?:^|{cut})'(?:[^']|'')*'(?:{cut}|\s*$)")
    widths = {len(cells) for cells in single.reader(lines, strict=False) if cells}
    if len(widths) != 1 or sum(map(bool, map(enclosed.search, lines))) < TELLING_SHARE * len(lines):
        return layout
    say_once(f"{path}: cells are enclosed in single quotes", about=path)
    return single


def _quotes_behind_blanks(line: str, layout: Layout) -> bool:
    """Whether a cell of a line is a blank and a quote, taken unchanged and as quotes are read."""
    cells = next(layout.reader([line], strict=False), [])
    return any(map(QUOTE_BEHIND_BLANKS.match, cells)) and any(
        map(QUOTE_BEHIND_BLANKS.match, _split(line, layout.delimiter))
    )


def _fit(sample: list[str], layout: Layout, *, strict: bool = False) -> float:
    """The share of rows that have as many cells as the header, of two cells or more; 0 if it has one."""
    rows = []
    try:
        for cells in layout.reader(sample, strict=strict):
            if cells:
                rows.append(len(cells))
    except csv.Error as error:
        if strict and "unexpected end of data" not in str(error):
            return 0.0  # a sample may end inside a cell; the rows before it are enough
    if not rows or rows[0] < 2:
        return 0.0
    return sum(count == rows[0] for count in rows) / len(rows)


def _may_quote(path: Path, encoding: str) -> bool:
    """Whether some cell of a TSV file starts with a quote; most files have none and are read once."""
    if encoding.startswith("utf-16") or encoding.startswith("utf-32"):
        return True
    before = b"\n"  # the last byte of the block before
    with open_bytes(path) as file:
        while block := file.read(BLOCK_BYTES):
            if any(start in before + block for start in (b'\t"', b'\n"', b'\r"')) or block.startswith(BOM_QUOTE):
                return True
            before = block[-1:]
    return False


def _has_plain_quotes(path: Path, encoding: str, sample: list[str]) -> bool:
    """Whether the quotes of a file of tabs are text: taken as enclosing cells they leave more rows out of shape.

    Or whole cells are in quotes that need none, beside others of their column without.
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
    columns = _Columns.of(sample, "\t", width)
    return _count_unfit_if_quoted(path, encoding, width, columns, enough=num_unfit + 1) > num_unfit


def _count_unfit_if_quoted(path: Path, encoding: str, width: int, columns: "_Columns", enough: int) -> int:
    """Rows of a file of tabs that are out of shape where quotes enclose cells; counted up to `enough`."""
    with open_text(path, encoding) as file:
        lines = _Lines(file, most=LONGEST_CELL)
        reader = Layout("\t").reader(lines)
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
            glued = len(lines.taken) > 1 and columns.are_like_rows(lines.taken) and columns.tell_rows(lines.taken)
            count += bool(cells) and (glued or len(cells) != width)
        return count


class _Columns(NamedTuple):
    """Contents of the lines' columns, by which rows glued together by a stray quote differ from a multi-line cell."""

    delimiter: str
    width: int
    repeated: list[set[str]]  # for each column short values that are in several lines, as labels do
    holds_labels: list[bool]  # for each column whether nearly all lines have such a value there, or a number

    @classmethod
    def of(cls, sample: list[str], delimiter: str, width: int) -> "_Columns":
        """Records of a sample's lines without quotes, after the header; of all lines if every one has quotes."""
        lines = [cells for line in sample[1:] if len(cells := _split(line, delimiter)) == width]
        lines = [cells for cells in lines if not any('"' in cell for cell in cells)] or lines
        counts = [
            Counter(cell for cell in column if 0 < len(cell) <= SHORT_VALUE) for column in zip(*lines, strict=True)
        ]
        repeated = [{value for value, count in counter.items() if count > 1} for counter in counts]
        known = [
            sum(count for value, count in counter.items() if count > 1 or NUMBER.fullmatch(value.strip()))
            for counter in counts
        ]
        holds_labels = [count >= TELLING_SHARE * len(lines) for count in known]
        none: list[set[str]] = [set() for _ in range(width)]
        return cls(delimiter, width, repeated or none, holds_labels or [False] * width)

    def are_like_rows(self, lines: list[str]) -> bool:
        """Whether each line of one record has as many cells as the header."""
        return self.width > 1 and all(len(_split(line, self.delimiter)) == self.width for line in lines if line.strip())

    def tell_rows(self, lines: list[str]) -> bool:
        """Whether such lines are rows, glued by a quote that was opened and not closed.

        Then each has a label or a number where the file's rows have one. Where they have none, of tabs the count alone
        tells, for hardly a text holds them.
        """
        split = [_split(line, self.delimiter) for line in lines if line.strip()]
        if not any(self.holds_labels):
            return self.delimiter == "\t" or any(self._stand_in(column, split) for column in range(self.width))
        return any(self._stand_in(column, split) for column in range(self.width) if self.holds_labels[column])

    def _stand_in(self, column: int, split: list[list[str]]) -> bool:
        values = [cells[column].strip() for cells in split]
        return all(value in self.repeated[column] for value in values) or all(map(NUMBER.fullmatch, values))


def _split(line: str, delimiter: str) -> list[str]:
    return line.rstrip("\r\n").split(delimiter)


def _read_header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next((cells for cells in reader if cells), None)
    except csv.Error as error:
        raise DataError(f"{path}:1: the header line cannot be read ({error})") from None
    if header is None:
        raise DataError(f"{path}: the file has no rows, only blank lines")
    header = [name.strip(BLANK) for name in header]
    if repeated := [name for name, count in Counter(header).items() if name and count > 1]:
        raise DataError(f"{path}:1: column {min(repeated)!r} is there twice; rename one")
    return [name or f"(column {number})" for number, name in enumerate(header, start=1)]


def _check_cells(
    line: int, header: list[str], cells: list[str], delimiter: str, encoding: str
) -> GoodRecord | BadRecord:
    if len(header) == 1 < len(cells):
        what = f"{len(cells)} cells, but the first line names one column; it must name all: remove lines above it"
        return BadRecord(line, "wrong_columns", what)
    if len(cells) != len(header):
        quote = f"quote the {DELIMITERS.get(delimiter, repr(delimiter))} of a text"
        remedy = quote if len(cells) > len(header) else "write the missing ones, be they empty"
        return BadRecord(line, "wrong_columns", f"{len(cells)} cells under a header of {len(header)}; {remedy}")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        shown = "UTF-8 (--encoding names another)" if encoding == UTF8 else encoding
        return BadRecord(line, "invalid_utf8", f"contains bytes that are not {shown}")
    return GoodRecord(line, dict(zip(header, cells, strict=True)))
