"""The documents of a collection as a stream in the order of _id, which goes on where a lost connection broke it off.

    for document in stream_documents(collection, {"n_labels": "正常"}, ["text_cn"], Retry()):
        read_field(document, "meta.source")

Memory holds one batch. A wait between two tries doubles; progress sets the tries back.
"""

import time
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import NamedTuple

from bson import Binary, Decimal128, Int64, ObjectId, Regex, Timestamp
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, CursorNotFound, ServerSelectionTimeoutError

from sft.console import warn
from sft.data.canonical import Json, RowError
from sft.data.mongo.connection import Document
from sft.errors import DataError

BATCH_DOCUMENTS = 1000
BEGINNING = object()
# MongoDB compares values of one type only, and orders the types so. Resuming behind an _id must not lose later types.
TYPE_ORDER = ("null", "number", "string", "object", "binData", "objectId", "bool", "date", "timestamp")
PYTHON_TYPES: dict[type, str] = {
    type(None): "null", bool: "bool", int: "number", Int64: "number", float: "number", Decimal128: "number",
    str: "string", dict: "object", bytes: "binData", Binary: "binData", ObjectId: "objectId", datetime: "date",
    Timestamp: "timestamp",
}  # fmt: skip


class Retry(NamedTuple):
    """How often a lost connection is taken up again, and how long the first wait is; every further one is doubled."""

    attempts: int = 5
    first_wait_s: float = 0.5
    sleep: Callable[[float], None] = time.sleep


def stream_documents(
    collection: Collection[Document], query: Document, fields: list[str] | None, retry: Retry
) -> Iterator[Document]:
    """Every document the query matches, once, by ascending _id; `fields` (dotted paths) are fetched, None: all.

    Raises DataError where the connection is lost more often than `retry` allows without a document in between.
    """
    projection = None if fields is None else _projection(fields)
    last: object = BEGINNING
    failures = 0
    while True:
        try:
            condition = query if last is BEGINNING else {"$and": [query, behind(last)]}
            with collection.find(condition, projection, sort=[("_id", 1)], batch_size=BATCH_DOCUMENTS) as cursor:
                for document in cursor:
                    last, failures = document["_id"], 0
                    yield document
            return
        except (AutoReconnect, CursorNotFound) as error:
            failures += 1
            reason = "no server answers" if isinstance(error, ServerSelectionTimeoutError) else _short(error)
            place = "at the first document" if last is BEGINNING else f"behind _id {last}"
            if failures > retry.attempts:
                raise DataError(
                    f"{collection.full_name}: the connection was lost {place} and {retry.attempts} tries to take it up "
                    f"again failed ({reason}); nothing was written, run the command again when the server is back"
                ) from None
            wait_s = retry.first_wait_s * 2 ** (failures - 1)
            warn(f"{collection.full_name}: connection lost {place} ({reason}); try {failures} in {wait_s:g} s")
            retry.sleep(wait_s)


def behind(last: object) -> Document:
    """The condition for every _id that stands behind this one in MongoDB's order, later types included."""
    found = PYTHON_TYPES.get(type(last))
    if found is None:
        raise DataError(f"_id {last!r}: documents with such an _id cannot be read in order; give them another _id")
    later = TYPE_ORDER[TYPE_ORDER.index(found) + 1 :]
    return {"$or": [{"_id": {"$gt": last}}, *({"_id": {"$type": name}} for name in later)]}


def _projection(fields: list[str]) -> dict[str, int]:
    """A field inside another that is fetched anyway is left out: MongoDB refuses both."""
    wanted = [name for name in fields if not any(name.startswith(f"{other}.") for other in fields)]
    return dict.fromkeys(["_id", *wanted], 1)


def _short(error: Exception) -> str:
    return " ".join(str(error).split()).partition(" (configured timeouts")[0][:200]


def read_field(document: Document, path: str) -> object:
    """The value at a dotted path: {"meta": {"source": "a"}}, "meta.source" -> "a"; None where there is none."""
    value: object = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def to_json(value: object, name: str) -> Json:
    """A BSON value as JSON has it: ids, decimals and dates as text. Raises RowError for bytes and patterns."""
    if value is None or isinstance(value, str | bool | float):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, ObjectId | Decimal128):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):
        return [to_json(part, name) for part in value]
    if isinstance(value, dict):
        return {key: to_json(part, f"{name}.{key}") for key, part in value.items()}
    kind = "bytes" if isinstance(value, bytes) else "a pattern" if isinstance(value, Regex) else type(value).__name__
    raise RowError("wrong_type", f"{name!r} is {kind}, which no row can hold")
