"""Errors that are the user's to mend: one line that says what, where and what to do next.

A script that meets one prints `error: <line>` and exits with 2; any other exception is a bug of ours.
"""

import difflib
import errno
from collections.abc import Iterable

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """Something the user can mend. The text is one line: what is wrong, where, what to do next."""


class ConfigError(UserError):
    """A setting that is unknown, ill-typed or contradicts another: `--lora_x: unknown flag; did you mean --lora_r?`"""


class DataError(UserError):
    """A row, file or source that cannot be used: `reports.jsonl:17: no 'output'; fix the row`"""


class ModelError(UserError):
    """A model or tokenizer that cannot be loaded or does not fit the run."""


class RunError(UserError):
    """A run folder that is missing, unfinished or does not match what it is used with."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """What to say of a mistyped name: "; did you mean 'learning_rate'?" for 'learning_rte', "" if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def one_line(error: BaseException | str, limit: int | None = None) -> str:
    """What an error says, without line breaks and cut to `limit` characters: "no\\n  room" -> "no room"."""
    return " ".join(str(error).split())[:limit]


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk, a quota or a limit is full; safetensors and torch wrap the system's own."""
    if isinstance(error, OSError):
        return error.errno in FULL
    text = str(error).lower()
    return any(sign in text for sign in ("no space left", "quota exceeded", "file too large", "os error 28")) or (
        isinstance(error, RuntimeError) and ("file write failed" in text or "unexpected pos" in text)
    )
