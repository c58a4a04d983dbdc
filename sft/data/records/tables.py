"""Parquet: rows a batch at a time, and the names that a schema declares for its classes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import orjson

from sft.data.canonical import Json
from sft.data.records.found import GoodRecord
from sft.errors import DataError

BATCH_ROWS = 1024


def read_parquet(path: Path) -> Iterator[GoodRecord]:
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
