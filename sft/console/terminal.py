"""Text that is safe to show: a model, a data file or a user may hold bytes that steer the terminal.

A raw ESC (or its one-byte C1 cousins, U+0080 to U+009F) can retitle the window, recolour the screen or paste into the
prompt; a bidi override can show text in another order than it is stored. Each becomes something that can be seen.
Every character is judged alone, so how a stream is cut into chunks cannot matter.
"""

import json
import re
from typing import TextIO

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
    r"""A text stream that passes only what is safe to show; wrap stdout with it wherever model text is written.

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
    r"""JSON that is readable (Chinese stays Chinese) and safe to show: controls stand as \u009b, also inside strings.

    Raises ValueError for NaN and infinity, which JSON does not have.
    """
    text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    return UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
