import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from sft.pages import render, render_macro, show, show_number, text


@given(st.text())
def test_no_text_becomes_markup_or_steers_a_terminal(content):
    shown = str(text(content))
    assert not set(shown) & set("<>\"'\x1b\x9b\u202e")
    assert text(shown_again := Markup(shown)) is shown_again


@given(st.text(max_size=30))
def test_no_text_in_a_table_of_a_template_becomes_markup_or_steers_a_terminal(content):
    table = render_macro("parts.html", "table", [content], [[content]], True)
    assert re.findall(r"</?(\w+)", table) == re.findall(
        r"</?(\w+)", render_macro("parts.html", "table", ["a"], [["b"]], True)
    )
    assert "\x1b" not in table


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12345, "12,345"), (0.8870132209018449, "0.8870"), (0.0, "0.0000"), (0.000012, "1.2e-05"), (-3.1723, "-3.1723")],
)
def test_numbers_are_shown_with_the_digits_that_say_something(value, shown):
    assert show_number(value) == show(value) == shown


def test_nothing_is_shown_as_a_dash_and_a_truth_value_as_a_word():
    assert (show(None), show(True), show("a<b")) == ("-", "True", "a&lt;b")


def test_a_table_names_its_columns_and_in_a_stacked_one_every_cell_does():
    plain = render_macro("parts.html", "table", ["id", "tokens"], [["a", 12]]).replace("\n", "")
    assert plain == (
        '<div class="wide"><table><thead><tr><th>id</th><th class=number>tokens</th></tr></thead>'
        '<tbody><tr><td>a</td><td class="number">12</td></tr></tbody></table></div>'
    )
    assert render_macro("parts.html", "table", ["id"], [["a"]], True).count("<span class=label>id</span>") == 1
    assert render_macro("parts.html", "table", ["id"], []).strip() == ""


def test_a_table_marks_what_got_worse_and_says_what_a_column_and_a_line_mean():
    table = render_macro(
        "parts.html", "table", ["m", "tuned"], [["x", 1], ["y", 2]], False, [(1, 1)], {"tuned": "after", "x": "one"}
    )
    assert '<td class="number worse">2</td>' in table
    assert '<td class="number">1</td>' in table
    assert "tuned<small>after</small></th>" in table
    assert "x<small>one</small></td>" in table


def test_a_page_is_a_whole_document_and_its_title_is_escaped():
    document = render(
        "rows.html", title="a<b\x1b", language="en", facts=[], views=[], merge_pieces=None, lengths=([], []),
        costs=([], []), histograms={}, problems=[],
    )  # fmt: skip
    assert document.startswith('<!doctype html>\n<html lang="en">')
    assert "<title>a&lt;b␛</title>" in document
    assert "<h1>a&lt;b␛</h1>" in document
    assert document.index("color-scheme") < document.index("--learned") < document.index("</style>")
