r"""Text as Excel files write it: controls escaped (_x0001_), each distinct text once in a table that may be large.

    unescape_text("_x0001_ _x005F_x0001_")        # "\x01 _x0001_"
    escape_text("\x01 _x0001_")                   # and back

ECMA-376 part 1, 22.9.2.19 (ST_Xstring). openpyxl neither escapes nor unescapes, so that texts would come back changed.
"""

import re
import tempfile
from array import array
from typing import IO

from openpyxl.cell.text import Text
from openpyxl.utils.escape import unescape
from openpyxl.xml.constants import SHEET_MAIN_NS
from openpyxl.xml.functions import iterparse

STRING = f"{{{SHEET_MAIN_NS}}}si"
MEMORY_BYTES = 16 << 20  # a larger table goes to disk

# What XML cannot hold, carriage returns (XML makes them newlines), and underscores that would be taken for an escape.
TO_ESCAPE = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]|_(?=x[0-9A-Fa-f]{4}_)")


def escape_text(text: str) -> str:
    r"""Text as it must stand in a cell's XML: "a\x01" -> "a_x0001_"."""
    return TO_ESCAPE.sub(lambda match: f"_x{ord(match.group()):04X}_", text)


def unescape_text(text: str) -> str:
    r"""Text as it was meant: "a_x0001_" -> "a\x01". Escaped halves of a character beyond U+FFFF are joined."""
    plain = unescape(text)
    return plain if plain is text else plain.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


class SharedStrings:
    """A workbook's table of texts, read once from its XML and kept on disk: 8 bytes of memory a text.

    Used as openpyxl uses its list of strings: by number. The file has no name and goes when this does.
    """

    def __init__(self, source: IO[bytes] | None) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=MEMORY_BYTES)  # noqa: SIM115  lives as long as this
        self._ends = array("Q", [0])
        root = None
        for event, element in iterparse(source, events=("start", "end")) if source else ():
            root = element if root is None else root
            if event == "end" and element.tag == STRING:
                data = unescape_text(Text.from_tree(element).content).encode("utf-8", "surrogatepass")
                self._spool.write(data)
                self._ends.append(self._ends[-1] + len(data))
                root.clear()

    def __getitem__(self, number: int) -> str:
        if not 0 <= number < len(self._ends) - 1:
            raise IndexError(f"a cell names text {number} of {len(self._ends) - 1}")
        start, end = self._ends[number], self._ends[number + 1]
        self._spool.seek(start)
        return self._spool.read(end - start).decode("utf-8", "surrogatepass")
