import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.html import Markup, cell, element, join, page, show_number, table, text


@given(st.text())
def test_no_text_becomes_markup_or_steers_a_terminal(content):
    shown = str(text(content))
    assert not set(shown) & set("<>\"'\x1b\x9b\u202e")
    assert text(shown_again := Markup(shown)) is shown_again


def test_parts_are_escaped_unless_they_are_markup_and_empty_ones_are_left_out():
    assert join("a<b", "", element("b", "x&y"), by=" ") == "a&lt;b <b>x&amp;y</b>"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12345, "12,345"), (0.8870132209018449, "0.8870"), (0.0, "0.0000"), (0.000012, "1.2e-05"), (-3.1723, "-3.1723")],
)
def test_numbers_are_shown_with_the_digits_that_say_something(value, shown):
    assert show_number(value) == shown


def test_a_cell_shows_numbers_to_the_right_and_nothing_as_a_dash():
    assert cell(0.5) == "<td class=number>0.5000</td>"
    assert cell(None) == "<td>-</td>"
    assert cell(True) == "<td>True</td>"
    assert cell("a", "name") == "<td><span class=label>name</span><span>a</span></td>"


def test_a_table_names_its_columns_and_in_a_stacked_one_every_cell_does():
    plain = table(["id", "tokens"], [["a", 12]])
    assert plain == (
        '<div class="wide"><table><thead><tr><th>id</th><th>tokens</th></tr></thead>'
        "<tbody><tr><td>a</td><td class=number>12</td></tr></tbody></table></div>"
    )
    assert table(["id"], [["a"]], stacked=True).count("<span class=label>id</span>") == 1
    assert table(["id"], []) == ""


def test_a_page_is_a_whole_document_with_its_own_style_behind_the_common_one():
    document = page("a<b", element("p", "{x}"), style=".own {}")
    assert document.startswith('<!doctype html>\n<html lang="en">')
    assert "<title>a&lt;b</title>" in document
    assert "<h1>a&lt;b</h1>" in document
    assert "<p>{x}</p>" in document
    assert document.index("color-scheme") < document.index(".own {}") < document.index("</style>")
    assert "<title>short</title>" in page("long", Markup(""), tab="short")
