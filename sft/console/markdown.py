r"""Markdown in a terminal: an answer drawn while it is written, without flicker, and answers side by side.

Finished blocks (paragraphs, lists, code) are printed once and stay. Only the last, growing block is drawn again: of its
lines those that changed, in one write. Whatever a model writes is text: HTML, entities and images are shown as they
stand, and each line is made visible once more after rendering, so that no byte of it can steer the terminal.

    writer = MarkdownWriter(sys.stdout)
    writer.write("# Tit"); writer.write("le\n")
    writer.close()
"""

import io
import re
import shutil
import time
from collections.abc import Sequence
from itertools import takewhile, zip_longest
from typing import ClassVar, TextIO

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.markdown import Heading, Markdown, Paragraph
from rich.padding import Padding
from rich.segment import Segment
from rich.text import Text

from sft.console.terminal import make_visible
from sft.console.wrapping import wrap_text

MIN_WIDTH = 20
DRAW_INTERVAL_S = 0.05  # between two drawings; a person reads no faster
SYNC_ON, SYNC_OFF = "\x1b[?2026h", "\x1b[?2026l"  # show it all at once: terminals that do not know this ignore it
ANSI = re.compile(r"\x1b\[[0-9;]*m")

# Off: what would drop or hide a part of the text (entities can even spell control characters).
PARSER = (
    MarkdownIt("commonmark", {"html": False})
    .enable(["table", "strikethrough"])
    .disable(["image", "entity", "escape", "reference"])
)
MIN_COLUMN = 30
BETWEEN = " │ "


class LeftHeading(Heading):
    """A left-aligned heading; rich centres the first level."""

    LEVEL_ALIGN: ClassVar = dict.fromkeys(Heading.LEVEL_ALIGN, "left")


class WrappedParagraph(Paragraph):
    """A paragraph whose Chinese fills its lines."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from wrap_text(self.text, options.max_width)


class ChatMarkdown(Markdown):
    """Markdown as chats use it: a line break in the text stays one."""

    elements: ClassVar = {**Markdown.elements, "heading_open": LeftHeading, "paragraph_open": WrappedParagraph}

    def __init__(self, source: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)  # a hidden address could be anything
        self.parsed = PARSER.parse(source)
        for block in self.parsed:
            for token in block.children or []:
                token.type = "hardbreak" if token.type == "softbreak" else token.type


class Renderer:
    """Markdown -> lines for a terminal, colours included."""

    def __init__(self, stream: TextIO, width: int) -> None:
        colours = Console(file=stream, legacy_windows=False)
        self.width = max(width, MIN_WIDTH)
        self._console = Console(
            file=io.StringIO(),
            force_terminal=True,
            width=self.width,
            color_system=colours.color_system,  # type: ignore[arg-type]  # one of the names it takes
            no_color=colours.no_color,
            legacy_windows=False,
        )

    def render(self, source: str) -> list[str]:
        """Lines of at most `width` columns, without their ends; an empty one between two blocks."""
        lines: list[str] = []
        for block in split_blocks(source):
            rendered = self._render(ChatMarkdown(block))
            lines += [*([""] if lines and rendered else []), *rendered]
        return lines

    def render_thought(self, source: str) -> list[str]:
        """A model's thought: dim, indented, no Markdown."""
        if not source.strip():
            return []
        lines = wrap_text(Text(source.strip("\n"), style="dim italic"), self.width - 2)
        return self._render(Padding(Group(*lines), (0, 0, 0, 2)))

    def _render(self, content: RenderableType) -> list[str]:
        options = self._console.options.update(width=self.width)
        lines = [self._write(line) for line in self._console.render_lines(content, options, pad=False)]
        full = [place for place, line in enumerate(lines) if ANSI.sub("", line).strip()]
        return lines[full[0] : full[-1] + 1] if full else []  # rich's own distances differ from block to block

    def _write(self, line: Sequence[Segment]) -> str:
        """A line's segments as text with colours; the only place where an ESC is written into what a model said."""
        system = self._console._color_system
        if self._console.no_color:
            line = list(Segment.remove_color(line))
        return "".join(
            segment.style.render(make_visible(segment.text), color_system=system)
            if segment.style
            else make_visible(segment.text)
            for segment in line
            if not segment.control
        ).rstrip()


class MarkdownWriter:
    """Draws one answer on a terminal while its pieces come."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._settled = False  # whether finished blocks are above
        self._source, self._is_thought = "", False
        self._shown: list[str] = []  # lines of the growing block on the screen; the cursor is below them
        self._drawn_at = -DRAW_INTERVAL_S
        self._size = shutil.get_terminal_size()
        self._renderer = Renderer(stream, self._size.columns - 1)

    def write(self, piece: str, *, is_thought: bool = False) -> None:
        """Add one piece; it is drawn at once, or with the next one where these come faster than one can read."""
        if is_thought != self._is_thought:
            self._settle(self._source)
            self._is_thought = is_thought
        self._source += make_visible(piece).expandtabs(4)
        if time.monotonic() - self._drawn_at >= DRAW_INTERVAL_S:
            self._draw()

    def close(self) -> None:
        """Draw the rest; the cursor is at the start of a line."""
        self._settle(self._source)

    def _draw(self) -> None:
        lines = self._source[: self._source.rfind("\n") + 1]  # an unfinished last line may still change its meaning
        blocks = [] if self._is_thought else split_blocks(lines)
        if len(blocks) > 1:
            rest = blocks[-1] + self._source[len(lines) :]
            self._settle("".join(blocks[:-1]))
            self._source = rest
        self._show(self._render(self._source))
        self._drawn_at = time.monotonic()

    def _settle(self, source: str) -> None:
        """Print the final form of finished blocks, and continue below them."""
        lines = self._render(source)
        self._show(lines)
        self._settled = self._settled or bool(lines)
        self._shown, self._source = [], ""

    def _render(self, source: str) -> list[str]:
        if (size := shutil.get_terminal_size()) != self._size:  # the lines above are wrapped to another width now
            self._size, self._shown = size, []
            self._renderer = Renderer(self._stream, size.columns - 1)
        lines = self._renderer.render_thought(source) if self._is_thought else self._renderer.render(source)
        return ["", *lines] if lines and self._settled else lines

    def _show(self, lines: list[str]) -> None:
        """Replace the lines on the screen by others: those that changed, and only as far up as the screen reaches."""
        pairs = zip(self._shown, lines, strict=False)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        same = max(same, len(self._shown) - (self._size.lines - 1))
        num_up = len(self._shown) - same
        if not num_up and same >= len(lines):
            return
        up = f"\x1b[{num_up}A" if num_up else ""
        below = "".join(f"{line}\x1b[K\n" for line in lines[same:])
        self._stream.write(f"{SYNC_ON}{up}\r{below}\x1b[J{SYNC_OFF}")
        self._stream.flush()
        self._shown = lines


def split_blocks(source: str) -> list[str]:
    """The blocks of a Markdown text, only the last of which may still grow: "# a\\n\\nb" -> ["# a\\n\\n", "b"]."""
    starts = [token.map[0] for token in PARSER.parse(source) if is_block(token) and token.map]
    lines = source.split("\n")
    lines[:-1] = [f"{line}\n" for line in lines[:-1]]
    return ["".join(lines[start:end]) for start, end in zip([0, *starts[1:]], [*starts[1:], None], strict=True)]


def is_block(token: Token) -> bool:
    """Whether a token opens a block that is in no other one."""
    return token.level == 0 and token.nesting >= 0


def show_columns(stream: TextIO, columns: Sequence[tuple[str, str]]) -> None:
    """Write titled texts in one column each: show_columns(sys.stdout, [("base", "…"), ("tuned", "…")])."""
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
    """A rendered line with blanks after it up to `width` columns; its colours take no room."""
    return cell + " " * max(0, width - cell_len(Text.from_ansi(cell).plain))
