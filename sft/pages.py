"""Self-contained pages: one file, no external references, readable on a phone, in light and dark.

The templates in sft/templates are Jinja's with autoescape: text of a model or a data file cannot become markup, and
control characters in it become visible.

    html = render("rows.html", title="data/mixed", views=views)
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from sft.console import make_visible

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: object) -> str:
    """A template of sft/templates with these values; a name that is missing raises jinja2.UndefinedError."""
    return _environment().get_template(template).render(**values)


def render_macro(template: str, macro: str, *arguments: object, **values: object) -> Markup:
    """One macro of a template, for a part of a page that code puts together."""
    module = _environment().get_template(template).make_module(dict(values))
    return Markup(getattr(module, macro)(*arguments))


def text(value: object) -> Markup:
    """Any text as harmless HTML; Markup passes as it is: text("a<b") -> "a&lt;b"."""
    return value if isinstance(value, Markup) else escape(make_visible(str(value)))


def show_number(value: float) -> str:
    """A figure as people read it: 12,345 for counts, four decimals for the rest, 1.2e-05 where those would be 0."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4f}" if value == 0 or abs(value) >= 5e-5 else f"{value:.1e}"


def is_number(value: object) -> bool:
    """Whether a value is shown as a number: True is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def show(value: object) -> Markup:
    """A cell's content: numbers as people read them, None as "-", everything else as text."""
    if value is None:
        return Markup("-")
    return Markup(show_number(value)) if is_number(value) else text(value)  # type: ignore[arg-type]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: make_visible(value) if type(value) is str else value,
    )
    filters: Mapping[str, object] = {"show": show, "number": show_number}
    environment.filters.update(filters)
    environment.tests["number_shown"] = is_number
    return environment
