"""Text that is safe to show: a model, a data file or a user may hold bytes that steer the terminal.

A raw ESC (or its one-byte C1 cousins, U+0080 to U+009F) can retitle the window, recolour the screen or paste into the
prompt; a bidi override can show text in another order than it is stored. Each becomes something that can be seen.
Every character is judged alone, so how a stream is cut into chunks cannot matter.
"""

import json
import re
import sys
from collections.abc import Sequence
from typing import TextIO

from rich.cells import cell_len

# C0 except tab and newline, DEL, C1, bidi embeddings/overrides/isolates, lone surrogates (not encodable at all).
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def make_visible(text: str) -> str:
    r"""Text without a character that steers a terminal: "\x1b[31mred" -> "␛[31mred", "\x9b0m" -> r"\x9b0m".

    Chinese, emoji, tabs and newlines pass; carriage returns are left out ("a\r\n" -> "a\n").
    """
    return UNSAFE.sub(lambda match: _picture(match.group()), text)


def _picture(character: str) -> str:
    code = ord(character)
    if character == "\r":
        return ""
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's control pictures are in the order of the controls: ESC -> ␛
    if code == 0x7F:
        return "␡"
    if 0xD800 <= code <= 0xDFFF:
        return "\ufffd"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class TerminalFilter:
    r"""A text stream that passes only safe characters; wrap stdout with it before writing model text.

    out = TerminalFilter(sys.stdout)
    out.write("\x1b]0;owned\x07 hello")       # shows ␛]0;owned␇ hello
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        """Write one piece of text, made visible, and flush it: a person watches a stream as it comes."""
        self._stream.write(make_visible(text))
        self._stream.flush()


def to_json(value: object, *, indent: int | None = None) -> str:
    r"""JSON that is readable (Chinese stays Chinese) and safe to show: control characters become \u009b, also inside
    strings.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    return UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


THOUGHT_MARK, THOUGHT_END = "(thinking: ", ")\n"
DIM, UNDIM = "\x1b[2m", "\x1b[22m"


class AnswerWriter:
    """Writes the pieces of one answer, plain and safe to show.

    writer = AnswerWriter()
    writer.write("2 + 2 is 4", is_thought=True)      # stderr: (thinking: 2 + 2 is 4)
    writer.write("4")                                # stdout: 4
    writer.close()
    """

    def __init__(self) -> None:
        self._answer, self._thought = TerminalFilter(sys.stdout), TerminalFilter(sys.stderr)
        self._is_thinking = self._strips = False
        self._is_dim = sys.stderr.isatty()

    def write(self, piece: str, *, is_thought: bool = False) -> None:
        """Show one piece; the blank lines between thought and answer are left out."""
        if is_thought and not self._is_thinking:
            self._begin_thought()
            piece = piece.lstrip("\n")
        if not is_thought and self._is_thinking:
            self._end_thought()
        if is_thought:
            self._thought.write(piece)
            return
        if self._strips:
            piece = piece.lstrip("\n")
            self._strips = not piece
        if piece:
            self._answer.write(piece)

    def close(self) -> None:
        """End the line."""
        if self._is_thinking:
            self._end_thought()
        self._answer.write("\n")

    def _begin_thought(self) -> None:
        self._is_thinking = True
        if self._is_dim:
            sys.stderr.write(DIM)
        self._thought.write(THOUGHT_MARK)

    def _end_thought(self) -> None:
        self._is_thinking, self._strips = False, True
        self._thought.write(THOUGHT_END)
        if self._is_dim:
            sys.stderr.write(UNDIM)
            sys.stderr.flush()


GAP = "  "
TINY = 5e-5  # below it four decimals would say 0


def table(rows: Sequence[Sequence[object]], *, header: Sequence[str] | None = None) -> str:
    """Rows as aligned text, columns of numbers to the right; None shows as `-`, floats with four digits.

    table([["accuracy", 0.52, 0.91], ["中文", None, 3]], header=["metric", "base", "tuned"]) ->

    metric    base    tuned
    --------  ------  ------
    accuracy  0.5200  0.9100
    中文           -       3

    Raises ValueError if rows are not of one length.
    """
    lengths = {len(row) for row in (*rows, *([header] if header else []))}
    if len(lengths) > 1:
        raise ValueError(f"a table's rows must be of one length, these are {sorted(lengths)}")
    cells = [[_show(value) for value in row] for row in rows]
    lines = ([[_show(name) for name in header]] if header else []) + cells
    if not lines:
        return ""
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(lines[0]))]
    numeric = [all(_is_number(row[column]) for row in rows) and bool(rows) for column in range(len(widths))]
    if header:
        lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        GAP.join(_pad(cell, width, right) for cell, width, right in zip(line, widths, numeric, strict=True)).rstrip()
        for line in lines
    )


def _show(value: object) -> str:
    if value is None:
        return "-"
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return make_visible(" ".join(text.split("\n")).replace("\t", " "))


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _pad(cell: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(cell))
    return space + cell if right else cell + space


def show_figure(value: object) -> str:
    """One printed figure: 0.8870132209018449 -> "0.887", 297.9 -> "297.9", 1.2e-05; others as they are."""
    if not isinstance(value, float):
        return str(value)
    if value != 0 and abs(value) < TINY:
        return f"{value:.1e}"
    shown = f"{value:.4f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown
