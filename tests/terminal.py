"""A script in a real terminal (a pty), and a screen that shows what a person would see there."""

import codecs
import fcntl
import io
import multiprocessing
import os
import pty
import re
import runpy
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

from tests.commands import ROOT

# Started once, with what takes seconds to import; each script is a fork of it.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["sft.talk.session", "sft.console.markdown", "prompt_toolkit", "tests.terminal"])
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "TERM": "xterm-256color", "COLUMNS": "", "LINES": "", "NO_COLOR": ""}


class Terminal:
    """What a script shows, and keys for it: Terminal("chat.py", "--model", folder, cwd=tmp_path)."""

    def __init__(self, *argv: str, cwd: Path = ROOT, columns: int = 90, lines: int = 40) -> None:
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end inside a character
        self.fd, far_end = pty.openpty()
        fcntl.ioctl(far_end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        arguments = (os.ttyname(far_end), [str(ROOT / argv[0]), *argv[1:]], str(cwd))
        self.process = SERVER.Process(target=run_script, args=arguments, daemon=True)
        self.process.start()
        self._far_end = far_end  # open, so that the terminal is there before the script is

    def wait_for(self, pattern: str, timeout_s: float = 120) -> str:
        """Read until something matches; give and forget everything up to there."""
        deadline = time.monotonic() + timeout_s
        while not (match := re.search(pattern, self.shown)):
            assert time.monotonic() < deadline, f"never saw {pattern!r}, but {self.shown[-2000:]!r}"
            assert self._read(), f"ended without {pattern!r}, but with {self.shown[-2000:]!r}"
        before, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return before

    def type(self, keys: str) -> None:
        """Press keys: "hello\\r"."""
        os.write(self.fd, keys.encode())

    def kill(self) -> None:
        """kill -9, as a crash would."""
        self.process.kill()
        self.process.join()

    def wait_for_exit(self) -> int:
        """Exit code, once it has ended and all that it showed is read."""
        while self._read():
            pass
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    def close(self) -> None:
        """Leave nothing running."""
        self.kill()
        os.close(self._far_end)
        os.close(self.fd)

    def _read(self) -> bool:
        """False once the script has ended and everything is read."""
        if not select.select([self.fd], [], [], 0.05)[0]:
            return self.process.is_alive()
        self.shown += self._decoder.decode(os.read(self.fd, 65536))
        return True


def run_script(terminal: str, argv: list[str], cwd: str) -> None:
    """In a fork of the server: become the script, with the terminal as its own."""
    os.setsid()
    fd = os.open(terminal, os.O_RDWR)
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)  # Ctrl-C reaches it
    for number in (0, 1, 2):
        os.dup2(fd, number)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")  # type: ignore[arg-type]
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="utf-8", write_through=True)  # type: ignore[arg-type]
        for number in (1, 2)
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name, value in ENVIRONMENT.items():
        if value:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
    os.chdir(cwd)
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")


class Screen:
    """A terminal of endless height: understands what our own drawing uses, and nothing else.

    Screen().feed("a\\n\\x1b[1A\\rb") -> lines ["b"]
    """

    SEQUENCE = re.compile(r"\x1b\[(\??)([0-9;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")

    def __init__(self) -> None:
        self.lines, self.row, self.column = [""], 0, 0

    def feed(self, text: str) -> None:
        """Show some output; raises ValueError for a sequence that does anything but draw."""
        place = 0
        while place < len(text):
            match = self.SEQUENCE.match(text, place)
            if match is None:
                raise ValueError(f"cannot be shown: {text[place : place + 20]!r}")
            self._apply(match)
            place = match.end()

    def _apply(self, match: re.Match[str]) -> None:
        private, number, letter = match.groups()
        if match.group() == "\n":
            self.row, self.column = self.row + 1, 0
            self.lines += [""] * (self.row + 1 - len(self.lines))
        elif match.group() == "\r":
            self.column = 0
        elif letter is None:
            line = self.lines[self.row]
            self.lines[self.row] = line[: self.column] + match.group() + line[self.column + len(match.group()) :]
            self.column += len(match.group())
        elif letter == "A":
            self.row -= int(number)
            assert self.row >= 0, "the cursor left the screen"
        elif letter == "K" and not number:
            self.lines[self.row] = self.lines[self.row][: self.column]
        elif letter == "J" and not number:
            self.lines[self.row] = self.lines[self.row][: self.column]
            del self.lines[self.row + 1 :]
        elif not (letter == "m" and not private) and (private, number, letter) not in {
            ("?", "2026", "h"),
            ("?", "2026", "l"),
        }:
            raise ValueError(f"steers the terminal: {match.group()!r}")
