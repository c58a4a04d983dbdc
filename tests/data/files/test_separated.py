"""CSV and TSV as people write them: other delimiters, plain quotes, quotes never closed; no row is glued to another."""

import csv
import io
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sft.data.files import separated
from sft.data.files.opening import open_text
from sft.data.files.reader import read_records
from sft.data.rows.canonical import BadRecord, GoodRecord
from sft.errors import DataError


def read(path: Path, content: str) -> list[GoodRecord | BadRecord]:
    """The records of a file of this content."""
    path.write_text(content, encoding="utf-8", newline="")
    return list(read_records(path))


def cells(path: Path, content: str) -> list[list[object]]:
    """The cells of the sound records."""
    return [list(record.fields.values()) for record in read(path, content) if isinstance(record, GoodRecord)]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize(("delimiter", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "vertical bars")])
def test_the_delimiter_is_recognised_by_the_content_and_printed(suffix, delimiter, name, tmp_path, capsys):
    path = tmp_path / f"rows.{suffix}"
    content = 'text;label\n"good, really";1\n"a;b";0\nno, never;0\n'.replace(";", delimiter)

    assert cells(path, content) == [["good, really", "1"], [f"a{delimiter}b", "0"], ["no, never", "0"]]
    said = capsys.readouterr().err
    assert (f"cells are separated by {name}" in said) == (suffix == "csv" or delimiter != "\t")


def test_commas_stay_the_delimiter_where_the_rows_have_other_ones_in_their_texts(tmp_path):
    content = "text;note,label\na;b;c,1\nd,0\n"

    assert cells(tmp_path / "rows.csv", content) == [["a;b;c", "1"], ["d", "0"]]


def test_the_line_with_which_excel_names_the_delimiter_is_no_header(tmp_path):
    records = read(tmp_path / "rows.csv", "sep=;\r\ntext;label\r\na,b;1\r\n")

    assert records == [GoodRecord(3, {"text": "a,b", "label": "1"})]


@pytest.mark.parametrize(
    "text",
    ['"好"这话不假', '"从不关上', '说"好"', '"整句加引号"'],
    ids=["text behind", "never closed", "within", "a whole cell"],
)
def test_quotes_of_a_file_of_tabs_are_text_where_they_enclose_no_cell(text, tmp_path):
    content = f"text\tlabel\n很干净\t1\n{text}\t1\n很差\t0\n一般{text[0]}\t0\n"

    assert cells(tmp_path / "rows.tsv", content) == [
        ["很干净", "1"],
        [text, "1"],
        ["很差", "0"],
        [f"一般{text[0]}", "0"],
    ]


def test_quotes_of_a_file_of_tabs_enclose_where_only_they_explain_what_is_within(tmp_path):
    rows = [['他说"好"', "1"], ["两行\n文字", "0"], ["有\t制表符", "1"], ["没有", "0"]]
    out = io.StringIO()
    csv.writer(out, delimiter="\t").writerows([["text", "label"], *rows])

    assert cells(tmp_path / "rows.tsv", out.getvalue()) == rows


def test_a_quote_never_closed_is_named_with_its_line_where_it_swallows_rows(tmp_path):
    content = 'text,label\ngood,1\n"opened and not closed,1\nbad,0\nfine",1\nlast,0\n'

    records = read(tmp_path / "rows.csv", content)

    assert [record.line for record in records] == [2, 3, 6]
    assert records[1] == BadRecord(
        3, "wrong_quotes", "a quote opened here swallows the rows up to line 5; double the quotes inside a cell"
    )


def test_a_quote_that_ends_before_text_names_all_the_lines_it_took(tmp_path):
    records = read(tmp_path / "rows.csv", 'text,label\n"open,1\nbad,0\n"x" y,1\nlast,0\n')

    assert [record.line for record in records] == [2, 5]
    assert "quotes are wrong up to line 4" in records[0].message


def test_a_quote_never_closed_to_the_end_of_the_file_ends_the_reading_with_its_line(tmp_path):
    path = tmp_path / "rows.csv"

    with pytest.raises(DataError, match=r"rows\.csv:3: a quote opened here is never closed"):
        read(path, 'text,label\ngood,1\n"open,1\nbad,0\n')


def test_texts_of_several_lines_with_commas_are_no_swallowed_rows(tmp_path):
    rows = [["Hello, world\nfoo, bar", "1"], ["One\nTwo, three", "0"], ["a\n\nb", "1"], ["x, y\nz", "0"]]
    out = io.StringIO()
    csv.writer(out).writerows([["text", "label"], *rows])

    assert cells(tmp_path / "rows.csv", out.getvalue()) == rows


texts = st.text(st.sampled_from("ab好,;\t\"\n '"), min_size=1, max_size=12).filter(lambda text: text.strip())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(texts, texts), min_size=3, max_size=8), delimiter=st.sampled_from(",;\t"))
def test_what_the_csv_module_writes_comes_back_or_is_named_and_never_becomes_other_rows(rows, delimiter, tmp_path):
    # a text with a tab behind a line break looks like a row: of those the test of what is swallowed speaks
    rows = [(one.replace("\t", " ") if "\n" in one else one, other.replace("\t", "")) for one, other in rows]
    assume(delimiter != "\t" or all(one.strip() and other.strip() for one, other in rows))
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([["instruction", "output"], *rows])
    path = tmp_path / ("rows.tsv" if delimiter == "\t" else "rows.csv")

    records = read(path, out.getvalue())

    sound = [tuple(record.fields.values()) for record in records if isinstance(record, GoodRecord)]
    assert [row for row in rows if row in sound] == sound
    assert len(records) == len(rows)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.sampled_from('ab好, "'), min_size=1, max_size=8), min_size=4, max_size=9))
def test_no_two_rows_of_a_file_of_tabs_without_quoting_are_glued(texts, tmp_path):
    labels = [random.Random(0).choice("01") for _ in texts]
    lines = [f"{text}\t{label}" for text, label in zip(texts, labels, strict=True) if text.strip()]

    records = read(tmp_path / "rows.tsv", "\n".join(["text\tlabel", *lines]) + "\n")

    assert len(records) == len(lines)


def test_cells_in_quotes_behind_blanks_are_read_without_either(tmp_path):
    content = 'label, text\n1, "a, b"\n0, "he said ""no"""\n1, "c"\n'

    assert cells(tmp_path / "rows.csv", content) == [["1", "a, b"], ["0", 'he said "no"'], ["1", "c"]]


def test_single_quotes_enclose_cells_where_nearly_all_rows_have_them(tmp_path, capsys):
    quoted = "text,label\n'good, really',1\n'it''s bad',0\n'fine',1\n"

    assert cells(tmp_path / "a.csv", quoted) == [["good, really", "1"], ["it's bad", "0"], ["fine", "1"]]
    assert "cells are enclosed in single quotes" in capsys.readouterr().err
    assert cells(tmp_path / "b.csv", "text,label\n'tis bad,0\nit's good,1\n") == [["'tis bad", "0"], ["it's good", "1"]]


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_a_multiline_cell_with_delimiters_stays_one_cell_if_its_lines_end_in_no_label(suffix, tmp_path, capsys):
    content = 'text;label\n"first;then\nsecond";1\nbad;0\ngood;1\nfine;1\n'.replace(
        ";", "," if suffix == "csv" else "\t"
    )
    text = "first,then\nsecond" if suffix == "csv" else "first\tthen\nsecond"

    assert cells(tmp_path / f"rows.{suffix}", content) == [[text, "1"], ["bad", "0"], ["good", "1"], ["fine", "1"]]
    assert f"rows.{suffix}:2: read as one row up to line 3, as its quotes say" in capsys.readouterr().err


def test_a_quote_that_may_have_swallowed_free_text_is_reported_with_its_lines(tmp_path, capsys):
    content = 'question,answer\nfirst,one\n"How long,A metre\nWhat is 24",A size\nlast,one\n'

    assert len(read(tmp_path / "rows.csv", content)) == 3
    assert "rows.csv:3: read as one row up to line 4, as its quotes say, though each line is like a row" in (
        capsys.readouterr().err
    )


def test_a_file_of_tabs_without_a_quoted_cell_is_read_once(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(separated, "open_text", lambda *given, **more: opened.append(1) or open_text(*given, **more))

    assert cells(tmp_path / "rows.tsv", 'text\tlabel\nsay "yes"\t1\nb\t0\n') == [['say "yes"', "1"], ["b", "0"]]
    assert len(opened) == 2  # the sample, and the rows
