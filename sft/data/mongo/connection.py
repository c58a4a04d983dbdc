"""A connection to a MongoDB server, and its failures as one line each, without any secret.

with connect(address, timeout_s=60) as client:
    collection = choose_collection(client, address, "texts", None)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote, quote_plus

from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.errors import ConfigurationError, InvalidName, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from sft.data.mongo.address import Address, find_password
from sft.errors import ConfigError, DataError

Document = dict[str, object]
Client = MongoClient[Document]

REACH_S = 4.0  # how long a server may not answer before it counts as gone: a message has to come within 5 s
UNAUTHENTICATED, UNAUTHORISED = (18, 8000), 13


@contextmanager
def connect(address: Address, timeout_s: float) -> Iterator[Client]:
    """A client that has reached the server and is logged in. timeout_s: the longest wait for one answer.

    What pymongo raises within the `with` ends as a DataError too. Raises ConfigError for a URI or login that is none.
    """
    password = find_password(address)
    client: Client | None = None
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
        client.admin.command("ping")
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
        who = f"user {address.user!r} may not" if address.user else "nobody may without a login"
        return DataError(f"{where}: {who} do this ({text}); give -u and --auth-database of a user that may read")
    if isinstance(error, ServerSelectionTimeoutError):
        return DataError(f"{where}: the server cannot be reached ({text}); is it running, are host and port right?")
    if isinstance(error, ConfigurationError | InvalidName):
        return ConfigError(f"{where}: {text}; check the URI and its options")
    return DataError(f"{where}: {text}; see the server's log, or run the command again")


def redact(text: str, password: str | None) -> str:
    """Text without the password, as it is and as a URI spells it."""
    for spelt in {password, quote(password), quote_plus(password)} if password else ():
        text = text.replace(spelt or "", "***")
    return text


def _first_words(error: PyMongoError) -> str:
    """What an error says, without the topology that pymongo appends."""
    text = " ".join(str(error).split())
    for mark in (", Timeout: ", ", full error: ", " (configured timeouts: "):
        text = text.partition(mark)[0]
    return text


def choose_database(address: Address, name: str | None) -> str:
    """The database: as named, of the URI, or the one that users log in to. Raises ConfigError where none is named."""
    chosen = name or address.database or address.auth_database
    if not chosen:
        raise ConfigError("database: none is named; give --database")
    return chosen


def choose_collection(client: Client, address: Address, database: str, name: str | None) -> Collection[Document]:
    """The collection of that name; without a name the database's only one. Else ConfigError says what is there."""
    there = sorted(found for found in client[database].list_collection_names() if not found.startswith("system."))
    if name is None and len(there) == 1:
        return client[database][there[0]]
    listed = f"has {', '.join(there)}" if there else "has no collections"
    if name is None:
        raise ConfigError(f"collection: none is named and database {database!r} {listed}; give --collection")
    if name not in there:
        raise ConfigError(f"collection {name!r}: database {database!r} at {address.shown} {listed}")
    return client[database][name]
