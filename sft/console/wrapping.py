"""Lines of a width in columns, in any script: Chinese may break after any character, other text between words.

rich breaks only at spaces, so a Chinese sentence after a word would start a new line.
"""

import re
from itertools import pairwise

from rich.cells import cell_len
from rich.text import Text

NOT_FIRST = "，。！？、；：）》」』】”’…—,.!?;:)]}%"  # may not start a line
NOT_LAST = "（《「『【“‘([{"  # may not end one
WIDE = r"\u2e80-\u9fff\uac00-\ud7a3\uf900-\ufaff\uff00-\uffef"  # Chinese, Japanese, Korean and their punctuation
UNIT = re.compile(rf"[{WIDE}]\s*|[^\s{WIDE}]+\s*|\s+")  # what stays together, with the blanks after it


def wrap_text(text: Text, width: int) -> list[Text]:
    """A text's lines, each at most `width` columns wide; blanks at which a line breaks are left out.

    wrap_text(Text("我用 python 写"), 8) -> 我用, python, 写
    """
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        pieces = line.divide(find_breaks(line.plain, width))
        for piece in pieces:
            piece.rstrip()
        lines += pieces
    return lines


def fold(text: str, width: int, *, indent: int = 0) -> str:
    """Fold plain text, with lines after a break indented: ("a bcd", 4, indent=1) -> "a\\n bcd"."""
    lines = []
    for line in text.split("\n"):
        first = next(iter(find_breaks(line, width)), len(line))
        rest = line[first:]
        places = [0, *find_breaks(rest, max(width - indent, 1)), len(rest)]
        lines.append(line[:first].rstrip())
        lines += [" " * indent + rest[a:b].rstrip() for a, b in pairwise(places) if a < b]
    return "\n".join(lines)


def find_breaks(line: str, width: int) -> list[int]:
    """Offsets at which a line breaks, in characters: ("abc def", 5) -> [4]."""
    breaks: list[int] = []
    begin, used = 0, 0  # of the current line
    for start, end in find_units(line):
        size = cell_len(line[start:end].rstrip())
        if used and used + size > width:
            breaks.append(start)
            begin, used = start, 0
        if size > width:  # a word longer than a line is cut
            for place in range(start, end):
                if place > begin and cell_len(line[begin : place + 1].rstrip()) > width:
                    breaks.append(place)
                    begin = place
        used = cell_len(line[begin:end])
    return breaks


def find_units(line: str) -> list[tuple[int, int]]:
    """Unbreakable stretches of text; closing and opening punctuation stays with its word."""
    units: list[tuple[int, int]] = []
    for match in UNIT.finditer(line):
        start, end = match.span()
        if start == end:
            continue
        previous = line[units[-1][0] : units[-1][1]] if units else ""
        if previous and (previous[-1] in NOT_LAST or (line[start] in NOT_FIRST and not previous[-1].isspace())):
            units[-1] = (units[-1][0], end)
        else:
            units.append((start, end))
    return units
