"""A corpus of bad input: a file of every way we know in which rows arrive broken. Made here, not kept as files.

CORPUS["cut.jsonl"](Path("cut.jsonl"))       # writes it
"""

import io
import json
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import openpyxl
import pyarrow
from pyarrow import parquet

GOOD = '{"instruction": "Q", "input": "", "output": "A"}'
TURN, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}
BEIJING = {"start_idx": 0, "end_idx": 2, "entity_text": "北京", "entity_label": "LOC"}
MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"


def lines(*rows: str | bytes | dict[str, object]) -> bytes:
    """JSONL; a good line stands before and behind, so that it shows that reading goes on."""
    encoded = [
        row if isinstance(row, bytes) else (row if isinstance(row, str) else json.dumps(row)).encode() for row in rows
    ]
    return b"".join(row + b"\n" for row in (GOOD.encode(), *encoded, GOOD.replace("Q", "R").encode()))


def sheet(*rows: list[object]) -> bytes:
    """A workbook as openpyxl's users make it."""
    workbook, file = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        workbook.active.append(row)
    workbook.save(file)
    return file.getvalue()


def table(**columns: list[object]) -> bytes:
    """A Parquet file."""
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def with_part(workbook: bytes, name: str, content: bytes) -> bytes:
    """A workbook with one part of its archive replaced."""
    source, file = zipfile.ZipFile(io.BytesIO(workbook)), io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in source.namelist():
            archive.writestr(part, content if part == name else source.read(part))
    return file.getvalue()


def archive(**parts: str) -> bytes:
    """A zip archive that is no workbook."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in parts.items():
            made.writestr(name, content)
    return file.getvalue()


SHEET = sheet(["text", "label"], ["很好", 1], ["很差", 0])
TABLE = table(text=["很好", "很差"], label=[1, 0])
BROKEN_XML = f'<worksheet xmlns="{MAIN}"><sheetData><row r="1"><c r="A1"'.encode()
MISSING_TEXT = (
    f'<worksheet xmlns="{MAIN}"><sheetData><row r="1"><c r="A1" t="s"><v>99</v></c></row></sheetData></worksheet>'
).encode()

CONTENT: dict[str, bytes] = {
    # lines of JSON
    "cut.jsonl": lines(GOOD[:-6]),
    "cut_in_key.jsonl": lines('{"instr'),
    "cut_in_escape.jsonl": lines('{"instruction": "\\u00'),
    "cut_at_the_end.jsonl": lines()[:-9],
    "two_objects.jsonl": lines(GOOD + GOOD),
    "single_quotes.jsonl": lines("{'instruction': 'Q'}"),
    "bare_key.jsonl": lines('{instruction: "Q"}'),
    "trailing_comma.jsonl": lines('{"instruction": "Q",}'),
    "comment.jsonl": lines("// rows of May"),
    "invalid_utf8.jsonl": lines(b'{"instruction": "\xff", "output": "A"}'),
    "half_character.jsonl": lines(b'{"instruction": "' + "你".encode()[:2] + b'", "output": "A"}'),
    "overlong_utf8.jsonl": lines(b'{"instruction": "\xc0\x80", "output": "A"}'),
    "byte_order_mark.jsonl": b"\xef\xbb\xbf" + lines(),
    "carriage_returns.jsonl": lines().replace(b"\n", b"\r\n"),
    "duplicate_key.jsonl": lines('{"instruction": "Q", "output": "A", "output": "B"}'),
    "duplicate_key_within.jsonl": lines('{"messages": [{"role": "user", "role": "user", "content": "x"}]}'),
    "nan.jsonl": lines('{"instruction": "Q", "output": "A", "score": NaN}'),
    "infinity.jsonl": lines('{"instruction": "Q", "output": "A", "score": -Infinity}'),
    "lone_surrogate.jsonl": lines('{"instruction": "\\ud83d", "output": "A"}'),
    "lone_surrogate_key.jsonl": lines('{"\\udc00": 1}'),
    "raw_control.jsonl": lines(b'{"instruction": "a\x01b", "output": "A"}'),
    "nul_bytes.jsonl": lines(b"\x00\x00"),
    "long_number.jsonl": lines('{"instruction": "Q", "output": ' + "9" * 5000 + "}"),
    "deep.jsonl": lines('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    "list_line.jsonl": lines('["Q", "A"]'),
    "number_line.jsonl": lines("17"),
    "null_line.jsonl": lines("null"),
    "huge_and_cut.jsonl": lines('{"instruction": "Q", "output": "' + "长" * 700_000),
    "empty_answer.jsonl": lines({"instruction": "S", "output": ""}),
    "blank_answer.jsonl": lines({"instruction": "S", "output": " \n\t"}),
    "null_answer.jsonl": lines({"instruction": "S", "output": None}),
    "number_answer.jsonl": lines({"instruction": "S", "output": 7}),
    "empty_question.jsonl": lines({"instruction": "", "output": "A"}),
    "missing_answer.jsonl": lines({"instruction": "S", "reply": "A"}),
    "no_columns.jsonl": lines("{}"),
    "no_turns.jsonl": lines({"messages": []}),
    "answer_first.jsonl": lines({"messages": [ANSWER, TURN]}),
    "question_last.jsonl": lines({"messages": [TURN, ANSWER, TURN]}),
    "unknown_speaker.jsonl": lines({"conversations": [{"from": "narrator", "value": "Hi"}]}),
    "null_turn.jsonl": lines({"messages": [TURN, {"role": "assistant", "content": None}]}),
    "turns_as_text.jsonl": lines({"messages": "Hi"}),
    "unknown_label.jsonl": lines({"text": "S", "label": 7}),
    "null_label.jsonl": lines({"text": "S", "label": None}),
    "wrong_span.jsonl": lines({"text": "北京", "entities": [BEIJING | {"start_idx": 1}]}),
    "span_outside.jsonl": lines({"text": "北京", "entities": [BEIJING | {"end_idx": 9}]}),
    "unknown_option.jsonl": lines({"text": "S", "category": ["Art"], "output": "Sports"}),
    "unknown_task.jsonl": lines({"id": "1", "source": "s", "task": "nerr", "text": "S"}),
    # whole files of text
    "empty.jsonl": b"",
    "blank.jsonl": b"\n \n",
    "utf16.jsonl": lines().decode().encode("utf-16"),
    "utf16_unmarked.jsonl": lines().decode().encode("utf-16-le"),
    "utf32.json": b"[]".decode().encode("utf-32"),
    "gb18030.jsonl": '{"text": "房间很干净，服务也好", "label": 1}\n'.encode("gb18030"),
    "object.json": b'{\n "instruction": "Q", "output": "A"\n}\n]',
    "cut.json": f"[{GOOD},\n{GOOD[:-9]}".encode(),
    "open.json": f"[{GOOD},\n".encode(),
    "two_arrays.json": f"[{GOOD}]\n[{GOOD}]".encode(),
    "bad_rows.json": b'[17,\n{"instruction": "\xff", "output": "A"},\n{"instruction": "Q", "output": NaN}]',
    # tables
    "open_quote.csv": b'text,label\na,1\n"b,0\nc,1\n',
    "text_behind_quote.csv": b'text,label\n"a"b,1\nc,0\n',
    "few_cells.csv": b"text,label\na\nb,1\n",
    "many_cells.csv": b"text,label\na,b,1\nc,1\n",
    "column_twice.csv": b"text,text\na,b\n",
    "invalid_utf8.csv": b"text,label\n\xff,1\nc,0\n",
    "gb18030.csv": "text,label\n房间很干净，服务也好,1\n".encode("gb18030"),
    "cp1252.csv": "text,label\nSchöne Zimmer für Gäste,1\n".encode("cp1252"),
    "utf16.csv": "text,label\n很好,1\n".encode("utf-16"),
    "empty_label.csv": b"text,label\na,\nb,1\n",
    "semicolons.csv": b"text;label\na;1\n",
    "wrong_columns.csv": b"question,reply\na,b\n",
    "look_like_others.csv": b"instruction,output\nNA,001\nnull,1.0\n=1+1,2026-01-02\n",
    "blank.csv": b"\n\n",
    "no_parquet.parquet": b"PAR1 is not enough PAR1",
    "cut.parquet": TABLE[:-20],
    "nulls.parquet": table(text=["很好", None], label=[1, 0]),
    "dates.parquet": table(text=[datetime(2026, 1, 2)], label=[1]),
    # Excel
    "formulas.xlsx": sheet(["text", "label"], ["=A1", 1], ["很好", "=1+0"], ["很差", 0]),
    "dates.xlsx": sheet(["text", "label"], [datetime(2026, 1, 2), 1], ["很差", 0]),
    "errors.xlsx": sheet(["text", "label"], ["#N/A", 1], ["很差", 0]),
    "long_ids.xlsx": sheet(["text", "label"], [10**17, 1], ["很差", 10**17], ["很好", 1]),
    "numbered_columns.xlsx": sheet(["text", 7], ["很好", 1]),
    "column_twice.xlsx": sheet(["text", "text"], ["很好", 1]),
    "nameless_column.xlsx": sheet(["text", "label"], ["很好", 1, "?"], ["很差", 0]),
    "empty_cells.xlsx": sheet(["text", "label"], ["很好", None], [None, 1], [None, None], ["很差", 0]),
    "no_rows.xlsx": sheet(),
    "cut.xlsx": SHEET[:-400],
    "no_archive.xlsx": b"text,label\n",
    "protected.xlsx": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "a_document.xlsx": archive(**{"word/document.xml": "<w/>"}),
    "broken_xml.xlsx": with_part(SHEET, "xl/worksheets/sheet1.xml", BROKEN_XML),
    "missing_text.xlsx": with_part(SHEET, "xl/worksheets/sheet1.xml", MISSING_TEXT),
    # other kinds
    "old.xls": b"\xd0\xcf\x11\xe0",
    "notes.rtf": b"hello",
    "no_suffix": b"hello",
    "rows.jsonl.gz": b"\x1f\x8b",
}  # fmt: skip


def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


CORPUS: dict[str, Callable[[Path], object]] = {
    **{name: _write(content) for name, content in CONTENT.items()},
    "a_folder.jsonl": lambda path: path.mkdir(),
    "missing.jsonl": lambda path: None,
}
