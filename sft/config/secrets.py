"""Passwords are refused as settings: others see a command line, the shell keeps it, and recipes are shared.

holds_password("mongodb://ada:lovelace@localhost")        # True: what refuses it must not repeat it either
"""

import re

from sft.errors import ConfigError

PASSWORD_VARIABLE = "MONGO_PASSWORD"
SECRET_OPTIONS = re.compile(r"[?&](?:authMechanismProperties|tlsCertificateKeyFilePassword)=", re.IGNORECASE)
PASSWORD_FLAG = re.compile(r"--?pass\w*(?:=.*)?|-p.*", re.DOTALL)
ADVICE = f"set {PASSWORD_VARIABLE}, put the whole URI into a file and name it with --mongo_uri_file, or be asked for it"


def holds_password(uri: str) -> bool:
    """Whether a URI carries a password or another secret: mongodb://ada:lovelace@host does, mongodb://ada@host not.

    The scheme may have been forgotten: ada:lovelace@host does, too.
    """
    login, at, _ = (uri.partition("://")[2] or uri).rpartition("@")
    return bool(at and ":" in login) or bool(SECRET_OPTIONS.search(uri))


def refuse_password_words(words: list[str]) -> None:
    """Raise ConfigError if a command line contains a password: --password x, or a URI with one. Never repeats it."""
    for word in words:
        if PASSWORD_FLAG.fullmatch(word):
            flag = "-p" if not word.startswith("--") else word.partition("=")[0]
            raise ConfigError(f"{flag}: no password on the command line, others can see it; {ADVICE}")
        if "mongodb" in word and holds_password(word):
            raise ConfigError(f"a MongoDB URI with a password is no setting, others could see it; {ADVICE}")
