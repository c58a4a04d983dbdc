"""Text files in another encoding than UTF-8 are named as such, instead of failing line by line."""

import codecs
from pathlib import Path

from sft.errors import DataError

SAMPLE_BYTES = 65536
TELLING_CHARACTERS = 4  # two characters of GB18030; half a character of UTF-8 is at most three bytes
BYTE_ORDER_MARKS = (  # UTF-32 first: its little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def refuse_wrong_encoding(path: Path) -> None:
    """Raise DataError, with the command that converts, where the file's beginning is UTF-16, UTF-32 or GB18030."""
    with path.open("rb") as file:
        found = guess_encoding(file.read(SAMPLE_BYTES))
    if found != "UTF-8":
        raise DataError(
            f"{path}: the file is {found}, expected UTF-8; convert it: "
            f"iconv -f {found} -t UTF-8 {path.name} > {path.stem}.utf8{path.suffix}"
        )


def guess_encoding(sample: bytes) -> str:
    r"""The encoding of a file by its first bytes: b"\xff\xfe{\x00" -> "UTF-16"; what nothing speaks against is UTF-8.

    A broken byte or two in UTF-8 text is a matter of its line, so GB18030 is only named where most characters
    beyond ASCII, and more than a few, are no UTF-8 and the whole reads as GB18030.
    """
    for mark, name in BYTE_ORDER_MARKS:
        if sample.startswith(mark):
            return name
    zeros = sample.count(b"\0")
    if zeros * 10 > len(sample):  # ASCII in UTF-16 is half zeros, and JSON and CSV always have some ASCII
        return "UTF-16BE" if sample[:1] == b"\0" else "UTF-16LE"
    decoded = sample.decode("utf-8", errors="replace")
    beyond_ascii = sum(not character.isascii() for character in decoded)
    if decoded.count("\ufffd") * 2 <= beyond_ascii or beyond_ascii < TELLING_CHARACTERS:
        return "UTF-8"
    decoder = codecs.getincrementaldecoder("gb18030")()  # incremental: the sample may end inside a character
    try:
        decoder.decode(sample)
    except UnicodeDecodeError:
        return "UTF-8"
    return "GB18030"
