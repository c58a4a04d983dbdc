"""Parquet: rows per batch at a time, and the names that a schema declares for its classes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from sft.data.rows.canonical import GoodRecord, Json, NotAValue
from sft.errors import DataError, one_line

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Scalar, Schema

BATCH_ROWS = 1024


def read_parquet(path: Path) -> Iterator[GoodRecord]:
    """Rows of a Parquet file, a batch at a time; `line` is the row's number."""
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        as_meant = make_restorer(file.schema_arrow)
        rows = (row for batch in file.iter_batches(batch_size=BATCH_ROWS) for row in _list_rows(batch))
        for number, row in enumerate(rows, start=1):
            yield GoodRecord(number, as_meant(row))
    except Exception as error:  # a damaged file can fail anywhere in Arrow and Python's half of it, with any exception
        if isinstance(error, DataError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise DataError(f"{path}: not a sound Parquet file ({one_line(error, 200)}); copy or write it again") from None


def _list_rows(batch: "RecordBatch") -> list[dict[str, Json]]:
    """Rows of a batch; a value that Python cannot hold (a date beyond the year 9999, say) is a NotAValue."""
    try:
        rows: list[dict[str, Json]] = batch.to_pylist()
        return rows
    except (ValueError, OverflowError, KeyError):  # UnicodeDecodeError and ArrowException among them, pytz's KeyError
        columns = [[_read_value(scalar) for scalar in column] for column in batch.columns]
        return [dict(zip(batch.schema.names, values, strict=True)) for values in zip(*columns, strict=True)]


def _read_value(scalar: "Scalar") -> Json:
    try:
        value: Json = scalar.as_py()
        return value
    except UnicodeDecodeError:
        return NotAValue("text that is not UTF-8")  # type: ignore[return-value]  # see NotAValue
    except (ValueError, OverflowError, KeyError):
        return NotAValue(f"a {scalar.type} that no type here can represent")  # type: ignore[return-value]


def make_restorer(schema: "Schema") -> Callable[[dict[str, Json]], dict[str, Json]]:
    """Turns a row of an Arrow table back into the row that was written: decodes JSON, names class numbers.

    `datasets` keeps a column whose values differ in type as JSON texts (its Json type): "\\"6 x 7?\\"" is 6 x 7?
    """
    features = _find_features(schema.metadata)
    told = {name: decode for name, part in features.items() if (decode := _decoder_of_feature(part))}
    typed = {field.name: decode for field in schema if (decode := _decoder_of_type(field.type))}
    decoders = typed | told

    def restore(row: dict[str, Json]) -> dict[str, Json]:
        for name, decode in decoders.items():
            if name in row:
                row[name] = decode(row[name])
        return row

    return restore


Decoder = Callable[[Any], Json]


def _decode_json(value: Any) -> Json:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value  # not written by `datasets`, which encodes every value


def _name_class(names: Sequence[str]) -> Decoder:
    """The declared name of a class number; -1, a test split's, is no class."""

    def decode(value: Any) -> Json:
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        return names[value] if 0 <= value < len(names) else None

    return decode


def _decode_list(inner: Decoder) -> Decoder:
    return lambda value: [inner(item) for item in value] if isinstance(value, list) else value


def _decode_struct(parts: Mapping[str, Decoder]) -> Decoder:
    def decode(value: Any) -> Json:
        if not isinstance(value, dict):
            return value
        return {name: parts[name](item) if name in parts else item for name, item in value.items()}

    return decode


def _decoder_of_type(kind: Any) -> Decoder | None:
    """The decoder of a type of Arrow; None if no JSON is in it."""
    from pyarrow import types

    if getattr(kind, "extension_name", None) == "arrow.json":
        return _decode_json
    if types.is_decimal(kind):  # what databases make of whole numbers, too
        return lambda value: value if value is None else int(value) if value == int(value) else float(value)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = _decoder_of_type(kind.value_type)
        return _decode_list(inner) if inner else None
    if types.is_struct(kind):
        parts = {field.name: decode for field in kind if (decode := _decoder_of_type(field.type))}
        return _decode_struct(parts) if parts else None
    return None


def _decoder_of_feature(feature: Any) -> Decoder | None:
    """The decoder of a feature as `datasets` describes it beside the schema; None if no JSON is in it."""
    if isinstance(feature, list) and feature:
        feature = {"_type": "List", "feature": feature[0]}
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "Json":
        return _decode_json
    if feature.get("_type") == "ClassLabel" and isinstance(feature.get("names"), list) and feature["names"]:
        return _name_class(feature["names"])
    if "feature" in feature and "_type" in feature:
        inner = _decoder_of_feature(feature["feature"])
        return _decode_list(inner) if inner else None
    parts = {name: decode for name, part in feature.items() if (decode := _decoder_of_feature(part))}
    return _decode_struct(parts) if parts else None


def declared_classes(path: Path) -> dict[str, list[str]]:
    """The names that a Parquet file declares for its columns of class numbers; {} of any other file."""
    from pyarrow import parquet

    if path.suffix.lower() != ".parquet":
        return {}
    try:
        return class_names(parquet.read_schema(path).metadata)
    except Exception:
        return {}  # reading it reports what is wrong


def class_names(metadata: Mapping[bytes, bytes] | None) -> dict[str, list[str]]:
    """The names of ClassLabel columns, as `datasets` keeps them in an Arrow schema: {"label": ["ham", "spam"]}."""
    found = {
        column: feature.get("names")
        for column, feature in _find_features(metadata).items()
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel"
    }
    return {column: names for column, names in found.items() if isinstance(names, list) and names}


def _find_features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """The features that `datasets` describes in an Arrow schema; {} if it does not."""
    try:
        features = orjson.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}
