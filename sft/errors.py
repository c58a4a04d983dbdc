"""Errors that are the user's to mend: one line that says what, where and what to do next.

A script that meets one prints `error: <line>` and exits with 2; any other exception is a bug of ours.
"""

import difflib
import errno
from collections.abc import Iterable

TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})  # of HTTP: asking again may help
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UserError(Exception):
    """An error that the user can fix. The text is one line: what is wrong, where, what to do next."""


class ConfigError(UserError):
    """A setting that is unknown, ill-typed or contradicts another: `--lora_x: unknown flag; did you mean --lora_r?`"""


class DataError(UserError):
    """A row, file or source that cannot be used: `reports.jsonl:17: no 'output'; fix the row`"""


class ModelError(UserError):
    """A model or tokenizer that cannot be loaded or does not fit the run."""


class RunError(UserError):
    """A run folder that is missing, unfinished or does not match what it is used with."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The hint for a mistyped name: "; did you mean 'learning_rate'?" for 'learning_rte', "" if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def nearest_setting(name: str, known: Iterable[str]) -> str:
    """The hint for a mistyped setting: nearest_name, but only for typing errors.

    "--learning_rte" is --learning_rate, while --save_steps is not --max_steps: a name that means something else would
    mislead. Words are compared one at a time, and a name may be a beginning of two words or more.
    """
    close = difflib.get_close_matches(name, list(known), n=5, cutoff=0.6)
    near = [other for other in close if _is_slip(name.lstrip("-").split("_"), other.lstrip("-").split("_"))]
    return f"; did you mean {near[0]!r}?" if near else ""


def _is_slip(typed: list[str], meant: list[str]) -> bool:
    if len(typed) == len(meant):
        return all(_count_slips(one, other) <= min(2, len(other) // 3) for one, other in zip(typed, meant, strict=True))
    return "".join(typed) == "".join(meant) or (len(typed) > 1 and typed == meant[: len(typed)])


def _count_slips(typed: str, meant: str) -> int:
    """Letters left out, added, changed or exchanged with their neighbour (optimal string alignment)."""
    rows = [list(range(len(meant) + 1))]
    for i, letter in enumerate(typed, 1):
        row = [i]
        for j, wanted in enumerate(meant, 1):
            row.append(min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != wanted)))
            if i > 1 and j > 1 and letter == meant[j - 2] and typed[i - 2] == wanted:
                row[-1] = min(row[-1], rows[-2][j - 2] + 1)
        rows.append(row)
    return rows[-1][-1]


def one_line(error: BaseException | str, limit: int | None = None) -> str:
    """The text of an error without line breaks, cut to `limit` characters: "no\\n  room" -> "no room"."""
    return " ".join(str(error).split())[:limit]


def lacks_memory(error: BaseException) -> bool:
    """Whether an error means that there is no memory left; torch says so in words."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = ("can't allocate memory", "cannot allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in words)


def is_full(error: BaseException) -> bool:
    """Whether an error means that the disk, a quota or a limit is full; safetensors and torch wrap the system's own."""
    if isinstance(error, OSError):
        return error.errno in FULL
    text = str(error).lower()
    return any(sign in text for sign in ("no space left", "quota exceeded", "file too large", "os error 28")) or (
        isinstance(error, RuntimeError) and ("file write failed" in text or "unexpected pos" in text)
    )
