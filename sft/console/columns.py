"""Texts side by side in a terminal, their Markdown rendered; one below the other where it is narrow."""

import shutil
from collections.abc import Sequence
from itertools import zip_longest
from typing import TextIO

from rich.cells import cell_len
from rich.text import Text

from sft.console.markdown import Renderer
from sft.console.terminal import make_visible

MIN_COLUMN = 30
BETWEEN = " │ "


def show_columns(stream: TextIO, columns: Sequence[tuple[str, str]]) -> None:
    """Write titled texts, each in a column of its own: show_columns(sys.stdout, [("base", "…"), ("tuned", "…")])."""
    total = shutil.get_terminal_size().columns - 1
    width = (total - len(BETWEEN) * (len(columns) - 1)) // len(columns)
    if width < MIN_COLUMN:
        renderer = Renderer(stream, total)
        for title, text in columns:
            stream.write("\n".join([f"{make_visible(title)}:", *renderer.render(make_visible(text)), ""]))
        stream.flush()
        return
    renderer = Renderer(stream, width)
    rendered = [[title, "─" * width, *renderer.render(make_visible(text))] for title, text in columns]
    for cells in zip_longest(*rendered, fillvalue=""):
        stream.write(BETWEEN.join(fill(cell, width) for cell in cells).rstrip() + "\n")
    stream.flush()


def fill(cell: str, width: int) -> str:
    """A rendered line with blanks behind it up to `width` columns; its colours take no room."""
    return cell + " " * max(0, width - cell_len(Text.from_ansi(cell).plain))
