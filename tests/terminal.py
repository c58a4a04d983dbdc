"""A script in a real terminal (a pty), and a screen that shows what a person would see there."""

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from pathlib import Path

from tests.commands import ROOT

OURS = {"OMP_NUM_THREADS": "1", "TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"}
ENVIRONMENT = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")} | OURS


class Terminal:
    """What a script shows, and keys for it: Terminal("chat.py", "--model", folder, cwd=tmp_path)."""

    def __init__(self, *argv: str, cwd: Path = ROOT, columns: int = 90, lines: int = 40) -> None:
        self.shown = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a read may end inside a character
        self._exit_code: int | None = None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # background jobs of a shell ignore it, and so would we
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            os.chdir(cwd)
            os.execve(sys.executable, [sys.executable, str(ROOT / argv[0]), *argv[1:]], ENVIRONMENT)

    def wait_for(self, pattern: str, timeout_s: float = 240) -> str:
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
        if self._exit_code is None:
            os.kill(self.pid, signal.SIGKILL)
            self._reap()

    def wait_for_exit(self) -> int:
        """Exit code, once it has ended and all that it showed is read."""
        while self._read():
            pass
        return self._reap()

    def close(self) -> None:
        """Leave nothing running."""
        self.kill()
        os.close(self.fd)

    def _reap(self) -> int:
        if self._exit_code is None:
            self._exit_code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self._exit_code

    def _read(self) -> bool:
        """False once the script has ended and everything is read."""
        if not select.select([self.fd], [], [], 0.2)[0]:
            return True
        try:
            raw = os.read(self.fd, 65536)
        except OSError:  # Linux: the other end is closed
            return False
        self.shown += self._decoder.decode(raw)
        return bool(raw)


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
