from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from sft.console.wrapping import find_breaks, fold, wrap_text

TEXT = st.text(alphabet="ab中文，。（） x-", max_size=60)


def wrap(text: str, width: int) -> list[str]:
    return [line.plain for line in wrap_text(Text(text), width)]


def test_words_break_at_blanks_and_chinese_behind_any_character():
    assert wrap("one two three", 8) == ["one two", "three"]
    assert wrap("我用 python 写代码", 12) == ["我用 python", "写代码"]
    assert wrap("带有 代码，以及很长的一行", 10) == ["带有 代", "码，以及很", "长的一行"]


def test_no_line_starts_with_a_closing_sign_or_ends_with_an_opening_one():
    assert wrap("中文中文。", 8) == ["中文中", "文。"]
    assert wrap("中文中（文）", 8) == ["中文中", "（文）"]


def test_a_word_longer_than_a_line_is_cut_where_the_line_is_full():
    assert wrap("abcdefgh", 3) == ["abc", "def", "gh"]
    assert wrap("x abcdefgh y", 5) == ["x", "abcde", "fgh y"]


def test_empty_lines_stay():
    assert wrap("a\n\nb", 10) == ["a", "", "b"]


def test_what_follows_the_break_of_a_line_is_indented_and_the_next_line_is_not():
    assert fold("one two three four\nfive", 9, indent=2) == "one two\n  three\n  four\nfive"
    assert fold("", 9) == ""


@given(st.text(alphabet="ab中文，。（） x-\n", max_size=60), st.integers(8, 20), st.integers(0, 3))
def test_no_folded_line_is_wider_than_requested_and_only_spaces_are_lost(text, width, indent):
    folded = fold(text, width, indent=indent)
    assert max(map(cell_len, folded.split("\n"))) <= width
    assert "".join(folded.split()) == "".join(text.split())


@given(TEXT, st.integers(4, 20))
def test_no_line_is_wider_than_requested_and_only_spaces_are_lost(text, width):
    lines = wrap(text, width)
    assert max(map(cell_len, lines)) <= width
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@given(TEXT, st.integers(4, 20))
def test_breaks_are_ascending_positions_inside_the_line(text, width):
    breaks = find_breaks(text, width)
    assert breaks == sorted(set(breaks))
    assert all(0 < place < len(text) for place in breaks)
