"""Narration: progress and notes for the user on stderr, so that stdout has only results.

    say("reads 18 rows")                      # stderr: reads 18 rows
    for row in progress(rows, "scoring"): ... # a bar with rate and time left
    warn("own: 18 rows asked, 12 found")      # stderr: warning: own: 18 rows asked, 12 found
    repeat_warnings()                         # and again, as the last thing before the result

Warnings are repeated at the end, because long output scrolls the first ones away. show_path shortens a path
to one relative to the working folder, if it is below it.
"""

import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar, overload

from tqdm import tqdm

from sft.console.terminal import make_visible

Item = TypeVar("Item")
_said: set[tuple[Path, str]] = set()  # of this process, by say_once
LINES_PER_RUN = 10  # without a terminal: one line per 10 %
LINE_INTERVAL_S = 30.0  # without a terminal and without a total: one line per 30 s
_warned: dict[str, None] = {}  # of this process, in order, each once


def say(text: str, *, by_all: bool = False) -> None:
    """Print a line of narration on stderr; a progress bar on the screen moves below it.

    With several processes (torchrun) only the first one prints; with by_all, as for an error, all of them do.
    """
    rank = os.environ.get("RANK", "0")
    if rank != "0":
        if not by_all:
            return
        text = f"process {rank}: {text}"
    tqdm.write(make_visible(text), file=sys.stderr)


def say_once(text: str, *, about: Path) -> None:
    """Say a line about a file that may be read again and again, the first time only."""
    if (about.resolve(), text) not in _said:
        _said.add((about.resolve(), text))
        say(text)


def tell(text: str, *, indent: int = 1) -> None:
    """Narration within a conversation: at a terminal wrapped at its words, each line but the first indented."""
    if sys.stderr.isatty():
        from sft.console.wrapping import fold  # brings rich, which a pipe need not wait for

        text = fold(make_visible(text), shutil.get_terminal_size().columns - 1, indent=indent)
    say(text)


@overload
def progress(
    iterable: Iterable[Item], *, total: int | None = None, description: str = "", unit: str = "row", shown: bool = True
) -> "Progress[Item]": ...


@overload
def progress(
    *, total: int | None = None, description: str = "", unit: str = "row", shown: bool = True, done: int = 0
) -> "Progress[None]": ...


def progress(
    iterable: Iterable[Item] | None = None,
    *,
    total: int | None = None,
    description: str = "",
    unit: str = "row",
    shown: bool = True,
    done: int = 0,
) -> "Progress[Item] | Progress[None]":
    """Show how far long work is, its rate and the time left: around an iterable, or counted with update().

    for row in progress(rows, description="score", unit="row"): ...
    with progress(total=1200, description="generate") as bar:
        bar.update(16)
        bar.note("loss 1.342")

    On a terminal: a bar. Else (a log, CI): a line per 10 %, or every 30 s where the total is unknown. `shown=False`
    counts silently. `total` defaults to len(iterable) if it has one. `done`: units that an earlier process did;
    they count towards the total and not towards the rate.
    """
    return Progress(iterable, total=total, description=description, unit=unit, shown=shown, done=done)


class _Bar(tqdm):
    """tqdm's bar, whose slow rates read `2.14 s/step` instead of `2.14s/ steps`."""

    @staticmethod
    def format_meter(*sizes: Any, unit: str = "it", **more: Any) -> str:
        """tqdm's line of a bar."""
        return tqdm.format_meter(*sizes, unit=unit, **more).replace(f"s/{unit}", f" s/{unit.strip().removesuffix('s')}")


class Progress(Generic[Item]):
    """One piece of long work; made by progress()."""

    def __init__(
        self,
        iterable: Iterable[Item] | None,
        *,
        total: int | None,
        description: str,
        unit: str,
        shown: bool,
        done: int = 0,
    ) -> None:
        self._iterable = iterable
        self._total = len(iterable) if total is None and hasattr(iterable, "__len__") else total  # type: ignore[arg-type]
        self._description, self._unit, self._shown = description, unit, shown
        self._count, self._done, self._note = done, done, ""
        self._started = self._line_time = time.monotonic()
        self._lines_due = (
            done * LINES_PER_RUN // self._total if self._total else 0
        )  # tenths that a line was printed for
        self._bar = None
        if shown and sys.stderr.isatty():
            self._bar = _Bar(
                total=self._total,
                initial=done,
                desc=description,
                unit=f" {unit}s",
                file=sys.stderr,
                dynamic_ncols=True,
            )

    def update(self, count: int = 1) -> None:
        """Count `count` more units as done."""
        self._count += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._shown and self._is_line_due():
            say(self._line())

    def reach(self, count: int) -> None:
        """Count on until this many units are done in all."""
        self.update(count - self._count)

    def note(self, text: str) -> None:
        """Show a short text after the bar, e.g. `loss 1.342`; it stays until the next one."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(make_visible(text), refresh=False)

    def close(self) -> None:
        """Leave the finished bar on the screen and end."""
        if self._bar is not None:
            self._bar.close()

    def __iter__(self) -> Iterator[Item]:
        if self._iterable is None:
            raise TypeError("progress(total=...) counts with update(); only progress(iterable) can be iterated")
        with self:
            for item in self._iterable:
                yield item
                self.update()

    def __enter__(self) -> "Progress[Item]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_line_due(self) -> bool:
        if not self._total:
            due = time.monotonic() - self._line_time >= LINE_INTERVAL_S
            self._line_time = time.monotonic() if due else self._line_time
            return due
        tenths = self._count * LINES_PER_RUN // self._total
        due, self._lines_due = tenths > self._lines_due, max(tenths, self._lines_due)
        return due

    def _line(self) -> str:
        """`score: 40% 400/1000 rows, 12.3 rows/s, 0:48 left, loss 1.342`."""
        elapsed = time.monotonic() - self._started
        rate = (self._count - self._done) / elapsed if elapsed > 0 else 0.0
        parts = [f"{self._count} {self._unit}s"]
        if self._total:
            parts = [f"{100 * self._count // self._total}% {self._count}/{self._total} {self._unit}s"]
        parts.append(f"{rate:,.1f} {self._unit}s/s")
        if self._total and rate > 0:
            parts.append(f"{format_duration((self._total - self._count) / rate)} left")
        parts += [self._note] if self._note else []
        return (f"{self._description}: " if self._description else "") + ", ".join(parts)


def format_duration(duration_s: float) -> str:
    """Hours, minutes and seconds: 250 -> "0:04:10"."""
    minutes, seconds = divmod(round(duration_s), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def warn(text: str) -> None:
    """Say a warning now, and keep it for the end."""
    say(f"warning: {text}")
    _warned[text] = None


def repeat_warnings() -> None:
    """Say every warning of this process again, each once, and forget them; nothing if there was none."""
    if _warned:
        say(f"{len(_warned)} warning{'s' if len(_warned) > 1 else ''}, repeated here:")
    for text in _warned:
        say(f"  {text}")
    _warned.clear()


def show_path(path: Path) -> str:
    """`outputs/demo/evaluation` for a folder below the working folder, the absolute path for any other."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
