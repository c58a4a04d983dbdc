"""What a person types or a pipe brings, on standard input."""

import stat
import sys
from os import fstat

from sft.errors import DataError


class LineReader:
    """Lines of standard input: with a prompt, editing and history at a terminal, plain from a pipe.

    reader = LineReader("you> ")
    reader.read()                # "hello", or None at the end of the input (Ctrl-D)
    """

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self.is_terminal = is_terminal()
        if self.is_terminal:
            import readline  # noqa: F401  its import gives input() arrow keys and history; not every Python has it
        if sys.stdin is not None:
            sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # a stray byte must not end a chat

    def read(self) -> str | None:
        """The next line without its end, None when there is none. Ctrl-C raises KeyboardInterrupt."""
        if self.is_terminal:
            try:
                return input(self._prompt)
            except EOFError:
                print()  # the shell's own prompt begins a line of its own
                return None
        line = sys.stdin.readline() if sys.stdin is not None else ""
        return line.rstrip("\r\n") if line else None


def is_terminal() -> bool:
    """Whether a person types and reads: standard input and output are both a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def read_standard_input() -> str | None:
    """All of standard input, None where nothing is given: a terminal, /dev/null or no input at all.

    Raises DataError for input that is empty (a pipe that broke looks like that) or not UTF-8.
    """
    if sys.stdin is None or stat.S_ISCHR(fstat(sys.stdin.fileno()).st_mode):
        return None
    raw = sys.stdin.buffer.read()
    try:
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input: byte {error.start + 1} is not UTF-8; convert it first, e.g. iconv -f GB18030 -t UTF-8"
        ) from None
    if not text:
        raise DataError("standard input is empty; pipe a text into it, or give --text")
    return text
