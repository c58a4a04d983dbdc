"""Plain text (.txt) as records {"text": ...}: a file is a document, or each of its lines is one.

Long lines without a blank one between them are documents, as corpora are written (and as `datasets` reads them); the
lines of a book or an article are paragraphs, and the file is read as one. A line reports which.
"""

from collections.abc import Iterator
from pathlib import Path

from prompts.task import is_blank
from sft.console.narration import say_once
from sft.data.files.encoding import UTF8
from sft.data.files.json_files import is_record
from sft.data.files.opening import open_text
from sft.data.rows.fields import BadRecord, GoodRecord
from sft.errors import DataError

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
        say_once(f"{path}: one document of {len(lines):,} lines; several are given as .jsonl", about=path)
    for number, document in lines if is_corpus else [(1, text.strip("\n"))]:
        yield _check_bytes(number, document, encoding)


def _check_bytes(line: int, document: str, encoding: str) -> GoodRecord | BadRecord:
    try:
        document.encode()
    except UnicodeEncodeError:
        shown = "UTF-8 (--encoding names another)" if encoding == UTF8 else encoding
        return BadRecord(line, "invalid_utf8", f"contains bytes that are not {shown}")
    return GoodRecord(line, {"text": document})
