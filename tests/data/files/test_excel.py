"""Excel: texts come back exactly, what is no text is named, and a damaged file is one line."""

import zipfile
from datetime import datetime
from pathlib import Path

import openpyxl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sft.data.files.excel import escape_text, unescape_text
from sft.data.files.reader import BadRow, RowReader, read_records
from sft.data.files.writing import check_writable, open_writer
from sft.data.rows.canonical import BadRecord, GoodRecord, RowError
from sft.errors import ConfigError, DataError

texts = st.text(st.characters(exclude_categories=("Cs",)))  # BSON and UTF-8 have no lone surrogates
TREACHEROUS = [
    "=1+1", "+1", "-1", "@SUM(A1)", "'quoted", "NA", "#N/A", "#REF!", "001", "1e5", "1.0", "TRUE", "2026-01-02",
    " led", "trailed \t", "\n", "\r\n", "a\rb", "\x00\x01\x1f\x7f\x85",
    "_x0001_", "_x005F_x0001_", "_x005f_", "_xD83D_",
    "\ufffe\uffff", "\u2028", "😀", "é e\u0301", "<a>&amp;</a>", "]]>", "长" * 32_767, "😀" * 16_383,
]  # fmt: skip


MAIN = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
REL = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
TYPES = "http://schemas.openxmlformats.org/package/2006/content-types"
SPREADSHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml"


def write_workbook(path: Path, rows: str, strings: str = f'<sst xmlns="{MAIN}"/>') -> None:
    """A workbook of one sheet from the XML of its rows and shared texts, as other programs write it."""
    parts = {
        "[Content_Types].xml": (
            f'<Types xmlns="{TYPES}"><Default Extension="xml" ContentType="application/xml"/>'
            f'<Override PartName="/xl/workbook.xml" ContentType="{SPREADSHEET}.sheet.main+xml"/>'
            f'<Override PartName="/xl/sharedStrings.xml" ContentType="{SPREADSHEET}.sharedStrings+xml"/>'
            f'<Override PartName="/xl/worksheets/sheet1.xml" ContentType="{SPREADSHEET}.worksheet+xml"/></Types>'
        ),
        "xl/workbook.xml": (
            f'<workbook xmlns="{MAIN}" xmlns:r="{REL}"><sheets><sheet name="s" sheetId="1" r:id="rId1"/></sheets>'
            "</workbook>"
        ),
        "xl/_rels/workbook.xml.rels": (
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
            f'<Relationship Id="rId1" Type="{REL}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>'
        ),
        "xl/sharedStrings.xml": strings,
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{MAIN}"><sheetData>{rows}</sheetData></worksheet>',
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def write_all(path: Path, values: list[str]) -> None:
    with open_writer(path, ["number", "text"]) as writer:
        for number, value in enumerate(values):
            writer.write({"number": number, "text": value})


@pytest.mark.parametrize("name", ["rows.xlsx", "rows.csv", "rows.jsonl"])
def test_treacherous_texts_come_back_as_they_were(name, tmp_path):
    write_all(tmp_path / name, TREACHEROUS)

    found = list(read_records(tmp_path / name))

    assert [record.fields["text"] for record in found] == TREACHEROUS
    assert [str(record.fields["number"]) for record in found] == [str(n) for n in range(len(TREACHEROUS))]


@pytest.mark.parametrize("suffix", [".xlsx", ".csv", ".jsonl"])
@settings(max_examples=40, deadline=None)
@given(values=st.lists(texts, min_size=1, max_size=8))
def test_any_text_comes_back_as_it_was(suffix, values, tmp_path_factory):
    path = tmp_path_factory.mktemp("any") / f"rows{suffix}"
    write_all(path, values)

    assert [record.fields["text"] for record in read_records(path)] == values


@given(texts)
def test_escaping_is_undone_exactly(text):
    assert unescape_text(escape_text(text)) == text


def test_what_other_programs_store_as_shared_text_is_read_exactly(tmp_path):
    """openpyxl writes plain workbooks with a table of shared strings only when they are saved whole; so does Excel."""
    path = tmp_path / "excel.xlsx"
    strings = "".join(f"<si><t xml:space='preserve'>{text}</t></si>" for text in ("text", "a_x0001_b", "_x005F_x0001_"))
    rich = "<si><r><t>bo</t></r><r><t>ld</t></r><rPh sb='0' eb='1'><t>reading</t></rPh></si>"
    rows = "".join(f'<row r="{n + 1}"><c r="A{n + 1}" t="s"><v>{n}</v></c></row>' for n in range(4))
    write_workbook(path, rows, f'<sst xmlns="{MAIN}">{strings}{rich}</sst>')

    assert list(read_records(path)) == [
        GoodRecord(2, {"text": "a\x01b"}),
        GoodRecord(3, {"text": "_x0001_"}),
        GoodRecord(4, {"text": "bold"}),
    ]


def save(path: Path, *rows: list[object]) -> None:
    """A workbook as openpyxl's users make it."""
    workbook = openpyxl.Workbook()
    for row in rows:
        workbook.active.append(row)
    workbook.save(path)


def test_numbers_are_numbers_and_what_is_no_value_is_named_where_a_row_needs_it(tmp_path):
    path = tmp_path / "rows.xlsx"
    save(
        path,
        ["text", "label", "made"],
        ["good", 1, datetime(2026, 1, 2)],  # a column that is ignored may hold anything
        ["=A1", 1, None],
        [7, 1, None],
        [datetime(2026, 1, 2), 0, None],
        ["#N/A", 0, None],
        [True, 0, None],
        ["good", 10**15 + 1, None],
        ["good", "=1+0", None],
        [None, None, None],
        ["good", None, None],
        [None, 1, None],
        ["fine", 1.0, None],
    )

    found = {row.line: row.message if isinstance(row, BadRow) else row.row["label"] for row in RowReader(path)}

    assert found == {
        2: "正面",
        3: "'text' is a formula (paste it as a value), expected text",
        4: "'text' is a number, expected text",
        5: "'text' is a date (format the column as text), expected text",
        6: "'text' is an error (#N/A), expected text",
        7: "'text' is true or false, expected text",
        8: "label is a number of more than 15 digits, which Excel has rounded (format the column as text)",
        9: "label is a formula (paste it as a value)",
        11: "label is empty",
        12: "'text' is empty",
        13: "正面",
    }


def test_rows_keep_their_numbers_where_others_are_missing(tmp_path):
    path = tmp_path / "rows.xlsx"
    cell = '<row r="{n}"><c r="B{n}" t="inlineStr"><is><t>{text}</t></is></c></row>'
    write_workbook(path, cell.format(n=3, text="text") + cell.format(n=1_000_000, text="far below"))

    assert list(read_records(path)) == [GoodRecord(1_000_000, {"text": "far below"})]


def test_only_the_first_visible_sheet_is_read_and_the_others_are_named(tmp_path, capsys):
    workbook = openpyxl.Workbook()
    workbook.active.sheet_state = "hidden"
    for name in ("rows", "notes"):
        workbook.create_sheet(name).append([name])
    workbook["rows"].append(["x"])
    workbook.save(tmp_path / "rows.xlsx")

    assert list(read_records(tmp_path / "rows.xlsx")) == [GoodRecord(2, {"rows": "x"})]
    said = capsys.readouterr().err
    assert said == f"warning: {tmp_path}/rows.xlsx: only its first sheet 'rows' is read, not 'notes'\n"


def test_a_cell_of_40_000_characters_is_refused_before_it_is_written(tmp_path):
    check_writable(".xlsx", {"text": "x" * 32_767})
    check_writable(".csv", {"text": "x" * 40_000})
    for text, length in (("x" * 40_000, "40,000"), ("😀" * 16_384, "32,768")):
        with pytest.raises(RowError) as caught:
            check_writable(".xlsx", {"text": text})
        assert (caught.value.reason, str(caught.value)) == (
            "cell_too_long",
            f"'text' has {length} characters, an Excel cell holds 32,767; write .csv or .jsonl",
        )


def test_nan_is_refused_before_it_is_written():
    with pytest.raises(RowError, match="'score' is nan, which is no number"):
        check_writable(".jsonl", {"score": float("nan")})


def test_long_numbers_are_written_as_text_and_lists_as_json(tmp_path):
    with open_writer(tmp_path / "rows.xlsx", ["id", "all", "flag", "none"]) as writer:
        writer.write({"id": 12345678901234567, "all": ["正常", 1], "flag": True, "none": None})

    assert list(read_records(tmp_path / "rows.xlsx")) == [
        GoodRecord(2, {"id": "12345678901234567", "all": '["正常",1]', "flag": "true", "none": ""})
    ]


def test_a_file_of_an_unknown_kind_is_not_written(tmp_path):
    with pytest.raises(
        ConfigError, match=r"rows\.parquet: cannot write \.parquet; name one of: \.jsonl, \.csv, \.xlsx"
    ):
        open_writer(tmp_path / "rows.parquet", ["text"])


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.xlsx"
    save(path, ["text"])
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("xl/bomb.xml", "w") as part,
    ):
        for _ in range(300):
            part.write(bytes(1 << 20))

    with pytest.raises(DataError) as caught:
        list(read_records(path))

    assert "-fold to 315 MB, which no sheet of texts does (a zip bomb?); write the rows as .csv" in str(caught.value)


def test_a_strict_workbook_gets_the_advice_to_save_it_as_the_usual_kind(tmp_path):
    path = tmp_path / "strict.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/workbook.xml", '<workbook xmlns="http://purl.oclc.org/ooxml/spreadsheetml/main"/>')

    with pytest.raises(DataError, match="a Strict Open XML workbook; save it as Excel Workbook"):
        list(read_records(path))


def test_a_title_above_the_names_of_columns_is_told_as_such(tmp_path):
    book = openpyxl.Workbook()
    for cells in (["Hotel reviews"], [], ["text", "label"], ["good", 1]):
        book.active.append(cells)
    book.save(tmp_path / "a.xlsx")

    first = next(iter(read_records(tmp_path / "a.xlsx")))

    assert first == BadRecord(
        3, "wrong_columns", "2 cells, but the first row names one column; it must name all: remove rows above it"
    )
