"""The server's API key, from the environment alone: a flag would stand in `ps` and in the log."""

import os

from sft.errors import ConfigError

KEY_VARIABLE = "QWEN_SFT_API_KEY"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def read_api_key(host: str) -> str | None:
    """The key clients must send, None where none is set. Raises ConfigError for an open server without one."""
    key = os.environ.get(KEY_VARIABLE) or None
    if key is None and host not in LOCAL_HOSTS:
        raise ConfigError(f"--host {host} is open to others; set {KEY_VARIABLE}, or serve on 127.0.0.1")
    return key
