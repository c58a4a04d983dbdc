"""How a script ends: 0 done, 2 the user's input, 130 interrupted, 1 anything else (a traceback: a bug of ours)."""

import errno
import io
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from sft.console.narration import say
from sft.errors import UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXIT_FAILED = 1
# What the system refuses because of the user's disks, permissions and paths, and what can be done about it. A missing
# file is not among them: where one may be missing the code asks for it, and anywhere else it is a bug.
ACCESS, PATH, FAULT = "give access to it, or name another", "name another path", "see to the disk or the network share"
SYSTEM_REFUSALS = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), ACCESS),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP), PATH),
    **dict.fromkeys((errno.EIO, errno.ESTALE), FAULT),
}


def run_command(main: Callable[[], object]) -> None:
    """Run a script's main and end as every script of the project does: `if __name__ == "__main__": run_command(main)`.

    What is the user's to mend (UserError, PromptError, a disk that is full or closed to us) becomes one line
    `error: ...` on stderr and exit code 2, Ctrl-C one line and 130, a reader that went away (`| head`) silence and 1.
    Anything else is left to Python.
    """
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the end of the process
    if sys.flags.optimize > 1:
        _end_with_error("Python's -OO (PYTHONOPTIMIZE=2) drops docstrings that transformers reads; use -O at most")
    if sys.stdout is None:
        _end_with_error("standard output is closed, and the result goes there; to drop it: > /dev/null")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # where the locale is not UTF-8, Chinese must not end in a traceback
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            main()
        finally:
            _flush_output()  # a reader that went away is noticed here, not in the interpreter's last breath
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        _drop_output()
        sys.exit(EXIT_FAILED)
    except Exception as error:
        line = str(error) if is_users_to_mend(error) else explain_refusal(error)
        if line is None:
            raise
        _end_with_error(line)


def explain_refusal(error: Exception) -> str | None:
    """What the system would not do, for the user to mend: `data/x: Permission denied; ...`; None for other errors."""
    from sft.errors import is_full, lacks_memory, one_line  # only where something went wrong

    if isinstance(loop := error.__context__, OSError) and loop.errno == errno.ELOOP:
        error = loop  # which Path.resolve() turns into a RuntimeError before Python 3.13
    name = f"{error.filename}: " if isinstance(error, OSError) and error.filename is not None else ""
    if is_full(error):
        return f"{name}no room on the disk ({_reason(error)}); make room, and run the same command again"
    if lacks_memory(error):
        return (
            f"not enough memory ({one_line(error, 120) or 'MemoryError'}); close other programs, or take less at a time"
        )
    if isinstance(error, OSError) and error.errno in SYSTEM_REFUSALS:
        return f"{name}{error.strerror}; {SYSTEM_REFUSALS[error.errno]}"
    return None


def _reason(error: Exception) -> str:
    return str((isinstance(error, OSError) and error.strerror) or error)


def _end_with_error(line: str) -> NoReturn:
    say("error: " + " ".join(line.splitlines()), by_all=True)
    sys.exit(EXIT_USER_ERROR)


def _flush_output() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        raise UserError(f"standard output: {error.strerror}; the result could not be printed") from None


def _drop_output() -> None:
    """Discard buffered output, so that Python's last flush does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_users_to_mend(error: Exception) -> bool:
    """Whether an error is the user's: its text is one line that says what, where and what to do next."""
    from prompts import PromptError  # only where something went wrong: --help must not wait for it

    return isinstance(error, UserError | PromptError)
