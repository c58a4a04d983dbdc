"""CSV, TSV and Parquet. CSV cells stay the text they are: "NA", "001" and "1.0" are not turned into anything."""

import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson

from prompts.task import BLANK
from sft.data.canonical import Json
from sft.data.records.found import BadRecord, GoodRecord
from sft.errors import DataError

CELL_LIMIT = min(sys.maxsize, 2**31 - 1)  # characters; the module's own limit is 131,072
BATCH_ROWS = 1024


def read_csv(path: Path, delimiter: str = ",") -> Iterator[GoodRecord | BadRecord]:
    """Rows under a header line; quoted cells may span lines, and a record's line is where it begins."""
    csv.field_size_limit(CELL_LIMIT)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header = _read_header(path, reader)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end of data" in str(error):
                    raise DataError(f"{path}:{line}: a quote opened here is never closed; mend the file") from None
                yield BadRecord(line, "wrong_quotes", f"quotes are wrong ({error}); double those inside a cell")
                continue
            if not cells:
                continue  # a blank line is no row
            yield _check_cells(line, header, cells)


def _read_header(path: Path, reader: Iterator[list[str]]) -> list[str]:
    try:
        header = next((cells for cells in reader if cells), None)
    except csv.Error as error:
        raise DataError(f"{path}:1: the header line cannot be read ({error})") from None
    if header is None:
        raise DataError(f"{path}: the file holds no rows, only blank lines")
    header = [name.strip(BLANK) for name in header]
    repeated = {name for name in header if name and header.count(name) > 1}
    if repeated:
        raise DataError(f"{path}:1: column {sorted(repeated)[0]!r} is there twice; rename one")
    return [name or f"(column {number})" for number, name in enumerate(header, start=1)]


def _check_cells(line: int, header: list[str], cells: list[str]) -> GoodRecord | BadRecord:
    if len(cells) != len(header):
        return BadRecord(line, "wrong_columns", f"{len(cells)} cells under a header of {len(header)}; quote the commas")
    try:
        "".join(cells).encode()
    except UnicodeEncodeError:
        return BadRecord(line, "invalid_utf8", "holds bytes that are not UTF-8")
    return GoodRecord(line, dict(zip(header, cells, strict=True)))


def read_parquet(path: Path) -> Iterator[GoodRecord | BadRecord]:
    """Rows of a Parquet file, a batch at a time; `line` is the row's number."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        names = class_names(file.schema_arrow.metadata)
        rows = (row for batch in file.iter_batches(batch_size=BATCH_ROWS) for row in batch.to_pylist())
        for number, row in enumerate(rows, start=1):
            yield GoodRecord(number, name_classes(row, names))
    except pyarrow.ArrowException as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path}: not a sound Parquet file ({first}); copy or write it again") from None


def declared_classes(path: Path) -> dict[str, list[str]]:
    """The names that a Parquet file declares for its columns of class numbers; {} of any other file."""
    import pyarrow
    from pyarrow import parquet

    if path.suffix.lower() != ".parquet":
        return {}
    try:
        return class_names(parquet.read_schema(path).metadata)
    except (pyarrow.ArrowException, OSError):
        return {}  # reading it says what is wrong


def class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of ClassLabel columns, as `datasets` keeps them in an Arrow schema: {"label": ["ham", "spam"]}."""
    try:
        features = orjson.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    found = {
        column: feature.get("names")
        for column, feature in (features.items() if isinstance(features, dict) else ())
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
    return {column: names for column, names in found.items() if isinstance(names, list) and names}


def name_classes(row: dict[str, Json], names: Mapping[str, list[str]]) -> dict[str, Json]:
    """A row with the declared names of its class numbers in their place; -1, a test split's, is no class."""
    for column, listed in names.items():
        number = row.get(column)
        if isinstance(number, int) and not isinstance(number, bool):
            row[column] = listed[number] if 0 <= number < len(listed) else None
    return row
