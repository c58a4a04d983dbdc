"""The one reader of rows: any accepted file in any accepted form -> canonical rows, each with file and line.

reader = RowReader(Path("reports.jsonl"))
for found in reader:                     # FoundRow(file, line, row) or BadRow(file, line, reason, message)
    ...
reader.describe()                        # "reports.jsonl: 12 rows, recognised as instruction/input/output"

A record that cannot be read is yielded as a BadRecord and reading continues; a file that cannot be read is a DataError.

A plain text file (.txt) is one document, or each of its lines is one: long lines without a blank line between them are
documents, as corpora are written (and as `datasets` reads them); the lines of a book or an article are paragraphs, and
the file is read as one. The reader says which it was.
"""

import difflib
import itertools
import random
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path
from typing import Literal, NamedTuple

import orjson

from prompts.task import is_blank
from sft.console.narration import say_once
from sft.data.files.json_files import is_one_row_a_line, is_record, read_json
from sft.data.files.opening import (
    PACKED,
    UTF8,
    choose_encoding,
    is_packed,
    kind_of_bytes,
    kind_of_file,
    open_bytes,
    open_text,
)
from sft.data.files.separated import read_separated
from sft.data.files.tables import read_parquet
from sft.data.rows.canonical import BadRecord, GoodRecord, Json, Record, Row, RowError
from sft.data.rows.dialects import TABLES, Context, convert_record
from sft.data.rows.entities import TAG
from sft.data.rows.reading import Reading
from sft.data.rows.recognised import Recognised
from sft.errors import DataError

OnBadRow = Literal["error", "quarantine"]
REMEDY = "fix the row, or pass --on_bad_row quarantine"
# What no single row is to blame for: the message itself says what helps.
NO_FAULT_OF_THE_ROW = ("unknown_dialect", "unknown_label", "unknown_task", "missing_column", "preference", "rejected",
                       "tools", "tokens", "by_columns")  # fmt: skip


class FoundRow(NamedTuple):
    """A canonical row with its file and line; the caller that knows the source fills in `id` and `source`."""

    file: str
    line: int
    row: Row


class BadRow(NamedTuple):
    """An unusable row with its file and line: reason "empty_answer", message "'output' is empty"."""

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


BLOCK_BYTES = 1 << 20
READABLE = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".xlsx", ".txt", ".conll")
BINARY = (".parquet", ".xlsx")
# What is not read, and what helps.
REMEDIES = {
    **dict.fromkeys(
        (".xls", ".xlsb", ".xlsm", ".ods"),
        "of the spreadsheets only .xlsx is read; save it as that, or as CSV (UTF-8)",
    ),
    **dict.fromkeys((".zip", ".tar", ".tgz", ".7z", ".rar"), "an archive; unpack it, and name the files in it"),
    **dict.fromkeys((".arrow", ".feather"), "write it as Parquet, e.g. by to_parquet() of datasets or pandas"),
    **dict.fromkeys((".yaml", ".yml"), "no file of rows; a preset is given to build_dataset.py --preset"),
}


def read_records(path: Path, encoding: str | None = None) -> Iterator[GoodRecord | BadRecord]:
    """The records of one file, by what its name ends in; raises DataError where the file as a whole cannot be read.

    encoding: of a text file, if the user names it ("cp1252"); else UTF-8, or recognised from its bytes.
    """
    with _explain_errors(path):
        yield from _read_kind(path, _check_file(path), encoding)


def read_line_blocks(path: Path, encoding: str | None = None) -> Iterator[tuple[int, bytes]] | None:
    """A JSONL file as blocks of whole lines of a megabyte, each with its first line's number; None for other files.

    Blocks can be parsed apart, by parse_lines. Raises DataError if the file as a whole cannot be read.
    """
    with _explain_errors(path):
        if _check_file(path) not in (".jsonl", ".json"):
            return None
        codec = choose_encoding(path, encoding)
        return _read_blocks(path) if codec == UTF8 and is_one_row_a_line(path, codec) else None


def _read_blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    with _explain_errors(path), open_bytes(path) as file:
        line = 1
        while lines := file.readlines(BLOCK_BYTES):
            yield line, b"".join(lines)
            line += len(lines)


def nearest_file(path: Path) -> str:
    """The hint for a missing file: "; did you mean 'reviews.csv'?" for `reviews`, "" if no name is close."""
    if path.exists():
        return ", but a pipe, a socket or a device; give a file of rows"
    stems = {file.name: _stem(file) for file in path.parent.glob("*") if kind_of_file(file) in READABLE}
    near = difflib.get_close_matches(_stem(path), stems.values(), n=1, cutoff=0.7)
    found = min((name for name, stem in stems.items() if stem in near), default="")
    return f"; did you mean {str(path.with_name(found))!r}?" if found else ""


def _stem(path: Path) -> str:
    """The name before its first dot, however it is written: "Reviews.csv.gz" -> "reviews"."""
    return path.name.partition(".")[0].lower()


def _check_file(path: Path) -> str:
    size = path.stat().st_size  # raises FileNotFoundError before the name is judged
    kind = kind_of_file(path)
    if kind in REMEDIES:
        raise DataError(f"{path}: {REMEDIES[kind]}")
    if kind not in READABLE:
        packed = f", also packed ({', '.join(PACKED)})" if is_packed(path) else ""
        what = f"unknown kind of file {kind!r}" if kind else "its name does not end in what it holds"
        raise DataError(f"{path}: {what}; give one of: {', '.join(READABLE)}{packed}")
    if kind in BINARY and is_packed(path):
        raise DataError(f"{path}: {kind} is packed in itself; unpack it first")
    if size == 0:
        raise DataError(f"{path}: the file is empty")
    if kind not in BINARY:
        _check_text(path, kind)
    return kind


def _check_text(path: Path, kind: str) -> None:
    """Raise DataError if the bytes are not those of a text file, or not packed as the name says."""
    with path.open("rb") as file:
        there = kind_of_bytes(file.read(16))
    if is_packed(path):
        if there != path.suffix.lower():
            raise DataError(f"{path}: is not packed as its name says; rename it")
        with open_bytes(path) as packed:
            there = kind_of_bytes(packed.read(16))
    if there:
        raise DataError(f"{path}: is no {kind} file, its bytes are those of {there}; rename it, or unpack it")


@contextmanager
def _explain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path}: no such file{nearest_file(path)}") from None
    except (EOFError, zlib.error, LZMAError) as error:
        raise DataError(f"{path}: the packed file is cut off or damaged ({error}); copy it again") from None
    except UnicodeDecodeError as error:  # after a byte order mark of UTF-16 or UTF-32, which is trusted
        raise DataError(f"{path}: is no sound {error.encoding} ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read_kind(path: Path, kind: str, encoding: str | None) -> Iterator[GoodRecord | BadRecord]:
    if kind in BINARY and encoding is not None:
        raise DataError(f"{path}: encoding {encoding}: only text files have one; leave it out")
    if kind == ".parquet":
        return read_parquet(path)
    if kind == ".xlsx":
        from sft.data.files.excel import read_xlsx  # openpyxl takes 0.2 s

        return read_xlsx(path)
    codec = choose_encoding(path, encoding)
    if kind == ".conll" or (kind in (".txt", ".tsv") and holds_tags(path, codec)):
        return read_tagged(path, codec)
    if kind == ".txt":
        return read_plain_text(path, codec)
    return read_separated(path, codec) if kind in (".csv", ".tsv") else read_json(path, codec)


LONG_LINE = 300  # characters, on average, from which on lines without blank ones between them are documents


def read_plain_text(path: Path, encoding: str) -> Iterator[GoodRecord | BadRecord]:
    """The documents of a file. Raises DataError for one whose lines are JSON, and if there is no text."""
    with open_text(path, encoding, newline=None) as file:
        text = file.read().removeprefix("\ufeff")
    lines = [(number, line) for number, line in enumerate(text.splitlines(), start=1) if not is_blank(line)]
    if not lines:
        raise DataError(f"{path}: the file has no text, only blank lines")
    if is_record(lines[0][1]):
        raise DataError(f"{path}: its lines are JSON objects, so rows; name it .jsonl")
    has_blank_lines = lines[-1][0] - lines[0][0] + 1 > len(lines)
    is_corpus = len(lines) > 1 and not has_blank_lines and sum(len(line) for _, line in lines) >= LONG_LINE * len(lines)
    if is_corpus:
        say_once(f"{path}: {len(lines):,} documents, one per line; others are given as .jsonl", about=path)
    elif len(lines) > 1:
        is_table = len(widths := {line.count("\t") for _, line in lines}) == 1 and widths != {0}
        table = "; it looks like a table of cells separated by tabs, which is named .tsv" if is_table else ""
        say_once(f"{path}: one document of {len(lines):,} lines; several are given as .jsonl{table}", about=path)
    for number, document in lines if is_corpus else [(1, text.strip("\n"))]:
        yield _check_bytes(number, {"text": document}, encoding)


SAMPLE_LINES = 200
TELLING_SHARE = 0.95  # of lines that end in a tag, from which on a file is one of tokens and tags
DOCUMENT_MARK = "-DOCSTART-"  # a line of CoNLL 2003 that is no token


def holds_tags(path: Path, encoding: str) -> bool:
    """Whether a file has a token and its tag per line, as CoNLL 2003 and its like do: "北 B-LOC"."""
    with open_text(path, encoding, newline=None) as file:
        lines = [line.split() for line in itertools.islice(file, SAMPLE_LINES) if line.strip()]
    tags = [cells[-1] for cells in lines if len(cells) > 1 or cells == ["O"]]  # a token that is a space shows none
    num_tagged = sum(tag == "O" or TAG.fullmatch(tag) is not None for tag in tags)
    return num_tagged >= TELLING_SHARE * len(lines) and any(TAG.fullmatch(tag) for tag in tags)


def read_tagged(path: Path, encoding: str) -> Iterator[GoodRecord | BadRecord]:
    """The sentences of a file of tokens and tags, which blank lines part: {"tokens": [...], "ner_tags": [...]}.

    The tag is the last of a line's columns, the token the first, or a space where none is seen; a record's line is that
    of its first token.
    """
    with open_text(path, encoding, newline=None) as file:
        numbered = enumerate(itertools.chain(file, [""]), start=1)
        for is_sentence, lines in itertools.groupby(numbered, key=lambda line: bool(line[1].strip())):
            sentence = [(number, line.strip("\r\n")) for number, line in lines if not line.startswith(DOCUMENT_MARK)]
            if not is_sentence or not sentence:
                continue
            tokens: list[Json] = [
                " " if line[:1].isspace() or line.split() == ["O"] else line.split()[0] for _, line in sentence
            ]
            tags: list[Json] = [line.split()[-1] for _, line in sentence]
            yield _check_bytes(sentence[0][0], {"tokens": tokens, "ner_tags": tags}, encoding)


def _check_bytes(line: int, fields: Record, encoding: str) -> GoodRecord | BadRecord:
    try:
        orjson.dumps(fields)
    except orjson.JSONEncodeError:  # a lone surrogate
        shown = "UTF-8 (--encoding names another)" if encoding == UTF8 else encoding
        return BadRecord(line, "invalid_utf8", f"contains bytes that are not {shown}")
    return GoodRecord(line, fields)
