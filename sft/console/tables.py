"""Plain tables for a terminal or a pipe, aligned also where a Chinese character is two columns wide.

Figures in them are rounded to the digits that say something; JSON files keep all digits.
"""

from collections.abc import Sequence

from rich.cells import cell_len

from sft.console.terminal import make_visible

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
