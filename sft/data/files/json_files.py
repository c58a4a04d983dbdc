"""JSONL and JSON arrays: fast for clean lines, strict and with precise errors for others.

A row is an object; a list of turns is one, too: [{"role": "user", ...}, ...] is {"messages": [...]}.

orjson reads a clean line in a microsecond, but keeps the last of two equal keys and says little about an error. A
line it refuses, or that may hold a key twice, is read again by the standard library's decoder with all checks on.
"""

import itertools
import json
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import orjson

from sft.data.files.opening import UTF8, open_bytes, open_text
from sft.data.rows.canonical import BadRecord, GoodRecord, Json, Record, RowError, name_kind
from sft.errors import DataError

TURNS = re.compile(r'\[\s*\{\s*"(?:role|from|content|value)"\s*:')
TURN_KEYS = {"role", "from"}  # of which every turn of a conversation has one
KEY = re.compile(rb'"\s*:')  # one match for each key; more where a text holds the like
BLANK_OR_COMMA = " \t\r\n,"
SEVERAL = re.compile(r'\}[\s,]*\{"')  # consecutive objects on a line, outside a list
# Text at which JSON cannot continue, and the advice for it.
TELLING_STARTS = {
    ("//", "/*", "#"): "a comment, which JSON does not have",
    ("'",): "single quotes, as Python prints them: write the rows with json.dumps",
    ("None", "True", "False", "nan", "undefined"): "no JSON: write null, true, false (json.dumps does)",
    ("<!", "<html", "<?xml"): "a web page, not rows (a download that failed?)",
    ("version https://git-lfs",): "a Git LFS pointer in place of the file: run git lfs pull",
    ("\0",): "zero bytes (a copy that failed, or a disk)",
}
SPACE_OR_COMMA = re.compile(r"[\s,]*")


def read_json(path: Path, encoding: str = UTF8) -> Iterator[GoodRecord | BadRecord]:
    """One object per line, or one array of objects: the first character decides, not the file's name."""
    yield from read_lines(path, encoding) if is_one_row_a_line(path, encoding) else read_array(path, encoding)


def is_one_row_a_line(path: Path, encoding: str = UTF8) -> bool:
    """Whether a file is JSONL: no array, no objects spread over lines, none after each other with \\r between them.

    Raises DataError if it holds nothing.
    """
    with open_text(path, encoding, newline="\n") as file:
        filled = (line for line in file if line.strip())
        start, following = next(filled, "").strip(), next(filled, "").strip()
    if not start:
        raise DataError(f"{path}: the file has no rows, only blank lines")
    if start.startswith("["):
        return (
            bool(TURNS.match(start)) and start.endswith("]") and following.startswith("[")
        )  # a list of turns per line
    is_spread = start == "{" and following.startswith(('"', "}"))  # "{" and a key: objects as printers write them
    return not is_spread and "\r" not in start and not _holds_several(start)


def _holds_several(line: str) -> bool:
    """Whether a line is objects after each other, with or without commas between them."""
    if not SEVERAL.search(line):
        return False
    try:
        _, end = json.JSONDecoder().raw_decode(line.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return False
    return line.removeprefix("\ufeff")[end:].lstrip(BLANK_OR_COMMA).startswith("{")


def read_lines(path: Path, encoding: str = UTF8) -> Iterator[GoodRecord | BadRecord]:
    """JSONL. Blank lines are no rows; a byte-order mark is skipped; lines end in \\n or \\r\\n."""
    if encoding == UTF8:
        with open_bytes(path) as file:
            yield from parse_lines(file, first_line=1)
        return
    with open_text(path, encoding, newline="\n") as text:
        for number, line in enumerate(text, start=1):
            try:
                yield from parse_lines([line.encode()], number)
            except UnicodeEncodeError:
                yield BadRecord(number, "invalid_utf8", f"contains bytes that are not {encoding}")


def parse_lines(lines: Iterable[bytes], first_line: int) -> Iterator[GoodRecord | BadRecord]:
    """Records of some lines of a JSONL file, the first of which has this number."""
    for number, line in enumerate(lines, start=first_line):
        if number == 1:
            line = line.removeprefix(BOM_UTF8)
        if line.isspace() or not line:
            continue
        try:
            yield GoodRecord(number, parse_line(line))
        except RowError as error:
            yield BadRecord(number, error.reason, str(error))


def is_record(line: str) -> bool:
    """Whether a line of text is a JSON object."""
    try:
        return line.lstrip().startswith("{") and isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False


def parse_line(line: bytes) -> Record:
    """One line of JSONL as a record; raises RowError with the reason."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _parse_strictly(line)
    value = as_record(value)
    return value if len(KEY.findall(line)) == _count_keys(value) else _parse_strictly(line)


def as_record(value: Json) -> Record:
    """An object, or the row that a list of turns is; raises RowError for anything else."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and value and all(isinstance(turn, dict) and turn.keys() & TURN_KEYS for turn in value):
        return {"messages": value}
    what = "null" if value is None else name_kind(value)
    if isinstance(value, str) and value.lstrip().startswith("{"):
        what = "text that is JSON itself (encoded twice)"
    raise RowError("not_an_object", f"{what}, expected an object")


def _parse_strictly(line: bytes) -> Record:
    try:
        text = line.decode("utf-8").strip().removeprefix("\ufeff")  # files with a mark, one put after the other
    except UnicodeDecodeError as error:
        raise RowError("invalid_utf8", f"byte {error.start + 1} of the line is not UTF-8") from None
    decoder = StrictDecoder()
    value, end = decoder.decode(text, 0)
    if text[end:].strip(BLANK_OR_COMMA):  # a comma after it: an array without its brackets
        what = "another one" if text[end:].lstrip(BLANK_OR_COMMA).startswith("{") else "more text"
        raise RowError("not_json", f"not valid JSON: {what} after the object (column {end + 1})")
    return decoder.check(value)


class StrictDecoder:
    """The standard library's JSON decoder with what it lets pass found out: equal keys, NaN, lone surrogates."""

    def __init__(self) -> None:
        self._problem: RowError | None = None
        self._decoder = json.JSONDecoder(object_pairs_hook=self._make_object, parse_constant=self._note_constant)

    def decode(self, text: str, start: int) -> tuple[Json, int]:
        """The value that begins at `start` and its end; raises RowError if it is not JSON."""
        self._problem = None
        try:
            return self._decoder.raw_decode(text, start)
        except json.JSONDecodeError as error:
            raise RowError("not_json", f"not valid JSON: {_explain(text, start, error)}") from None
        except ValueError:  # Python's own limit, against input that takes it minutes
            raise RowError("long_number", "contains a number of thousands of digits; write it as text") from None
        except RecursionError:
            raise RowError("too_deep", "nested too deeply") from None

    def check(self, value: Json) -> Record:
        """The value just decoded, if it is a clean object; raises RowError else."""
        value = as_record(value)
        if self._problem is not None:
            raise self._problem
        if not _is_encodable(value):
            raise RowError("lone_surrogate", "contains half a character (a lone surrogate such as \\ud83d)")
        return value

    def _make_object(self, pairs: list[tuple[str, Json]]) -> dict[str, Json]:
        value = dict(pairs)
        if len(value) != len(pairs):
            twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            self._problem = RowError("duplicate_key", f"key {twice!r} is given twice")
        return value

    def _note_constant(self, name: str) -> None:
        self._problem = RowError("not_a_number", f"holds {name}, which JSON does not have; write null")


def _explain(text: str, start: int, error: json.JSONDecodeError) -> str:
    """What is wrong where JSON cannot continue: `single quotes, as Python prints them: ... (column 2)`."""
    rest = text[error.pos : error.pos + 200].lstrip()
    column = f"column {error.pos - start + 1}"
    for starts, what in TELLING_STARTS.items():
        if rest.startswith(starts):
            return f"{what} ({column})"
    if rest.startswith(("}", "]")) and text[start : error.pos].rstrip().endswith(","):
        return f"a comma too many before it ({column})"
    if error.msg.startswith("Invalid control character"):
        return f"a line break, tab or other control character in a text ({column}): write \\n, \\t"
    if error.msg.startswith("Invalid \\escape"):
        return f"a backslash that begins no escape ({column}): write \\\\"
    hint = " (cut off?)" if not rest or error.msg.startswith("Unterminated") else ""
    return f"{error.msg.removesuffix(' at')} at {column}{hint}"


def read_array(path: Path, encoding: str = UTF8) -> Iterator[GoodRecord | BadRecord]:
    """The objects of one JSON array, or of a file of nothing but objects over any number of lines, one at a time.

    The whole text of the file is in memory; each row is decoded when it is needed.

    Past a syntax error nothing can be found again, so that is a DataError; a row that is sound JSON but unusable is
    a BadRecord. Bytes that are no UTF-8 are carried along as lone surrogates and found there.
    """
    decoder = StrictDecoder()
    with open_text(path, encoding) as file:
        text = file.read()
    start = len(text) - len(text.lstrip())
    is_array = text.startswith("[", start)
    start += is_array
    line, last_line, counted = 1, 0, 0  # of the row, of the row before, and the characters whose lines are counted
    for number in itertools.count(1):
        start = SPACE_OR_COMMA.match(text, start).end()  # type: ignore[union-attr]  # which matches nothing, too
        line += text.count("\n", counted, start)
        counted = start
        if not is_array and start == len(text):
            return
        if is_array and text.startswith("]", start):
            if rest := text[start + 1 :].lstrip():
                line += text.count("\n", start, len(text) - len(rest))
                raise DataError(f"{path}:{line}: more text after the array; keep one array in a file")
            return
        try:
            value, end = decoder.decode(text, start)
        except RowError as error:
            what = "an array" if is_array else "it"
            raise DataError(f"{path}:{line}: {error}; fix the file, {what} cannot be read past this") from None
        try:
            if not _is_encodable(text[start:end]):  # before escapes: bytes, not \ud83d
                shown = "UTF-8" if encoding == UTF8 else encoding
                raise RowError("invalid_utf8", f"contains bytes that are not {shown}")
            yield GoodRecord(line, decoder.check(value))
        except RowError as error:
            which = f"row {number}: " if line == last_line else ""  # of several on one line
            yield BadRecord(line, error.reason, f"{which}{error}")
        start, last_line = end, line


def _count_keys(record: Record) -> int:
    count = 0
    waiting: list[Json] = [record]
    while waiting:  # what orjson returns has no other types: `type() is` takes half of isinstance's time
        inner = waiting.pop()
        held: Iterable[Json] = ()
        if type(inner) is dict:
            count += len(inner)
            held = inner.values()
        elif type(inner) is list:
            held = inner
        waiting += [value for value in held if type(value) is dict or type(value) is list]
    return count


def _is_encodable(value: Json) -> bool:
    try:
        for inner in _containers([value]):
            texts = [*inner, *inner.values()] if isinstance(inner, dict) else inner
            "".join(text for text in texts if isinstance(text, str)).encode()
    except UnicodeEncodeError:
        return False
    return True


def _containers(value: Json) -> Iterator[dict[str, Json] | list[Json]]:
    """Every object and list within a value, itself included; without recursion, for it may be nested deeply."""
    waiting = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, dict):
            yield inner
            waiting += inner.values()
        elif isinstance(inner, list):
            yield inner
            waiting += inner
