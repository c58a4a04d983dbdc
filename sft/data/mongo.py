"""A MongoDB server: connecting to it, streaming its documents, counting its labels.

    with connect(address, timeout_s=60) as client:
        collection = choose_collection(client, address, "texts", None)
        count_labels(collection, "n_labels")                                  # {"正常": 15000, ...}
        for document in stream_documents(collection, {"n_labels": "正常"}, ["text_cn"], Retry()):
            read_field(document, "meta.source")

Documents come in the order of _id and resume after a lost connection; memory holds one batch. The
wait between two tries doubles, and any progress resets it. A failure is one line that has no secret.

An address is kept apart from the password that opens it, which no setting contains (sft/config/secrets.py) and nothing
shows: address.shown is "mongodb://db.example.org:27017". find_password takes it from the URI file, MONGO_PASSWORD or a
prompt.
"""

import getpass
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, quote_plus, unquote

from bson import Binary, Decimal128, Int64, ObjectId, Regex, Timestamp
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    CursorNotFound,
    InvalidName,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)

from sft.config.secrets import ADVICE, PASSWORD_VARIABLE, holds_password
from sft.console import warn
from sft.data.rows.canonical import Json, RowError
from sft.errors import ConfigError, DataError, one_line

URI = re.compile(
    r"(?P<scheme>mongodb(?:\+srv)?://)(?:(?P<login>.*)@)?(?P<hosts>[^/?@]+)(?:/(?P<database>[^?]*))?(?P<options>\?.*)?"
)


@dataclass(frozen=True)
class Address:
    """A server and who logs in there. Only `password` is secret, and no representation shows it."""

    uri: str  # without user and password
    database: str | None  # as the URI names it
    user: str | None
    auth_database: str | None
    password: str | None = field(default=None, repr=False)  # of the URI file

    @property
    def shown(self) -> str:
        """The server as messages, ledgers and manifests name it: without user, password and options."""
        return self.uri.partition("?")[0].rstrip("/")

    @property
    def auth_source(self) -> str:
        """The database that knows the user, as MongoDB's own tools choose it."""
        return self.auth_database or self.database or "admin"


def make_address(
    *,
    uri: str | None = None,
    uri_file: str | None = None,
    host: str | None = None,
    port: int | None = None,
    user: str | None = None,
    auth_database: str | None = None,
) -> Address:
    """The address from a URI, a file that holds one, or host and port (default localhost:27017).

    Raises ConfigError for two of them, an invalid URI, and a password in `uri`.
    """
    given = [name for name, value in (("mongo_uri", uri), ("mongo_uri_file", uri_file), ("host", host)) if value]
    if len(given) > 1 or (port is not None and "host" not in given and given):
        raise ConfigError(f"{' and '.join([*given, 'port'][:2])}: both say where the server is; give one")
    if uri_file:
        return _parse_uri(_read_uri_file(uri_file), f"{uri_file}", user, auth_database)
    if uri:
        if holds_password(uri):
            raise ConfigError(f"mongo_uri: contains a password, which would be recorded; {ADVICE}")
        return _parse_uri(uri, "mongo_uri", user, auth_database)
    name = host or "localhost"
    name = f"[{name}]" if name.count(":") > 1 and not name.startswith("[") else name  # an IPv6 address
    return Address(f"mongodb://{name}:{port or 27017}", None, user, auth_database)


def _parse_uri(uri: str, where: str, user: str | None, auth_database: str | None) -> Address:
    parts = URI.fullmatch(uri)
    if parts is None:  # without its text, which may contain the password at an unexpected position
        raise ConfigError(f"{where}: not a MongoDB URI; expected mongodb://USER@HOST:PORT/DATABASE?options")
    name, _, password = (parts["login"] or "").partition(":")
    named = re.search(r"[?&]authSource=([^&]+)", parts["options"] or "", re.IGNORECASE)
    return Address(
        uri=f"{parts['scheme']}{parts['hosts']}/{parts['options'] or ''}",
        database=unquote(parts["database"]) if parts["database"] else None,
        user=user or unquote(name) or None,
        auth_database=auth_database or (unquote(named[1]) if named else None),
        password=unquote(password) or None,
    )


def _read_uri_file(name: str) -> str:
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
        mode = path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{name}: cannot be read ({reason}); give a file that holds one MongoDB URI") from None
    if os.name == "posix" and mode & 0o077:
        warn(f"{name} can be read by others on this machine; run: chmod 600 {name}")
    return text


def find_password(address: Address) -> str | None:
    """The password for an address with a user: from its URI file, MONGO_PASSWORD, or typed at the terminal.

    Raises ConfigError if there is none and no terminal to prompt at.
    """
    if address.user is None:
        return None
    if password := address.password or os.environ.get(PASSWORD_VARIABLE):
        return password
    if not sys.stdin.isatty():
        raise ConfigError(f"no password for user {address.user!r}; set {PASSWORD_VARIABLE}, or use --mongo_uri_file")
    try:
        password = getpass.getpass(f"password of {address.user} at {address.shown}: ")
    except EOFError:  # Ctrl-D
        password = ""
    if not password:
        raise ConfigError(f"no password was typed for user {address.user!r}; type it, or set {PASSWORD_VARIABLE}")
    return password


Document = dict[str, object]
Client = MongoClient[Document]
REACH_S = 4.0  # how long a server may not answer before it counts as gone: a message has to come within 5 s
UNAUTHENTICATED, UNAUTHORISED = (18, 8000), 13
BATCH_DOCUMENTS = 1000
BEGINNING = object()

# MongoDB compares values of one type only, and orders the types so. Resuming after an _id must not lose later types.
TYPE_ORDER = ("null", "number", "string", "object", "binData", "objectId", "bool", "date", "timestamp")
PYTHON_TYPES: dict[type, str] = {
    type(None): "null", bool: "bool", int: "number", Int64: "number", float: "number", Decimal128: "number",
    str: "string", dict: "object", bytes: "binData", Binary: "binData", ObjectId: "objectId", datetime: "date",
    Timestamp: "timestamp",
}  # fmt: skip
NO_LABEL = "(none)"


@contextmanager
def connect(address: Address, timeout_s: float) -> Iterator[Client]:
    """A client that has reached the server and is logged in. timeout_s: the longest wait for one answer.

    What pymongo raises within the `with` ends as a DataError too. Raises ConfigError for a URI or login that is none.
    """
    password = find_password(address)
    client: Client | None = None
    try:
        try:
            client = MongoClient(
                address.uri,
                username=address.user,
                password=password,
                authSource=address.auth_source,
                serverSelectionTimeoutMS=int(REACH_S * 1000),
                connectTimeoutMS=int(REACH_S * 1000),
                socketTimeoutMS=int(timeout_s * 1000),
                appname="qwen-sft",
            )
        except (ValueError, OSError) as error:  # an invalid port, half an IPv6 address, a missing certificate
            text = one_line(redact(str(error), password), 200)
            raise ConfigError(f"{address.shown[:200]}: cannot be used as an address ({text}); correct it") from None
        try:
            client.admin.command("ping")
        except (LookupError, TypeError, ValueError, AttributeError) as error:  # pymongo's own, on invalid answers
            raise DataError(
                f"{address.shown}: does not answer as a MongoDB server ({type(error).__name__} at the first command); "
                "name one that is, and that knows users where one is given (-u)"
            ) from None
        yield client
    except PyMongoError as error:
        raise explain(error, address, password) from None
    finally:
        if client is not None:
            client.close()


def explain(error: PyMongoError, address: Address, password: str | None) -> ConfigError | DataError:
    """A failure as one line for the user: where, what, what next."""
    where, text = address.shown, redact(_first_words(error), password)
    if isinstance(error, OperationFailure) and error.code in UNAUTHENTICATED:
        return DataError(
            f"{where}: the login of user {address.user!r} failed (authentication database {address.auth_source!r}); "
            "check the user, --auth-database and the password"
        )
    if isinstance(error, OperationFailure) and error.code == UNAUTHORISED:
        who = f"user {address.user!r} may not" if address.user else "anonymous users may not"
        return DataError(f"{where}: {who} do this ({text}); give -u and --auth-database of a user that may read")
    if isinstance(error, ServerSelectionTimeoutError):
        return DataError(f"{where}: the server cannot be reached ({text}); is it running, are host and port right?")
    if isinstance(error, ConfigurationError | InvalidName):
        return ConfigError(f"{where}: {text}; check the URI and its options")
    return DataError(f"{where}: {text}; see the server's log, or run the command again")


def redact(text: str, password: str | None) -> str:
    """Text without the password, plain or URI-encoded."""
    for spelt in {password, quote(password), quote_plus(password)} if password else ():
        text = text.replace(spelt or "", "***")
    return text


def _first_words(error: PyMongoError) -> str:
    """The text of an error, without the topology that pymongo appends."""
    text = one_line(error)
    for mark in (", Timeout: ", ", full error: ", " (configured timeouts: "):
        text = text.partition(mark)[0]
    return text


def choose_database(address: Address, name: str | None) -> str:
    """The database: as named, of the URI, or the one that users log in to. Raises ConfigError if none is named."""
    chosen = name or address.database or address.auth_database
    if not chosen:
        raise ConfigError("database: none is named; give --database")
    return chosen


def choose_collection(client: Client, address: Address, database: str, name: str | None) -> Collection[Document]:
    """The named collection, or the database's only one. Otherwise ConfigError lists the collections."""
    there = sorted(found for found in client[database].list_collection_names() if not found.startswith("system."))
    if name is None and len(there) == 1:
        return client[database][there[0]]
    listed = f"has {', '.join(there)}" if there else "has no collections"
    if name is None:
        raise ConfigError(f"collection: none is named and database {database!r} {listed}; give --collection")
    if name not in there:
        raise ConfigError(f"collection {name!r}: database {database!r} at {address.shown} {listed}")
    return client[database][name]


class Retry(NamedTuple):
    """How often a lost connection is retried, and the length of the first wait, which doubles each time."""

    attempts: int = 5
    first_wait_s: float = 0.5
    sleep: Callable[[float], None] = time.sleep


def stream_documents(
    collection: Collection[Document], query: Document, fields: list[str] | None, retry: Retry
) -> Iterator[Document]:
    """Every document the query matches, once, by ascending _id; `fields` (dotted paths) are fetched, None: all.

    Raises DataError if the connection is lost more often than `retry` allows without a document in between.
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
    """The condition for every _id that comes after this one in MongoDB's order, later types included."""
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
    return one_line(error).partition(" (configured timeouts")[0][:200]


def read_field(document: Document, path: str) -> object:
    """The value at a dotted path: {"meta": {"source": "a"}}, "meta.source" -> "a"; None if there is none."""
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


def count_labels(collection: Collection[Document], field: str) -> dict[str, int]:
    """Documents of each label, the most frequent first: {"正常": 152000, "暴恐": 6012, "(none)": 3}.

    A document with a list of labels counts for each of them.
    """
    pipeline: list[Document] = [
        {"$unwind": {"path": f"${field}", "preserveNullAndEmptyArrays": True}},
        {"$group": {"_id": f"${field}", "count": {"$sum": 1}}},
    ]
    counts: dict[str, int] = {}
    for group in collection.aggregate(pipeline):
        label = NO_LABEL if group["_id"] is None else str(group["_id"])
        counts[label] = counts.get(label, 0) + int(str(group["count"]))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
