"""Files of rows that are wrong, huge or made to take for ever."""

import bz2
import gzip
import io
import json
import os
import stat
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
from pyarrow import parquet

from tests.data.bad_inputs import MAIN, SHEET, sheet, table, with_part
from tests.faults.attacks import Attack
from tests.faults.attacks_disks import build_folder
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


def cells(*values: bytes) -> Callable[[], bytes]:
    """A workbook with a row of these cells, as XML."""
    return part_of(sheet=sheet_of(HEAD + b'<row r="2">' + b"".join(values) + b"</row>"))


def relation(target: bytes, mode: bytes = b"") -> Callable[[], bytes]:
    """A workbook whose sheet is somewhere else."""
    kind = b"http://schemas.openxmlformats.org/officeDocument/2006/relationships/worksheet"
    namespace = b"http://schemas.openxmlformats.org/package/2006/relationships"
    text = b'<Relationships xmlns="%s"><Relationship Id="rId1" Type="%s" Target="%s"%s/></Relationships>'
    return lambda: with_part(SHEET, "xl/_rels/workbook.xml.rels", text % (namespace, kind, target, mode))


def twice_in_archive() -> bytes:
    file = io.BytesIO(SHEET)
    with zipfile.ZipFile(file, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr(
            "xl/worksheets/sheet1.xml",
            sheet_of(HEAD + b'<row r="2"><c r="A2"><v>9</v></c><c r="B2"><v>1</v></c></row>'),
        )
    return file.getvalue()


def with_flag_of_encryption() -> bytes:
    return SHEET.replace(b"PK\3\4\x14\0\0", b"PK\3\4\x14\0\1").replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1")


WORKBOOKS: dict[str, tuple[Callable[[], bytes], bool]] = {
    "a sheet on the web": (relation(b"http://127.0.0.1:1/x.xml", b' TargetMode="External"'), False),
    "a sheet outside of its archive": (relation(b"../../../../../../etc/passwd"), False),
    "a sheet that is the book": (relation(b"workbook.xml"), False),
    "no sheet": (relation(b""), False),
    "a sheet twice in its archive": (twice_in_archive, True),
    "parts that are encrypted": (with_flag_of_encryption, False),
    "a text of number -1": (cells(b'<c r="A2" t="s"><v>-1</v></c>'), False),
    "a text of number 99": (cells(b'<c r="A2" t="s"><v>99</v></c>'), False),
    "a text of number x": (cells(b'<c r="A2" t="s"><v>x</v></c>'), False),
    "a truth of 7": (cells(b'<c r="A2" t="b"><v>7</v></c><c r="B2"><v>1</v></c>'), True),
    "a truth of words": (cells(b'<c r="A2" t="b"><v>maybe</v></c><c r="B2"><v>1</v></c>'), True),
    "a number of words": (cells(b'<c r="A2" t="n"><v>abc</v></c>'), False),
    "a number of 1e999": (cells(b'<c r="A2" t="n"><v>1e999</v></c><c r="B2"><v>1</v></c>'), True),
    "a cell of a type of nobody": (cells(b'<c r="A2" t="nobody"><v>1</v></c><c r="B2"><v>1</v></c>'), True),
    "a style of number 10 million million": (cells(b'<c r="A2" s="9999999999999"><v>1</v></c>'), False),
    "a cell in another row than its own": (
        cells(b'<c r="A9" t="inlineStr"><is><t>a</t></is></c><c r="B7"><v>1</v></c>'),
        True,
    ),
    "two cells of one place": (cells(b'<c r="A2"><v>1</v></c><c r="A2"><v>2</v></c><c r="B2"><v>1</v></c>'), True),
    "cells in reverse": (cells(b'<c r="B2"><v>1</v></c><c r="A2" t="inlineStr"><is><t>a</t></is></c>'), True),
    "a formula shared over all cells": (
        cells(
            b'<c r="A2"><f t="shared" ref="A2:XFD1048576" si="0">A1</f></c><c r="B2"><f t="shared" si="0"/><v>1</v></c>'
        ),
        False,
    ),
    "cells merged over all": (
        lambda: with_part(
            SHEET,
            "xl/worksheets/sheet1.xml",
            sheet_of(HEAD).replace(
                b"</worksheet>", b'<mergeCells count="1"><mergeCell ref="A1:XFD1048576"/></mergeCells></worksheet>'
            ),
        ),
        False,
    ),
    "a sheet of a billion cells by its own account": (
        lambda: part_of(sheet=sheet_of(HEAD).replace(b"<sheetData>", b'<dimension ref="A1:XFD1048576"/><sheetData>'))(),
        False,
    ),
    "a million cells far to the right": (
        cells(*(b'<c r="XFD2"><v>1</v></c>' for _ in range(1000))),
        False,
    ),
    "XML in UTF-16": (
        part_of(sheet=('<?xml version="1.0" encoding="UTF-16"?>' + sheet_of(HEAD).decode()).encode("utf-16")),
        False,
    ),
    "an outer entity": (
        part_of(
            sheet=b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'
            + sheet_of(HEAD + b'<row r="2"><c r="A2" t="inlineStr"><is><t>&e;</t></is></c></row>')
        ),
        False,
    ),
}
LINES: dict[str, tuple[list[str], str, bool]] = {
    "a conversation of 200,000 turns": (
        [json.dumps({"messages": [{"role": ("user", "assistant")[i % 2], "content": "a"} for i in range(200_000)]})],
        r"rows\.jsonl",
        True,
    ),
    "100,000 entities of a text": (
        [
            json.dumps(
                {
                    "text": "北京" * 100_000,
                    "entities": [
                        {"start_idx": 2 * i, "end_idx": 2 * i + 2, "entity_text": "北京", "entity_label": "LOC"}
                        for i in range(100_000)
                    ],
                }
            )
        ],
        r"rows\.jsonl",
        True,
    ),
    "entities beyond the text": (
        [
            json.dumps(
                {
                    "text": "北京",
                    "entities": [{"start_idx": 0, "end_idx": 10**18, "entity_text": "北京", "entity_label": "LOC"}],
                }
            )
        ],
        r"rows\.jsonl:1",
        True,
    ),
    "30,000 labels": ([json.dumps({"text": f"t{i}", "label": f"l{i}"}) for i in range(30_000)], "rows", True),
    "a label of 100,000 characters": ([json.dumps({"text": "a", "label": "l" * 100_000})] * 3, "rows", True),
    "labels with control characters": ([json.dumps({"text": "a", "label": "\x1b[31m\n"})] * 3, "rows", True),
    "a million control tokens": (
        [json.dumps({"instruction": "<|im_start|>" * 1_000_000, "output": "A"})],
        r"rows\.jsonl:1",
        True,
    ),
    "a million marks on one letter": (
        [json.dumps({"instruction": "a" + "\u0301" * 1_000_000, "output": "A"})],
        r"rows\.jsonl:1",
        True,
    ),
    "two million letters without a blank": (
        [json.dumps({"instruction": "a" * 2_000_000, "output": "A"})],
        r"rows\.jsonl:1",
        True,
    ),
    "a key of a million characters": (
        [json.dumps({"k" * 1_000_000: 1, "instruction": "Q", "output": "A"})] * 3,
        "rows",
        True,
    ),
    "an empty key": ([json.dumps({"": 1, "instruction": "Q", "output": "A"})] * 3, "rows", True),
    "keys of blanks": ([json.dumps({" instruction": "Q", "output ": "A"})] * 3, "rows", False),
    "a key with half a character": (['{"\\ud83d": 1, "instruction": "Q", "output": "A"}'], r"rows\.jsonl:1", False),
    "tools nested 900 deep": (
        [
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "tools": '
            + deep_list(900)
            + "}"
        ],
        r"rows\.jsonl:1",
        False,
    ),
    "arguments of a call nested 90,000 deep": (
        [
            json.dumps(
                {
                    "messages": [
                        {"role": "user", "content": "a"},
                        {
                            "role": "assistant",
                            "content": "",
                            "tool_calls": [{"function": {"name": "f", "arguments": deep_list(90_000)}}],
                        },
                    ]
                }
            )
        ],
        r"rows\.jsonl:1",
        False,
    ),
    "a weight of NaN": (['{"instruction": "Q", "output": "A", "weight": NaN}'], r"rows\.jsonl:1", False),
    "a weight of 1e999": (['{"instruction": "Q", "output": "A", "weight": 1e999}'], "rows", True),
    "an id of a list": (['{"id": [1], "instruction": "Q", "output": "A"}'] * 2, "rows", True),
    "50,000 rows of one id": (['{"id": "x", "instruction": "Q", "output": "A"}'] * 50_000, "rows", True),
}


def prepare_names(content: str) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        (folder / "dataset_info.json").write_text(content)
        (folder / "rows.jsonl").write_text("\n".join(good_rows()))

    return write


NAMES = {
    "its file is outside": ('{"d": {"file_name": "../../../../../../etc/passwd"}}', "passwd"),
    "its file is itself": ('{"d": {"file_name": "dataset_info.json"}}', "dataset_info"),
    "its file is a number": ('{"d": {"file_name": 7}}', "dataset_info|'d'|d:"),
    "its file has a NUL": ('{"d": {"file_name": "a\\u0000b.jsonl"}}', ""),
    "it is a number": ('{"d": 7}', "dataset_info|d"),
    "it is given twice": ('{"d": {"file_name": "rows.jsonl"}, "d": {"file_name": "none.jsonl"}}', "none|twice"),
    "its columns are numbers": ('{"d": {"file_name": "rows.jsonl", "columns": {"prompt": 7}}}', "columns|prompt|'7'"),
    "its columns are a list": ('{"d": {"file_name": "rows.jsonl", "columns": ["prompt"]}}', "columns"),
    "its form is nobody's": ('{"d": {"file_name": "rows.jsonl", "formatting": "nobody"}}', "nobody|formatting"),
    "its tags are numbers": (
        '{"d": {"file_name": "rows.jsonl", "formatting": "sharegpt", "tags": {"role_tag": 7}}}',
        "conversations",
    ),
    "the names are a list": ("[]", "dataset_info"),
    "the names are 100,000 deep": (deep_list(MANY), "dataset_info"),
}


def built(change: Callable[[Path], object]) -> Callable[[Path], object]:
    """A dataset folder as build_dataset.py writes it, x, with something changed."""

    def make(folder: Path) -> None:
        rows("rows.jsonl", *good_rows(30))(folder)
        build_folder(folder / "x")
        change(folder / "x")

    return make


def in_manifest(**values: object) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        content = json.loads(path.read_text()) | values
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return change


FOLDERS: dict[str, tuple[Callable[[Path], object], str, bool]] = {
    "a row changed after it was built": (
        lambda folder: (folder / "train.jsonl").write_text((folder / "train.jsonl").read_text().replace("Q", "R", 1)),
        r"train\.jsonl",
        False,
    ),
    "rows cut off": (
        lambda folder: (folder / "train.jsonl").write_bytes((folder / "train.jsonl").read_bytes()[:-9]),
        r"train\.jsonl",
        False,
    ),
    "no training rows": (lambda folder: (folder / "train.jsonl").unlink(), r"train\.jsonl", False),
    "rows that lead to /dev/zero": (
        lambda folder: ((folder / "train.jsonl").unlink(), (folder / "train.jsonl").symlink_to("/dev/zero")),
        r"train\.jsonl",
        False,
    ),
    "a manifest that is a named pipe": (
        lambda folder: ((folder / "manifest.json").unlink(), os.mkfifo(folder / "manifest.json")),
        "manifest",
        False,
    ),
    "a manifest of files that are a list": (in_manifest(files=[1]), "manifest", False),
    "a manifest of files that are numbers": (in_manifest(files={"train.jsonl": 7}), "manifest", False),
    "a manifest without files": (in_manifest(files=...), "manifest", False),
    "a manifest that names a file outside": (
        in_manifest(files={"../rows.jsonl": {"rows": 1, "sha256": "0"}}),
        "manifest|rows",
        False,
    ),
    "a manifest of a newer kind": (in_manifest(newer={"x": 1}), "manifest", True),
    "a manifest of splits of nobody": (in_manifest(splits={"nobody": 7}), "manifest", True),
    "a manifest with a key twice": (
        lambda folder: (folder / "manifest.json").write_text(
            (folder / "manifest.json").read_text().replace("{", '{"files": 7, ', 1)
        ),
        "manifest",
        True,
    ),
}


def looped(folder: Path) -> None:
    (folder / "d").mkdir()
    (folder / "d/again").symlink_to("..")
    (folder / "again").symlink_to("d")


PLACES: dict[str, tuple[Callable[[Path], object], str]] = {
    "folders that lead into each other": (looped, "d"),
    "a pattern over folders that lead into each other": (looped, "'**/*.jsonl'"),
    "/proc": (lambda folder: None, "/proc"),
    "/proc/self/mem": (lambda folder: None, "/proc/self/mem"),
    "/proc/self/environ": (lambda folder: None, "/proc/self/environ"),
    "/proc/self/fd/0": (lambda folder: None, "/proc/self/fd/0"),
    "/dev": (lambda folder: None, "/dev"),
    "/dev/null": (lambda folder: None, "/dev/null"),
    "a socket": (lambda folder: os.mknod(folder / "s.jsonl", stat.S_IFSOCK | 0o600), "s.jsonl"),
    "a pipe that is packed": (lambda folder: os.mkfifo(folder / "p.jsonl.gz"), "p.jsonl.gz"),
    "a pipe that is a workbook": (lambda folder: os.mkfifo(folder / "p.xlsx"), "p.xlsx"),
    "a pipe that is Parquet": (lambda folder: os.mkfifo(folder / "p.parquet"), "p.parquet"),
    "a folder whose name ends in .jsonl": (lambda folder: (folder / "p.jsonl").mkdir(), "p.jsonl"),
    "an address": (lambda folder: None, "file:///etc/passwd"),
}
TEXT_FILES: dict[str, tuple[str, Callable[[], bytes], bool]] = {
    "UTF-32": ("rows.jsonl", lambda: "\n".join(good_rows()).encode("utf-32"), True),
    "UTF-32 that is cut off": ("rows.jsonl", lambda: "\n".join(good_rows()).encode("utf-32")[:-1], False),
    "UTF-16 that is cut off": ("rows.json", lambda: ("[" + ",".join(good_rows()) + "]").encode("utf-16")[:-1], False),
    "UTF-32 beyond Unicode": (
        "rows.csv",
        lambda: "instruction,output\nQ,A\n".encode("utf-32") + b"\xff" * 4 + "Q,A\n".encode("utf-32-le"),
        False,
    ),
    "UTF-7": ("rows.jsonl", lambda: "\n".join(good_rows()).encode("utf-7"), True),
    "carriage returns alone": ("rows.jsonl", lambda: "\r".join(good_rows()).encode(), True),
    "separators of lines of Unicode": ("rows.jsonl", lambda: "\u2028".join(good_rows()).encode(), False),
    "NULs between rows": ("rows.jsonl", lambda: "\0".join(good_rows()).encode(), False),
    "a mark of byte order before each row": (
        "rows.jsonl",
        lambda: "\n".join("\ufeff" + row for row in good_rows()).encode(),
        True,
    ),
    "JSON with comments": ("rows.json", lambda: ("[" + ",\n// more\n".join(good_rows()) + "]").encode(), False),
    "JSON with a comma at its end": ("rows.json", lambda: ("[" + ",".join(good_rows()) + ",]").encode(), True),
    "a million empty lists": ("rows.json", lambda: b"[" + b"[]," * 999_999 + b"[]]", False),
    "a million brackets": ("rows.json", lambda: b"[" * 1_000_000, False),
    "a million quotes": ("rows.csv", lambda: b'"' * 1_000_000, False),
    "NULs in cells": ("rows.csv", lambda: b"text,label\na\0b,1\nc,0\n" * 3, True),
    "a line sep= that lies": ("rows.csv", lambda: b"sep=;\ntext,label\na,1\nb,0\n", True),
    "rows of other lengths each": (
        "rows.csv",
        lambda: b"text,label\n" + b"".join(b"a," * i + b"1\n" for i in range(500)),
        False,
    ),
    "gz in gz": ("rows.jsonl.gz", lambda: gzip.compress(gzip.compress("\n".join(good_rows()).encode())), False),
    "two gz behind each other": (
        "rows.jsonl.gz",
        lambda: gzip.compress("\n".join(good_rows()).encode() + b"\n") * 2,
        True,
    ),
    "gz with bytes behind": ("rows.jsonl.gz", lambda: gzip.compress("\n".join(good_rows()).encode()) + b"more", False),
    "gz cut off": ("rows.jsonl.gz", lambda: gzip.compress("\n".join(good_rows(2000)).encode())[:-20], False),
    "gz with a wrong sum": (
        "rows.jsonl.gz",
        lambda: gzip.compress("\n".join(good_rows()).encode())[:-8] + bytes(8),
        False,
    ),
    "zst that is none": ("rows.jsonl.zst", lambda: b"(\xb5/\xfd" + bytes(20), False),
    "bz2 cut off": ("rows.jsonl.bz2", lambda: bz2.compress("\n".join(good_rows(2000)).encode())[:-20], False),
}


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
    *(
        Attack(
            KIND,
            f"an xlsx with {name}",
            made("rows.xlsx", make),
            INSPECT + "rows.xlsx",
            "rows",
            may_work=ok,
            limits=Limits(seconds=30, memory_gb=6),
        )
        for name, (make, ok) in WORKBOOKS.items()
    ),
    *(
        Attack(
            KIND,
            name,
            rows("rows.jsonl", *texts, *(good_rows() if len(texts) == 1 else [])),
            INSPECT + "rows.jsonl",
            says,
            may_work=ok,
            limits=Limits(seconds=40, memory_gb=8),
        )
        for name, (texts, says, ok) in LINES.items()
    ),
    *(
        Attack(
            KIND,
            f"a data set of the file of names: {name}",
            prepare_names(content),
            "inspect_data.py -n 1 --model {model} --data d",
            says,
        )
        for name, (content, says) in NAMES.items()
    ),
    *(
        Attack(KIND, f"a dataset folder: {name}", built(change), INSPECT + "x", says, may_work=ok)
        for name, (change, says, ok) in FOLDERS.items()
    ),
    *(
        Attack(
            KIND,
            f"as rows: {name}",
            prepare_place,
            "inspect_data.py -n 1 --model {model} --data " + place,
            limits=Limits(seconds=30),
        )
        for name, (prepare_place, place) in PLACES.items()
    ),
    *(
        Attack(KIND, f"a text file of {name}", made(file, make), INSPECT + file, file.replace(".", r"\."), may_work=ok)
        for name, (file, make, ok) in TEXT_FILES.items()
    ),
    Attack(KIND, "a name of 300 characters", lambda folder: None, INSPECT + "a" * 300 + ".jsonl", "aaa"),
    Attack(KIND, "a name with a NUL", lambda folder: None, INSPECT + "'a\0b.jsonl'", ""),
    Attack(KIND, "a name of bytes that are no text", lambda folder: None, INSPECT + "'a\udcffb.jsonl'", ""),
]


def write_gz(path: Path, unit: bytes, size: int) -> None:
    with gzip.open(path, "wb", compresslevel=1) as file:
        chunk = unit * 2**24
        for _ in range(size // len(chunk)):
            file.write(chunk)


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
