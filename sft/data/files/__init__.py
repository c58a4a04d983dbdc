"""Files as records: JSONL, a JSON array, CSV, TSV, Parquet, Excel and plain text, with the line of all that is found.

Text files may be packed (.gz, .zst, .bz2, .xz).

    for found in read_records(Path("reports.jsonl")):
        found.line, found.fields           # 17, {"instruction": ..., "output": ...}
        found.reason, found.message        # of a BadRecord: "not_json", "not valid JSON: ..."

A record that cannot be read is yielded as a BadRecord and reading continues; a file that cannot be read is a DataError.
"""

import difflib
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path

from sft.data.files.encoding import UTF8, choose_encoding
from sft.data.files.json_files import is_one_row_a_line, parse_lines, read_json
from sft.data.files.opening import PACKED, is_packed, kind_of_bytes, kind_of_file, open_bytes
from sft.data.files.plain_text import read_plain_text
from sft.data.files.separated import read_separated
from sft.data.files.tables import declared_classes, read_parquet
from sft.data.rows.fields import BadRecord, GoodRecord
from sft.errors import DataError

__all__ = [
    "PACKED",
    "READABLE",
    "BadRecord",
    "GoodRecord",
    "declared_classes",
    "kind_of_file",
    "nearest_file",
    "parse_lines",
    "read_line_blocks",
    "read_records",
]

BLOCK_BYTES = 1 << 20
READABLE = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".xlsx", ".txt")
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

    encoding: of a text file, where the user names it ("cp1252"); else UTF-8, or what its bytes tell.
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
    """What to say of a missing file: "; did you mean 'reviews.csv'?" for `reviews` beside it, "" if none is near."""
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
    except UnicodeDecodeError as error:  # behind a mark of UTF-16 or UTF-32, which is believed
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
    if kind == ".txt":
        return read_plain_text(path, codec)
    return read_separated(path, codec) if kind in (".csv", ".tsv") else read_json(path, codec)
