"""Standard input: lines from a person or a pipe, and Ctrl-C while a model answers.

Ctrl-C is a request to stop at the next token, not an exception in the middle of something.

    with on_interrupt(pieces.stop) as interrupted: ...    # interrupted.is_set() once Ctrl-C was pressed
"""

import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import fstat
from pathlib import Path
from typing import TYPE_CHECKING

from sft.errors import DataError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession


class LineReader:
    """Lines of standard input: with a prompt, editing and history at a terminal, plain from a pipe.

    reader = LineReader("you> ")
    reader.read()                # "hello", or None at the end of the input (Ctrl-D)

    At a terminal Enter sends, Alt-Enter starts another line, and pasted text keeps its lines. `history` is a file
    of earlier input for the arrow keys; without it they have this session only.
    """

    def __init__(self, prompt: str, *, history: Path | None = None) -> None:
        self._prompt = prompt
        self.is_terminal = is_terminal()
        self._editor = make_editor(prompt, history) if self.is_terminal and has_cursor() else None
        if sys.stdin is not None:
            sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]  # a stray byte must not end a chat

    def read(self) -> str | None:
        """The next line without its line break; None at the end of the input. Ctrl-C raises KeyboardInterrupt."""
        if self.is_terminal:
            try:
                text = self._editor.prompt() if self._editor else input(self._prompt)
                return text.encode("utf-8", "replace").decode()  # no lone surrogates
            except EOFError:
                print()  # so that the shell's prompt starts on a new line
                return None
        line = sys.stdin.readline() if sys.stdin is not None else ""
        return line.rstrip("\r\n") if line else None


def make_editor(prompt: str, history: Path | None) -> "PromptSession[str]":
    """prompt_toolkit's line editor with our keys."""
    os.environ.setdefault("PROMPT_TOOLKIT_NO_CPR", "1")  # some terminals report the cursor position too late
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return PromptSession(
        prompt if "NO_COLOR" in os.environ else [("bold ansicyan", prompt)],
        history=FileHistory(history) if history is not None and can_keep(history) else InMemoryHistory(),
        key_bindings=keys,
        multiline=True,  # a line may hold several; `send` is Enter all the same
        prompt_continuation=lambda width, number, wraps: " " * width if wraps else "." * (width - 1) + " ",
        enable_history_search=False,
    )


def can_keep(history: Path) -> bool:
    """Whether the history file can be written; it is created now, readable by its owner only."""
    try:
        history.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        history.touch(mode=0o600)
    except OSError:
        return False
    return os.access(history, os.W_OK)


def has_cursor() -> bool:
    """Whether the terminal can move its cursor; an editor's buffer, for example, cannot."""
    return os.environ.get("TERM", "dumb") not in ("dumb", "unknown")


def is_terminal() -> bool:
    """Whether a person types and reads: standard input and output are both a terminal."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()


def read_standard_input() -> str | None:
    """All of standard input, None if nothing is given: a terminal, /dev/null or no input at all.

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


@contextmanager
def on_interrupt(action: Callable[[], None]) -> Iterator[threading.Event]:
    """Inside this context the first Ctrl-C calls `action` and sets the event that is given; the second raises.

    with on_interrupt(pieces.stop) as interrupted: ...

    Outside the main thread, where Python handles no signals, nothing is changed.
    """
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def handle(number: int, frame: object) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()
        action()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def quiet_keyboard() -> Iterator[None]:
    """Keys pressed inside this context are kept for later and not echoed, so that they do not break up an answer."""
    try:
        import termios  # not on Windows

        if sys.stdin is None or not sys.stdin.isatty():
            raise OSError
        keyboard = sys.stdin.fileno()
        before = termios.tcgetattr(keyboard)
    except (ImportError, OSError):
        yield
        return
    silent = list(before)
    silent[3] = before[3] & ~termios.ECHO  # [3]: local modes
    termios.tcsetattr(keyboard, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
