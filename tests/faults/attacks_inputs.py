"""Files of rows that are wrong, huge or made to take for ever."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
from pyarrow import parquet

from tests.data.bad_inputs import MAIN, SHEET, sheet, table, with_part
from tests.faults.attacks import Attack
from tests.faults.commands_apart import Limits

KIND = "inputs"
GOOD = {"instruction": "Q", "output": "A"}
TABLE = table(instruction=["Q"] * 12, output=["A"] * 12)
MANY = 100_000


def rows(name: str, *texts: str | bytes) -> Callable[[Path], object]:
    """A file of these lines."""
    content = b"".join((text if isinstance(text, bytes) else text.encode()) + b"\n" for text in texts)
    return lambda folder: (folder / name).write_bytes(content)


def made(name: str, make: Callable[[], bytes]) -> Callable[[Path], object]:
    """A file whose content is made when it is needed."""
    return lambda folder: (folder / name).write_bytes(make())


def good_rows(count: int = 12, **more: object) -> list[str]:
    return [json.dumps({"instruction": f"Q {i}", "output": f"A {i}"} | more) for i in range(count)]


def parquet_with(column: pyarrow.Array) -> Callable[[Path], object]:
    """Sound rows beside a column that nobody reads."""
    count = len(column)
    columns = {"instruction": [f"Q {i}" for i in range(count)], "output": [f"A {i}" for i in range(count)]}
    return lambda folder: parquet.write_table(pyarrow.table(columns | {"made": column}), folder / "rows.parquet")


def arrow(values: list[object], kind: pyarrow.DataType, storage: pyarrow.DataType | None = None) -> pyarrow.Array:
    """An array of a type, from raw numbers where `storage` names their type."""
    return (
        pyarrow.array(values, storage or kind).cast(kind)
        if storage is None
        else pyarrow.array(values, storage).view(kind)
    )


def text_column(*values: bytes) -> pyarrow.Array:
    """A column of text out of any bytes."""
    offsets, data = [0], b""
    for value in values:
        data += value
        offsets.append(len(data))
    buffers = [None, pyarrow.array(offsets, pyarrow.int32()).buffers()[1], pyarrow.py_buffer(data)]
    return pyarrow.StringArray.from_buffers(len(values), buffers[1], buffers[2])


def part_of(**parts: bytes) -> Callable[[], bytes]:
    """A workbook with one part exchanged, or added."""

    def make() -> bytes:
        book = SHEET
        for name, content in parts.items():
            book = with_part(
                book,
                {
                    "sheet": "xl/worksheets/sheet1.xml",
                    "strings": "xl/sharedStrings.xml",
                    "styles": "xl/styles.xml",
                    "book": "xl/workbook.xml",
                }[name],
                content,
            )
        return book

    return make


def with_strings(strings: bytes) -> bytes:
    """A workbook whose texts stand in a table of their own, as Excel's do."""
    source, file = zipfile.ZipFile(io.BytesIO(SHEET)), io.BytesIO()
    kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sharedStrings+xml"
    entry = f'<Override PartName="/xl/sharedStrings.xml" ContentType="{kind}"/></Types>'.encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            content = source.read(name)
            archive.writestr(name, content.replace(b"</Types>", entry) if name == "[Content_Types].xml" else content)
        archive.writestr("xl/sharedStrings.xml", strings)
    return file.getvalue()


def sheet_of(rows: bytes) -> bytes:
    return f'<worksheet xmlns="{MAIN}"><sheetData>'.encode() + rows + b"</sheetData></worksheet>"


HEAD = b'<row r="1"><c r="A1" t="inlineStr"><is><t>text</t></is></c><c r="B1" t="inlineStr"><is><t>label</t></is></c></row>'
LOL = (
    b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY %c "%s">' % (98 + i, b"&%c;" % (97 + i) * 10) for i in range(9))
    + b"]>"
)
TS = pyarrow.timestamp

INSPECT = "inspect_data.py -n 1 --model {model} --data "
PARQUETS: dict[str, tuple[pyarrow.Array, bool]] = {
    "a timestamp in the year 292,277": (arrow([2**62] * 3, TS("us"), pyarrow.int64()), True),
    "a timestamp of nanoseconds": (arrow([1234567890123456789] * 3, TS("ns"), pyarrow.int64()), True),
    "a timestamp before Christ": (arrow([-(2**60)] * 3, TS("ms"), pyarrow.int64()), True),
    "a date in the year 5 million": (arrow([2**31 - 1] * 3, pyarrow.date32(), pyarrow.int32()), True),
    "a date of milliseconds beyond all": (arrow([2**62] * 3, pyarrow.date64(), pyarrow.int64()), True),
    "a time of day of 3 weeks": (arrow([2**60] * 3, pyarrow.time64("us"), pyarrow.int64()), True),
    "a time zone that is none": (arrow([10**15] * 3, TS("us", "Mars/Olympus"), pyarrow.int64()), True),
    "a time zone of 99 hours": (arrow([10**15] * 3, TS("us", "+99:00"), pyarrow.int64()), True),
    "a duration of 292,000 years": (arrow([2**62] * 3, pyarrow.duration("us"), pyarrow.int64()), True),
    "bytes that are no text": (pyarrow.array([b"\xff\xfe"] * 3, pyarrow.binary()), True),
    "text that is no UTF-8": (text_column(b"a", b"\xff", b"c"), True),
    "decimals of 76 digits": (pyarrow.array(["1"] * 3).cast(pyarrow.decimal256(76, 2)), True),
    "lists of dates beyond all": (
        pyarrow.ListArray.from_arrays([0, 1, 2, 3], arrow([2**62] * 3, TS("us"), pyarrow.int64())),
        True,
    ),
    "structs with text that is no UTF-8": (
        pyarrow.StructArray.from_arrays([text_column(b"a", b"\xff", b"c")], ["x"]),
        True,
    ),
    "a dictionary with text that is no UTF-8": (
        pyarrow.DictionaryArray.from_arrays(pyarrow.array([0, 1, 0]), text_column(b"a", b"\xff"), safe=False),
        True,
    ),
    "a map with keys twice": (
        pyarrow.array([[("a", 1), ("a", 2)]] * 3, pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        True,
    ),
    "half floats": (pyarrow.array([1.5] * 3, pyarrow.float32()).cast(pyarrow.float16()), True),
}


def parquet_text(*values: bytes) -> Callable[[Path], object]:
    return lambda folder: parquet.write_table(
        pyarrow.table({"instruction": text_column(*values), "output": ["A"] * len(values)}), folder / "rows.parquet"
    )


def wide_parquet(folder: Path) -> None:
    parquet.write_table(
        pyarrow.table({"instruction": ["Q"], "output": ["A"]} | {f"c{i}": [1] for i in range(20_000)}),
        folder / "rows.parquet",
    )


def deep_parquet(folder: Path) -> None:
    kind, value = pyarrow.int64(), 1
    for _ in range(400):
        kind, value = pyarrow.list_(kind), [value]
    parquet.write_table(
        pyarrow.table({"instruction": ["Q"], "output": ["A"], "x": pyarrow.array([value], kind)}),
        folder / "rows.parquet",
    )


def bomb(kind: str) -> Callable[[], bytes]:
    """A small workbook that unpacks to much."""

    def make() -> bytes:
        if kind == "rows":
            row = b'<row><c t="n"><v>1</v></c><c t="n"><v>1</v></c></row>'
            return part_of(sheet=sheet_of(HEAD + row * 4_500_000))()
        if kind == "empty rows":
            return part_of(sheet=sheet_of(HEAD + b"<row/>" * 40_000_000))()
        if kind == "cells":
            return part_of(sheet=sheet_of(HEAD + b"<row>" + b"<c/>" * 50_000_000 + b"</row>"))()
        if kind == "strings":
            return with_strings(f'<sst xmlns="{MAIN}">'.encode() + b"<si><t>a</t></si>" * 12_000_000 + b"</sst>")
        if kind == "runs":
            return with_strings(f'<sst xmlns="{MAIN}"><si>'.encode() + b"<r><t>a</t></r>" * 12_000_000 + b"</si></sst>")
        if kind == "styles":
            return part_of(
                styles=f'<styleSheet xmlns="{MAIN}"><fonts>'.encode()
                + b"<font/>" * 20_000_000
                + b"</fonts></styleSheet>"
            )()
        if kind == "one text":
            return part_of(
                sheet=sheet_of(
                    HEAD + b'<row r="2"><c r="A2" t="inlineStr"><is><t>' + b"a" * 250_000_000 + b"</t></is></c></row>"
                )
            )()
        if kind == "many parts":
            file = io.BytesIO(SHEET)
            with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
                for i in range(30_000):
                    archive.writestr(f"xl/x{i}.xml", b"<a/>")
            return file.getvalue()
        raise LookupError(kind)

    return make


def deep_list(depth: int) -> str:
    return "[" * depth + "]" * depth


ATTACKS = [
    *(
        Attack(
            KIND,
            f"{name}, in a column of Parquet that nobody reads",
            parquet_with(column),
            INSPECT + "rows.parquet",
            "rows.parquet",
            may_work=ok,
        )
        for name, (column, ok) in PARQUETS.items()
    ),
    Attack(
        KIND,
        "text that is no UTF-8 in a column of Parquet that is read",
        parquet_text(b"a", b"\xff"),
        INSPECT + "rows.parquet",
        r"rows\.parquet:2.*UTF-8",
    ),
    Attack(KIND, "20,000 columns of Parquet", wide_parquet, INSPECT + "rows.parquet", may_work=True),
    Attack(KIND, "lists 400 deep in Parquet", deep_parquet, INSPECT + "rows.parquet", r"rows\.parquet", may_work=True),
    Attack(
        KIND,
        "a key given 100,000 times",
        made("rows.jsonl", lambda: b"{" + b",".join(b'"a":1' for _ in range(MANY)) + b"}\n"),
        INSPECT + "rows.jsonl",
        "'a' is given twice",
    ),
    Attack(
        KIND,
        "100,000 keys of which the last is given twice",
        made("rows.jsonl", lambda: b"{" + b",".join(b'"k%d":1' % i for i in range(MANY)) + b',"k99999":2}\n'),
        INSPECT + "rows.jsonl",
        "'k99999' is given twice",
    ),
    Attack(
        KIND,
        "100,000 keys in a row",
        made("rows.jsonl", lambda: json.dumps({f"k{i}": 1 for i in range(MANY)} | GOOD).encode()),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl|12 rows|texts",
        may_work=True,
    ),
    Attack(
        KIND,
        "other keys in each of 2,000 rows, 100 a row",
        made(
            "rows.jsonl",
            lambda: b"".join(
                json.dumps({f"k{i}_{j}": 1 for j in range(100)} | {"instruction": f"Q{i}", "output": "A"}).encode()
                + b"\n"
                for i in range(2000)
            ),
        ),
        INSPECT + "rows.jsonl",
        may_work=True,
    ),
    Attack(
        KIND,
        "100,000 columns of CSV",
        made("rows.csv", lambda: b",".join(b"c%d" % i for i in range(MANY)) + b"\n" + b",".join([b"1"] * MANY) + b"\n"),
        INSPECT + "rows.csv",
        r"rows\.csv",
    ),
    Attack(
        KIND,
        "100,000 columns of CSV of one name",
        made("rows.csv", lambda: b",".join([b"c"] * MANY) + b"\n" + b",".join([b"1"] * MANY) + b"\n"),
        INSPECT + "rows.csv",
        r"rows\.csv:1: column 'c' is there twice",
    ),
    Attack(
        KIND,
        "a million columns of CSV",
        made(
            "rows.csv", lambda: b",".join(b"c%d" % i for i in range(10**6)) + b"\n" + b",".join([b"1"] * 10**6) + b"\n"
        ),
        INSPECT + "rows.csv",
        r"rows\.csv",
    ),
    Attack(
        KIND,
        "a million empty column names of CSV",
        made("rows.csv", lambda: b"," * 10**6 + b"\n" + b"," * 10**6 + b"\n"),
        INSPECT + "rows.csv",
        r"rows\.csv",
    ),
    Attack(
        KIND,
        "100,000 columns of TSV",
        made(
            "rows.tsv", lambda: b"\t".join(b"c%d" % i for i in range(MANY)) + b"\n" + b"\t".join([b"1"] * MANY) + b"\n"
        ),
        INSPECT + "rows.tsv",
        r"rows\.tsv",
    ),
    Attack(
        KIND,
        "100,000 quotes in a cell",
        made("rows.csv", lambda: b"text,label\n" + b'"' * MANY + b",1\n" + b"b,0\n" * 9),
        INSPECT + "rows.csv",
        r"rows\.csv|rows of",
        may_work=True,
    ),
    Attack(
        KIND,
        "quotes that open cells of 100,000 lines again and again",
        made("rows.csv", lambda: b"text,label\n" + b'"a\n' * MANY),
        INSPECT + "rows.csv",
        r"rows\.csv",
    ),
    Attack(
        KIND,
        "quotes that open cells of 300,000 lines of TSV",
        made("rows.tsv", lambda: b"text\tlabel\n" + b'"a\n' * 300_000),
        INSPECT + "rows.tsv",
        r"rows\.tsv",
    ),
    Attack(
        KIND,
        "16,384 columns of xlsx",
        made("rows.xlsx", lambda: sheet([f"c{i}" for i in range(16_384)], [1] * 16_384)),
        INSPECT + "rows.xlsx",
        r"rows\.xlsx",
    ),
    *(
        Attack(
            KIND,
            f"an xlsx that is small and unpacks to many {kind}",
            made("rows.xlsx", bomb(kind)),
            INSPECT + "rows.xlsx",
            r"rows\.xlsx",
            limits=Limits(seconds=40, memory_gb=6),
            may_work=kind in ("many parts", "one text"),
        )
        for kind in ("rows", "empty rows", "cells", "strings", "runs", "styles", "one text", "many parts")
    ),
    Attack(
        KIND,
        "an xlsx whose XML multiplies entities in its sheet",
        made("rows.xlsx", part_of(sheet=LOL + b"<worksheet>&j;</worksheet>")),
        INSPECT + "rows.xlsx",
        r"rows\.xlsx",
    ),
    Attack(
        KIND,
        "an xlsx whose XML multiplies entities in its texts",
        made("rows.xlsx", lambda: with_strings(LOL + f'<sst xmlns="{MAIN}"><si><t>&j;</t></si></sst>'.encode())),
        INSPECT + "rows.xlsx",
        r"rows\.xlsx",
    ),
    Attack(
        KIND,
        "an xlsx nested 100,000 deep",
        made("rows.xlsx", part_of(sheet=sheet_of(b"<a>" * MANY + b"</a>" * MANY))),
        INSPECT + "rows.xlsx",
        r"rows\.xlsx",
    ),
    Attack(
        KIND,
        "an xlsx whose column is ZZZZZZ",
        made("rows.xlsx", part_of(sheet=sheet_of(HEAD + b'<row r="2"><c r="ZZZZZZ2"><v>1</v></c></row>'))),
        INSPECT + "rows.xlsx",
        r"rows\.xlsx",
    ),
    Attack(
        KIND,
        "an xlsx whose row is number 9 thousand million million",
        made("rows.xlsx", part_of(sheet=sheet_of(HEAD + b'<row r="9999999999999999"><c r="A2"><v>1</v></c></row>'))),
        INSPECT + "rows.xlsx",
        r"rows\.xlsx",
    ),
    Attack(
        KIND,
        "an xlsx with a number of 100,000 digits",
        made(
            "rows.xlsx", part_of(sheet=sheet_of(HEAD + b'<row r="2"><c r="A2"><v>' + b"9" * MANY + b"</v></c></row>"))
        ),
        INSPECT + "rows.xlsx",
        r"rows\.xlsx",
    ),
    Attack(
        KIND,
        "an xlsx with a date in the year 300,000",
        made(
            "rows.xlsx",
            part_of(
                sheet=sheet_of(HEAD + b'<row r="2"><c r="A2" t="d"><v>300000-01-01</v></c><c r="B2"><v>1</v></c></row>')
            ),
        ),
        INSPECT + "rows.xlsx",
        r"rows\.xlsx",
    ),
    Attack(
        KIND,
        "a row nested 100,000 deep in a key that nobody reads",
        rows("rows.jsonl", *good_rows(), '{"instruction": "Q", "output": "A", "x": ' + deep_list(MANY) + "}"),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl:13: nested too deeply",
    ),
    Attack(
        KIND,
        "a row nested 900 deep",
        rows("rows.jsonl", *good_rows(), '{"instruction": "Q", "output": "A", "x": ' + deep_list(900) + "}"),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl:13: nested",
        may_work=True,
    ),
    Attack(
        KIND,
        "turns nested 900 deep",
        rows("rows.jsonl", *good_rows(), '{"messages": ' + deep_list(900) + "}"),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl:13:",
    ),
    Attack(
        KIND,
        "a JSON array of rows, one nested 900 deep",
        rows(
            "rows.json",
            "[",
            ",".join(good_rows()),
            ',{"instruction": "Q", "output": "A", "x": ' + deep_list(900) + "}]",
        ),
        INSPECT + "rows.json",
        r"rows\.json:",
        may_work=True,
    ),
    Attack(
        KIND,
        "turns as a text of JSON nested 100,000 deep",
        rows("rows.jsonl", json.dumps({"messages": deep_list(MANY)})),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl:1:",
    ),
    Attack(
        KIND,
        "entities as a text of JSON nested 100,000 deep",
        rows("rows.jsonl", json.dumps({"text": "北京", "entities": deep_list(MANY)})),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl:1:",
    ),
    Attack(
        KIND,
        "a label that is a number of 5,000 digits",
        rows("rows.jsonl", '{"text": "a", "label": ' + "9" * 5000 + "}"),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl:1:",
    ),
    Attack(
        KIND,
        "a label that is 1e999",
        rows("rows.jsonl", '{"text": "a", "label": 1e999}'),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl: the labels are inf",
    ),
    Attack(
        KIND,
        "a row of 200 MB that is cut off",
        made("rows.jsonl", lambda: "\n".join(good_rows()).encode() + b'\n{"instruction": "' + b"a" * 200_000_000),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl:13:.*cut off",
        limits=Limits(memory_gb=8),
    ),
    Attack(
        KIND,
        "a row of 200 MB",
        made(
            "rows.jsonl",
            lambda: (
                "\n".join(good_rows()).encode() + b'\n{"instruction": "' + b"a" * 200_000_000 + b'", "output": "A"}\n'
            ),
        ),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl:13:",
        limits=Limits(memory_gb=8),
    ),
    Attack(
        KIND,
        "a row of 200 MB in other words",
        made(
            "rows.jsonl",
            lambda: (
                "\n".join(good_rows()).encode()
                + b'\n{"instruction": "'
                + b"word " * 40_000_000
                + b'", "output": "A"}\n'
            ),
        ),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl:13:",
        limits=Limits(memory_gb=8),
    ),
    Attack(
        KIND,
        "an answer of 200 MB",
        made(
            "rows.jsonl",
            lambda: (
                "\n".join(good_rows()).encode()
                + b'\n{"instruction": "Q", "output": "'
                + b"word " * 40_000_000
                + b'"}\n'
            ),
        ),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl:13:",
        limits=Limits(memory_gb=8),
    ),
    Attack(
        KIND,
        "200 MB in a turn",
        made(
            "rows.jsonl",
            lambda: (
                "\n".join(good_rows()).encode()
                + b'\n{"messages": [{"role": "user", "content": "'
                + b"word " * 40_000_000
                + b'"}, {"role": "assistant", "content": "A"}]}\n'
            ),
        ),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl:13:",
        limits=Limits(memory_gb=8),
    ),
    Attack(
        KIND,
        "a text of 200 MB on standard input",
        lambda folder: None,
        "inference.py --model {model} --max_new_tokens 2",
        r"characters",
        limits=Limits(stdin="word " * 40_000_000, memory_gb=8),
    ),
    Attack(
        KIND,
        "a row of 200 MB of --file",
        made("rows.jsonl", lambda: b'{"instruction": "' + b"word " * 40_000_000 + b'"}\n'),
        "inference.py --model {model} --max_new_tokens 2 --file rows.jsonl --output a.jsonl",
        r"rows\.jsonl:1",
        may_work=True,
        leaves=(r"a\..*",),
        limits=Limits(memory_gb=8),
    ),
    Attack(
        KIND,
        "a cell of 200 MB of CSV",
        made("rows.csv", lambda: b"instruction,output\n" + b"word " * 40_000_000 + b",A\n"),
        INSPECT + "rows.csv",
        r"rows\.csv:2",
        limits=Limits(memory_gb=8),
    ),
    Attack(
        KIND,
        "blank lines of 200 MB",
        made("rows.jsonl", lambda: b"\n" * 200_000_000),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl",
        limits=Limits(memory_gb=8, seconds=60),
    ),
    Attack(
        KIND,
        "a gz that unpacks to 8 GB of zeros",
        lambda folder: write_gz(folder / "rows.jsonl.gz", b"\0", 2**33),
        INSPECT + "rows.jsonl.gz",
        r"rows\.jsonl\.gz",
        limits=Limits(memory_gb=6, seconds=40),
    ),
    Attack(
        KIND,
        "a sparse file of 8 GB",
        lambda folder: sparse(folder / "rows.jsonl", 2**33),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl",
        limits=Limits(memory_gb=6, seconds=60),
    ),
    Attack(
        KIND,
        "a named pipe",
        lambda folder: __import__("os").mkfifo(folder / "rows.jsonl"),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl",
    ),
    Attack(
        KIND,
        "/dev/zero as rows",
        lambda folder: (folder / "rows.jsonl").symlink_to("/dev/zero"),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl",
    ),
    Attack(
        KIND,
        "/dev/stdin as rows",
        lambda folder: (folder / "rows.jsonl").symlink_to("/dev/stdin"),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl",
    ),
    Attack(
        KIND,
        "a link that leads to itself",
        lambda folder: (folder / "rows.jsonl").symlink_to("rows.jsonl"),
        INSPECT + "rows.jsonl",
        r"rows\.jsonl",
    ),
    Attack(
        KIND,
        "an xlsx whose parts have no headers",
        made("rows.xlsx", lambda: SHEET.replace(b"PK\3\4", b"PK\3\5")),
        INSPECT + "rows.xlsx",
        r"rows\.xlsx: not a sound Excel file",
    ),
    Attack(
        KIND,
        "a column of Parquet whose name is no text",
        made("rows.parquet", lambda: TABLE.replace(b"instruction", b"instr\xffction")),
        INSPECT + "rows.parquet",
        r"rows\.parquet: not a sound Parquet file",
    ),
    Attack(
        KIND,
        "a page of Parquet that is none",
        made("rows.parquet", lambda: TABLE[:4] + b"\xff" * 9 + TABLE[13:]),
        INSPECT + "rows.parquet",
        r"rows\.parquet: not a sound Parquet file",
    ),
    Attack(KIND, "a name of 300 characters", lambda folder: None, INSPECT + "a" * 300 + ".jsonl", "aaa"),
    Attack(KIND, "a name with a NUL", lambda folder: None, INSPECT + "'a\0b.jsonl'", ""),
    Attack(KIND, "a name of bytes that are no text", lambda folder: None, INSPECT + "'a\udcffb.jsonl'", ""),
]


def write_gz(path: Path, unit: bytes, size: int) -> None:
    import gzip

    with gzip.open(path, "wb", compresslevel=1) as file:
        chunk = unit * 2**24
        for _ in range(size // len(chunk)):
            file.write(chunk)


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
