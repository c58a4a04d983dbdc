"""Opening files as bytes or text, packed or not: rows.jsonl, rows.jsonl.gz, rows.csv.zst.

kind_of_file(Path("rows.jsonl.gz"))        # ".jsonl"
open_bytes(Path("rows.jsonl.gz"))          # its unpacked bytes, as a binary file
"""

import io
from pathlib import Path
from typing import BinaryIO, TextIO, cast

PACKED = (".gz", ".zst", ".bz2", ".xz")
OTHER_NAMES = {".ndjson": ".jsonl", ".jsonlines": ".jsonl", ".jl": ".jsonl", ".tab": ".tsv"}
# The first bytes of files that are no text, and what those are.
FIRST_BYTES = {
    b"\x1f\x8b": ".gz",
    b"\x28\xb5\x2f\xfd": ".zst",
    b"BZh": ".bz2",
    b"\xfd7zXZ\0": ".xz",
    b"PK\x03\x04": ".zip or .xlsx",
    b"PAR1": ".parquet",
    b"\xd0\xcf\x11\xe0": ".xls",
    b"ARROW1": ".arrow",
    b"SQLite format 3": ".sqlite",
    b"%PDF-": ".pdf",
}


def is_packed(path: Path) -> bool:
    """Whether a file is compressed, by its name."""
    return path.suffix.lower() in PACKED


def kind_of_file(path: Path | str) -> str:
    """What a file holds, by its name, packed or not: "rows.CSV.gz" -> ".csv", "rows.ndjson" -> ".jsonl"."""
    path = Path(path)
    suffix = (path.with_suffix("") if is_packed(path) else path).suffix.lower()
    return OTHER_NAMES.get(suffix, suffix)


def kind_of_bytes(start: bytes) -> str:
    """What a file is by its first bytes: b"PAR1..." -> ".parquet"; "" if they say nothing, as those of text."""
    return next((kind for sign, kind in FIRST_BYTES.items() if start.startswith(sign)), "")


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, unpacked on the way. Raises OSError, EOFError, zlib.error or LZMAError where it is damaged."""
    kind = path.suffix.lower()
    if kind == ".gz":
        import gzip

        return cast(BinaryIO, gzip.open(path, "rb"))
    if kind == ".bz2":
        import bz2

        return cast(BinaryIO, bz2.open(path, "rb"))
    if kind == ".xz":
        import lzma

        return cast(BinaryIO, lzma.open(path, "rb"))
    if kind == ".zst":
        import pyarrow  # brings zstd, which Python 3.11 lacks

        return cast(BinaryIO, io.BufferedReader(pyarrow.input_stream(str(path), compression="zstd")))
    return path.open("rb")


def open_text(path: Path, encoding: str, *, newline: str | None = "") -> TextIO:
    """The file as text; bytes that are not of the encoding are lone surrogates, to be found row by row."""
    return io.TextIOWrapper(open_bytes(path), encoding, errors="surrogateescape", newline=newline)
