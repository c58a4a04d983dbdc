import math

import pytest

from sft.console import table
from sft.console.terminal import show_figure


def test_columns_line_up_where_characters_are_two_columns_wide():
    rows = [["accuracy", 0.52, 0.91], ["中文", None, 3]]
    assert table(rows, header=["metric", "base", "tuned"]) == (
        "metric      base   tuned\n"
        "--------  ------  ------\n"
        "accuracy  0.5200  0.9100\n"
        "中文           -       3"
    )  # fmt: skip


def test_a_table_without_header_is_only_its_rows():
    assert table([["a", "b"], ["ccc", "d"]]) == "a    b\nccc  d"


def test_an_empty_table_shows_its_header_and_nothing_else():
    assert table([], header=["name", "n"]) == "name  n\n----  -"
    assert table([]) == ""


def test_a_cell_holds_one_line_and_no_control_character():
    assert table([["a\nb\x1b[2J", 1]]) == "a b␛[2J  1"


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match=r"of one length, these are \[1, 2\]"):
        table([["a"], ["b", "c"]])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.8870132209018449, "0.887"),
        (2.42786730785275, "2.4279"),
        (297.9, "297.9"),
        (100.0, "100"),
        (0.0, "0"),
        (-0.25, "-0.25"),
        (0.0000123, "1.2e-05"),
        (328, "328"),
        (None, "None"),
        ("checkpoint-328", "checkpoint-328"),
        (math.nan, "nan"),
    ],
)
def test_a_figure_is_shown_with_the_digits_that_say_something(value, shown):
    assert show_figure(value) == shown
