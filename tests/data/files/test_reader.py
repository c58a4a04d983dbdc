"""The one reader: good files of every kind, and a corpus of bad ones, each problem with its line."""

import gzip
import json
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from sft.data.files.json_files import parse_line, read_array
from sft.data.files.reader import BadRow, FoundRow, RowReader, read_records
from sft.data.rows.canonical import BadRecord, GoodRecord
from sft.errors import DataError

GOOD = '{"instruction": "Q", "input": "", "output": "A"}'
GOOD_ROW = {"id": "", "source": "", "task": "instruct", "instruction": "Q", "input": "", "output": "A"}


def read_bytes(folder: Path, name: str, content: bytes) -> list[tuple[int, str]]:
    """Line and reason of every bad row, or line and "ok"."""
    path = folder / name
    path.write_bytes(content)
    return [(found.line, found.reason if isinstance(found, BadRow) else "ok") for found in RowReader(path)]


def lines(*rows: str | bytes, end: bytes = b"\n") -> bytes:
    """Lines as bytes."""
    return b"".join((row.encode() if isinstance(row, str) else row) + end for row in rows)


BAD_LINES = {
    "truncated line": (lines(GOOD, GOOD[:-6]), [(1, "ok"), (2, "not_json")]),
    "truncated in a key": (lines(GOOD, '{"instr'), [(1, "ok"), (2, "not_json")]),
    "two objects on a line": (lines(GOOD, GOOD + GOOD), [(1, "ok"), (2, "not_json")]),
    "objects behind each other": (lines(GOOD + GOOD, GOOD + ", " + GOOD), [(1, "ok")] * 2 + [(2, "ok")] * 2),
    "a list of turns a line": (
        lines('[{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]', "[17]"),
        [(1, "ok"), (2, "not_an_object")],
    ),
    "single quotes": (lines("{'instruction': 'Q'}", GOOD), [(1, "not_json"), (2, "ok")]),
    "trailing comma": (lines('{"instruction": "Q",}'), [(1, "not_json")]),
    "invalid UTF-8": (
        lines(GOOD, b'{"instruction": "\xff", "output": "A"}', GOOD),
        [(1, "ok"), (2, "invalid_utf8"), (3, "ok")],
    ),
    "half a Chinese character": (
        lines(b'{"instruction": "\xe4\xbd", "output": "\xe4\xbd\xa0\xe5\xa5\xbd"}'),
        [(1, "invalid_utf8")],
    ),
    "byte-order mark": (b"\xef\xbb\xbf" + lines(GOOD), [(1, "ok")]),
    "duplicate key": (
        lines('{"instruction": "Q", "output": "A", "output": "B"}', GOOD),
        [(1, "duplicate_key"), (2, "ok")],
    ),
    "duplicate key, spaced": (lines('{"instruction" : "Q", "output" :"A", "output":"B"}'), [(1, "duplicate_key")]),
    "duplicate key within": (
        lines('{"messages": [{"role": "user", "role": "user", "content": "x"}]}'),
        [(1, "duplicate_key")],
    ),
    "text that looks like keys": (lines('{"instruction": "{\\"a\\": 1, \\"a\\": 2}", "output": "A"}'), [(1, "ok")]),
    "NaN": (lines('{"instruction": "Q", "output": "A", "score": NaN}'), [(1, "not_a_number")]),
    "minus Infinity": (lines('{"instruction": "Q", "output": "A", "score": -Infinity}'), [(1, "not_a_number")]),
    "lone surrogate": (lines('{"instruction": "\\ud83d", "output": "A"}'), [(1, "lone_surrogate")]),
    "lone surrogate as a key": (lines('{"\\udc00": 1}'), [(1, "lone_surrogate")]),
    "surrogate pair": (lines('{"instruction": "\\ud83d\\ude00", "output": "A"}'), [(1, "ok")]),
    "raw control character": (lines(b'{"instruction": "a\x01b", "output": "A"}'), [(1, "not_json")]),
    "escaped control character": (lines('{"instruction": "a\\u0000b", "output": "A"}'), [(1, "ok")]),
    "number of 5,000 digits": (lines('{"instruction": "Q", "output": ' + "9" * 5000 + "}"), [(1, "long_number")]),
    "deep nesting": (lines('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}"), [(1, "too_deep")]),
    "a list in place of an object": (lines('["Q", "A"]', GOOD), None),
    "a number in place of an object": (lines(GOOD, "17"), [(1, "ok"), (2, "not_an_object")]),
    "null": (lines(GOOD, "null"), [(1, "ok"), (2, "not_an_object")]),
    "empty answer": (lines('{"instruction": "Q", "output": ""}'), [(1, "empty_answer")]),
    "missing answer": (lines('{"instruction": "Q", "reply": "A"}'), [(1, "unknown_dialect")]),
    "CRLF": (lines(GOOD, GOOD, end=b"\r\n"), [(1, "ok"), (2, "ok")]),
    "no newline at the end": (GOOD.encode(), [(1, "ok")]),
    "blank lines": (lines("", GOOD, "   ", GOOD), [(2, "ok"), (4, "ok")]),
    "unicode line separator in a text": (lines('{"instruction": "a\u2028b\u0085c", "output": "A"}'), [(1, "ok")]),
    "a row of 5 MB": (
        lines('{"instruction": "Q", "output": "' + "长" * 1_700_000 + '"}', GOOD),
        [(1, "ok"), (2, "ok")],
    ),
    "UTF-8 cut by the sample's end": (lines(*[GOOD.replace("A", "答" * 99)] * 400), [(n, "ok") for n in range(1, 401)]),
}


@pytest.mark.parametrize("name", [name for name, (_, expected) in BAD_LINES.items() if expected])
def test_each_line_of_a_jsonl_file_is_accounted_for(name, tmp_path):
    content, expected = BAD_LINES[name]

    assert read_bytes(tmp_path, "rows.jsonl", content) == expected


BAD_ARRAYS = {
    "good": (f"[\n{GOOD},\n{GOOD}\n]\n".encode(), [(2, "ok"), (3, "ok")]),
    "pretty-printed": (json.dumps([json.loads(GOOD)] * 2, indent=1).encode(), [(2, "ok"), (7, "ok")]),
    "byte-order mark": (f"\ufeff[{GOOD}]".encode(), [(1, "ok")]),
    "CRLF": (f"[\r\n{GOOD},\r\n{GOOD}]".encode(), [(2, "ok"), (3, "ok")]),
    "no object": (f"[{GOOD}, 17]".encode(), [(1, "ok"), (1, "not_an_object")]),
    "duplicate key": (
        b'[{"instruction": "Q", "output": "A",\n"output": "B"},\n' + f"{GOOD}]".encode(),
        [(1, "duplicate_key"), (3, "ok")],
    ),
    "NaN": (b'[{"instruction": "Q", "output": NaN}]', [(1, "not_a_number")]),
    "lone surrogate": (b'[{"instruction": "\\ud83d", "output": "A"}]', [(1, "lone_surrogate")]),
    "invalid UTF-8": (
        b'[{"instruction": "\xff", "output": "A"},\n' + f"{GOOD}]".encode(),
        [(1, "invalid_utf8"), (2, "ok")],
    ),
    "empty": (b"[]", []),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_each_object_of_a_json_array_is_accounted_for(name, tmp_path):
    content, expected = BAD_ARRAYS[name]

    assert read_bytes(tmp_path, "rows.json", content) == expected


BAD_TABLES = {
    "good": (b"text,label\n\xe5\xa5\xbd,1\n", [(2, "ok")]),
    "byte-order mark": (b"\xef\xbb\xbftext,label\r\n\xe5\xa5\xbd,1\r\n", [(2, "ok")]),
    "quoted newline": (b'text,label\n"a\nb",1\nc,0\n', [(2, "ok"), (4, "ok")]),
    "too few cells": (b"text,label\na\nb,1\n", [(2, "wrong_columns"), (3, "ok")]),
    "too many cells": (b"text,label\na,b,1\n", [(2, "wrong_columns")]),
    "text behind a quote": (b'text,label\n"a"b,1\nc,0\n', [(2, "wrong_quotes"), (3, "ok")]),
    "invalid UTF-8": (b"text,label\n\xff,1\nc,0\n", [(2, "invalid_utf8"), (3, "ok")]),
    "empty label": (b"text,label\na,\n", [(2, "empty_answer")]),
    "blank line": (b"text,label\n\na,1\n", [(3, "ok")]),
    "a cell of 200,000 characters": (b"text,label\n" + b"a" * 200_000 + b",1\n", [(2, "ok")]),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_each_row_of_a_csv_file_is_accounted_for(name, tmp_path):
    content, expected = BAD_TABLES[name]

    assert read_bytes(tmp_path, "rows.csv", content) == expected


BAD_FILES = {
    "empty.jsonl": (b"", "the file is empty"),
    "blank.jsonl": (b"\n \n", "the file has no rows, only blank lines"),
    "blank.csv": (b"\n\n", "the file has no rows, only blank lines"),
    "utf16be.csv": ("text,label\n很好,1\n".encode("utf-16-be"), "it looks like UTF-16BE without a byte-order mark"),
    "cp1252.csv": ("text,label\nDer Höhepunkt: schöne Gäste für Öl,1\n".encode("cp1252"), "it may be cp1252 (Western"),
    "sheet.xlsx": (b"PK\x03\x04", "not a sound Excel file (no zip archive, or cut off); save it again as .xlsx"),
    "notes.rtf": (b"hello", "unknown kind of file '.rtf'; give one of: .jsonl, .json, .csv, .tsv, .parquet"),
    "broken.parquet": (b"PAR1", "not a sound Parquet file"),
    "quote.csv": (b'text,label\na,1\n"b,0\nc,1\n', "a quote opened here is never closed"),
    "twice.csv": (b"text,text\na,b\n", "column 'text' is there twice; rename one"),
    "object.json": (
        b'{\n "instruction": "Q",\n "output": "A"\n}\n]',
        "not valid JSON: Expecting value at column 1; fix the file, it cannot be read past this",
    ),
    "cut.json": (f"[{GOOD},\n{GOOD[:-9]}".encode(), "not valid JSON: "),
    "open.json": (f"[{GOOD},\n".encode(), "not valid JSON: Expecting value at column 1 (cut off?); fix the file"),
    "arrays.json": (f"[{GOOD}]\n  17".encode(), "more text after the array; keep one array in a file"),
    "zeros.jsonl": (bytes(500), "contains only zero bytes"),
    "sheet.csv": (b"PK\x03\x04\0\0", "is no .csv file, its bytes are those of .zip or .xlsx; rename it"),
    "packed.jsonl": (gzip.compress(b"{}"), "is no .jsonl file, its bytes are those of .gz"),
    "twice.jsonl.gz": (gzip.compress(gzip.compress(b"{}")), "is no .jsonl file, its bytes are those of .gz"),
    "plain.jsonl.gz": (GOOD.encode(), "is not packed as its name says; rename it"),
    "rows.tar.gz": (b"x", "an archive; unpack it, and name the files in it"),
    "rows": (b"x", "its name does not end in what it holds; give one of: .jsonl, .json, .csv"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_read_is_one_line_that_says_why(name, tmp_path):
    content, message = BAD_FILES[name]

    with pytest.raises(DataError) as caught:
        read_bytes(tmp_path, name, content)

    assert str(tmp_path / name) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_per_line_is_read_as_an_array_and_reported(tmp_path):
    with pytest.raises(DataError, match="more text after the array"):
        read_bytes(tmp_path, "rows.jsonl", BAD_LINES["a list in place of an object"][0])


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match=r"nope\.jsonl: no such file"):
        list(RowReader(tmp_path / "nope.jsonl"))


def test_csv_cells_stay_the_text_they_are(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('instruction,input,output\nNA,001,1.0\n"a ""b""",null,=1+1\n', encoding="utf-8")

    found = [(found.row["instruction"], found.row["input"], found.row["output"]) for found in RowReader(path)]

    assert found == [("NA", "001", "1.0"), ('a "b"', "null", "=1+1")]


def test_parquet_rows_are_read_with_their_numbers(tmp_path):
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"text": ["很好", None, "很差"], "label": [1, 0, 0]}), path)

    reader = RowReader(path)

    assert list(reader) == [
        FoundRow(str(path), 1, {"id": "", "source": "", "task": "sentiment", "text": "很好", "label": "正面"}),
        BadRow(str(path), 2, "empty_text", "no 'text'"),
        FoundRow(str(path), 3, {"id": "", "source": "", "task": "sentiment", "text": "很差", "label": "负面"}),
    ]
    assert reader.describe() == (
        f"{path}: 2 rows, recognised as text/label; labels read (sentiment): 0 as 负面, 1 as 正面"
    )


def test_the_reader_says_what_it_recognised_and_what_it_ignored(tmp_path):
    path = tmp_path / "mixed.jsonl"
    path.write_text(f'{GOOD}\n{GOOD}\n{{"text": "好", "label": 1, "qid": 7}}\n', encoding="utf-8")

    reader = RowReader(path, shown_as="mixed.jsonl")

    assert [found.row["task"] for found in reader] == ["instruct", "instruct", "sentiment"]
    assert reader.describe() == (
        "mixed.jsonl: 3 rows, recognised as instruction/input/output (2), text/label (1); "
        "labels read (sentiment): 1 as 正面; ignored columns: qid"
    )


def test_a_row_of_millions_of_characters_is_read_from_an_array(tmp_path):
    path = tmp_path / "long.json"
    long = json.loads(GOOD) | {"output": "x" * 2**21}
    path.write_text(json.dumps([json.loads(GOOD), long, json.loads(GOOD)]), encoding="utf-8")

    assert [len(found.fields["output"]) for found in read_array(path)] == [1, 2**21, 1]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=5), st.booleans())
def test_any_clean_object_is_read_as_it_was_written(record, ascii_only):
    line = json.dumps(record, ensure_ascii=ascii_only).encode("utf-8", errors="surrogatepass")

    assert parse_line(line) == record


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("// May", "a comment, which JSON does not have (column 1)"),
        ("# May", "a comment, which JSON does not have (column 1)"),
        ("{'a': 1}", "single quotes, as Python prints them"),
        ('{"a": None}', "no JSON: write null, true, false"),
        ('{"a": 1,}', "a comma too many before it (column 9)"),
        ('{"a": "b\tc"}', "a line break, tab or other control character in a text (column 9)"),
        ('{"a": "C:\\data"}', "a backslash that begins no escape"),
        ("<!DOCTYPE html>", "a web page, not rows"),
        ("version https://git-lfs.github.com/spec/v1", "a Git LFS pointer in place of the file: run git lfs pull"),
        ("\0\0", "zero bytes"),
        ('"{\\"a\\": 1}"', "text that is JSON itself (encoded twice), expected an object"),
    ],
)
def test_what_is_no_json_is_called_by_its_name(line, what, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{GOOD}\n{line}\n", encoding="utf-8")

    found = list(read_records(path))[1]

    assert isinstance(found, BadRecord)
    assert what in found.message


@pytest.mark.parametrize("name", ["rows.ndjson", "rows.jsonlines", "rows.jl", "rows.NDJSON.gz"])
def test_json_lines_have_several_names(name, tmp_path):
    content = lines(GOOD, GOOD + ",")
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)

    assert [record.line for record in read_records(tmp_path / name) if isinstance(record, GoodRecord)] == [1, 2]


LONG = "A document of its own. " * 20


@pytest.mark.parametrize(
    ("text", "documents", "said"),
    [
        (f"{LONG}\n{LONG}2\n", [LONG, f"{LONG}2"], "2 documents, one per line"),
        (f"{LONG}\n\n{LONG}2\n", [f"{LONG}\n\n{LONG}2"], "one document of 2 lines"),
        ("Some verse,\r\nand more of it.\r\n", ["Some verse,\nand more of it."], "one document of 2 lines"),
        ("\ufeff一行", ["一行"], ""),
    ],
)
def test_a_text_file_is_a_document_or_one_a_line(text, documents, said, tmp_path, capsys):
    path = tmp_path / "notes.txt"
    path.write_text(text, encoding="utf-8", newline="")

    assert [record.fields["text"] for record in read_records(path) if isinstance(record, GoodRecord)] == documents
    assert said in capsys.readouterr().err


def test_a_text_file_of_json_lines_gets_the_advice_to_be_renamed(tmp_path):
    (tmp_path / "rows.txt").write_text(f"{GOOD}\n{GOOD}\n", encoding="utf-8")

    with pytest.raises(DataError, match=r"its lines are JSON objects, so rows; name it \.jsonl"):
        list(read_records(tmp_path / "rows.txt"))


TAGGED = "张 B-PER\n华 E-PER\n \tO\n笑 O\n\n北 B-LOC\n京 E-LOC\n\n"


@pytest.mark.parametrize("name", ["a.conll", "a.bio", "a.bmes", "a.txt", "a.tsv", "a.conll.gz"])
def test_a_file_of_tokens_and_tags_is_read_by_its_sentences(name, tmp_path):
    path = tmp_path / name
    data = ("-DOCSTART- -X- O\n\n" + TAGGED * 20).encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)

    assert list(read_records(path))[:3] == [
        GoodRecord(3, {"tokens": ["张", "华", " ", "笑"], "ner_tags": ["B-PER", "E-PER", "O", "O"]}),
        GoodRecord(8, {"tokens": ["北", "京"], "ner_tags": ["B-LOC", "E-LOC"]}),
        GoodRecord(11, {"tokens": ["张", "华", " ", "笑"], "ner_tags": ["B-PER", "E-PER", "O", "O"]}),
    ]
    found = list(RowReader(path))
    assert {type(row) for row in found} == {FoundRow}
    assert found[0].row["text"] == "张华 笑"


def test_a_text_with_a_word_like_a_tag_at_some_ends_of_lines_stays_a_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("vitamin B-12\nand so on\nblood of type O\n")

    assert [list(record.fields) for record in read_records(path)] == [["text"]]


def test_a_table_called_txt_is_told_its_name(tmp_path, capsys):
    path = tmp_path / "a.txt"
    path.write_text("text\tlabel\ngood\t1\n")

    list(read_records(path))

    assert "it looks like a table of cells separated by tabs, which is named .tsv" in capsys.readouterr().err
