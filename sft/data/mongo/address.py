"""The address of a collection and its password, which is kept apart from everything that is printed.

    address = make_address(host="db.example.org", user="ada", auth_database="admin", database="texts")
    address.shown                        # "mongodb://db.example.org:27017": what messages and manifests say
    find_password(address)               # from the URI file, MONGO_PASSWORD, or a prompt

That no setting contains a password is seen to by sft/config/secrets.py.
"""

import getpass
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from sft.config.secrets import ADVICE, PASSWORD_VARIABLE, holds_password
from sft.console import warn
from sft.errors import ConfigError

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

    Raises ConfigError for two of them, a URI that is none, and a password in `uri`.
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
    if parts is None:  # without its text, which may hold the password at an unexpected place
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
    """The password of an address that names a user: of its URI file, of MONGO_PASSWORD, or typed at the terminal.

    Raises ConfigError if there is none and nobody to ask.
    """
    if address.user is None:
        return None
    if password := address.password or os.environ.get(PASSWORD_VARIABLE):
        return password
    if not sys.stdin.isatty():
        raise ConfigError(f"no password for user {address.user!r}; set {PASSWORD_VARIABLE}, or use --mongo_uri_file")
    return getpass.getpass(f"password of {address.user} at {address.shown}: ")
