"""Pages that stand alone: one file, no reference to anything outside, readable on a phone, in light and dark.

Nothing becomes markup but what is Markup already: text of a model or a data file is escaped on its way in.

    body = join(heading("Rows"), table(["id", "tokens"], [["a", 12]]))
    Path("rows.html").write_text(page("data/mixed", body), encoding="utf-8")
"""

from collections.abc import Sequence
from html import escape

from sft.console import make_visible


class Markup(str):
    """Text that is HTML already, and safe."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Any text as harmless HTML; Markup passes as it is: text("a<b") -> "a&lt;b"."""
    return value if isinstance(value, Markup) else Markup(escape(make_visible(str(value))))


def join(*parts: object, by: str = "\n") -> Markup:
    """Parts one after another, what is not Markup escaped, empty ones left out."""
    return Markup(by.join(shown for part in parts if (shown := text(part))))


def element(name: str, *content: object, attributes: str = "") -> Markup:
    """An element around its content: element("p", "a<b") -> "<p>a&lt;b</p>". `attributes` are the caller's own."""
    return Markup(f"<{name}{' ' + attributes if attributes else ''}>{join(*content, by='')}</{name}>")


def heading(title: object, level: int = 2) -> Markup:
    """heading("Rows") -> "<h2>Rows</h2>"."""
    return element(f"h{level}", title)


def show_number(value: float) -> str:
    """A figure as people read it: 12,345 for counts, four decimals for the rest, 1.2e-05 where those would be 0."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if value == 0 or abs(value) >= 5e-5 else f"{value:.1e}"


def cell(value: object, label: Markup | str = "") -> Markup:
    """One cell of a table: numbers to the right, None as "-"; `label` is its column's name, shown on narrow screens."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    shown = "-" if value is None else show_number(value) if is_number else value  # type: ignore[arg-type]
    if label:
        shown = join(element("span", label, attributes="class=label"), element("span", shown), by="")
    return element("td", shown, attributes="class=number" if is_number else "")


def table(header: Sequence[Markup | str], rows: Sequence[Sequence[object]], *, stacked: bool = False) -> Markup:
    """A table in a box that scrolls by itself; `stacked`: on a phone each row becomes a block of named values.

    Nothing where there are no rows.
    """
    if not rows:
        return Markup("")
    head = element("tr", *(element("th", name) for name in header))
    lines = [
        element("tr", *(cell(value, name if stacked else "") for name, value in zip(header, row, strict=True)))
        for row in rows
    ]
    box = "wide stacked" if stacked else "wide"
    body = element("table", element("thead", head), element("tbody", Markup("\n".join(lines))))
    return element("div", body, attributes=f'class="{box}"')


def page(
    title: object,
    body: Markup,
    *,
    style: str = "",
    language: str = "en",
    before: Markup | None = None,
    tab: str | None = None,
) -> str:
    """The whole document; `style` is CSS behind the common rules, `before` stands between <body> and the main part.

    tab: the window's title, where that is not the page's.
    """
    parts = (before or Markup(""), element("main", element("h1", title), body))
    return (
        f'<!doctype html>\n<html lang="{language}">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title if tab is None else tab)}</title>\n<style>\n{STYLE}{style}</style>\n</head>\n"
        f"<body>\n{join(*parts)}\n</body>\n</html>\n"
    )


STYLE = """:root { color-scheme: light dark; --line: #8884; --soft: #8882; --good: #1a7f37; --bad: #c0392b;
  --mixed: #9a6700; --accent: #0969da; }
@media (prefers-color-scheme: dark) { :root { --good: #4ac26b; --bad: #ff7b72; --mixed: #d4a72c; --accent: #58a6ff; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif;
  max-width: 72rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
.wide { overflow-x: auto; max-width: 100%; } .wide + .wide { margin-top: 1rem; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .7rem; text-align: left; vertical-align: top; }
th { overflow-wrap: normal; }
td { white-space: pre-wrap; min-width: 3rem; max-width: 28rem; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td > .label { display: none; }
@media (max-width: 640px) {
  .stacked table, .stacked tbody, .stacked tr, .stacked td { display: block; max-width: none; }
  .stacked thead { display: none; }
  .stacked tr { border: 1px solid var(--line); border-radius: .4rem; margin: 0 0 .7rem; padding: .3rem .6rem; }
  .stacked td, .stacked td.number { border: 0; padding: .1rem 0; text-align: left; white-space: normal;
    display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 3fr); gap: .5rem; }
  .stacked td > .label { display: block; opacity: .75; } .stacked td:first-child { font-weight: 600; }
}
"""
