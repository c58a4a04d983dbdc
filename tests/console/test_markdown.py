import io
import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from sft.console import markdown
from sft.console.markdown import MarkdownWriter, Renderer, show_columns, split_blocks
from tests.terminal import Screen

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
ANSWER = """# 标题 Title

普通段落 **bold** `code`
a line of its own.

1. first
2. second [link](http://a.b/c)
   - nested

| 名称 | value |
|---|---:|
| 苹果 | 1.5 |

```python
print("你好")
```

> quote
"""
PARTS = st.sampled_from(
    [
        "# ",
        "\n",
        "\n\n",
        "- ",
        "1. ",
        "```",
        "|a|b|\n|-|-|\n",
        "**",
        "`",
        "> ",
        "中文，",
        "word ",
        "---\n",
        "<b>",
        "[x](y)",
        "    ",
    ]
)
MARKDOWN = st.lists(PARTS, max_size=25).map("".join)


@pytest.fixture(autouse=True)
def terminal_of_forty_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("LINES", "1000")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")  # to rich, a string is a terminal then
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(markdown, "DRAW_INTERVAL_S", 0.0)


def write(pieces: list[str], *, thought: str = "") -> str:
    stream = io.StringIO()
    writer = MarkdownWriter(stream)
    if thought:
        writer.write(thought, is_thought=True)
    for piece in pieces:
        writer.write(piece)
    writer.close()
    return stream.getvalue()


def screen_of(output: str) -> list[str]:
    screen = Screen()
    screen.feed(COLOURS.sub("", output))
    return [line.rstrip() for line in screen.lines[:-1]]


def test_an_answer_is_shown_with_its_blocks_apart_and_nothing_centred():
    assert screen_of(write([ANSWER])) == [
        "标题 Title",
        "",
        "普通段落 bold code",
        "a line of its own.",
        "",
        " 1 first",
        " 2 second link (http://a.b/c)",
        "    • nested",
        "",
        " 名称  value",
        " ───────────",
        " 苹果    1.5",
        "",
        ' print("你好")',
        "",
        "▌ quote",
    ]


def test_drawn_character_by_character_the_screen_is_the_same_in_the_end():
    assert screen_of(write(list(ANSWER))) == screen_of(write([ANSWER]))


@settings(max_examples=60, deadline=None)
@given(MARKDOWN, st.integers(1, 9))
def test_however_an_answer_is_cut_into_pieces_the_screen_ends_as_if_it_came_whole(text, size):
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert screen_of(write(pieces)) == screen_of(write([text]))


def test_a_line_that_only_looks_like_a_new_block_until_it_is_whole_settles_nothing():
    assert screen_of(write(list("- **\n**"))) == [" • **", "   **"]


def test_what_is_finished_is_written_once_and_only_changed_lines_are_written_again():
    stream = io.StringIO()
    writer = MarkdownWriter(stream)
    writer.write("first paragraph\n\nline one\nline two\nline")
    before = len(stream.getvalue())
    writer.write(" three")
    assert COLOURS.sub("", stream.getvalue()[before:]) == "\x1b[?2026h\x1b[1A\rline three\x1b[K\n\x1b[J\x1b[?2026l"


def test_a_block_longer_than_the_screen_is_never_drawn_above_it(monkeypatch):
    monkeypatch.setenv("LINES", "6")
    output = write(["|a|b|\n|-|-|\n", *(f"|{'x' * number}|y|\n" for number in range(1, 20))])  # it grows wider
    assert max(int(number) for number in re.findall(r"\x1b\[(\d+)A", output)) == 5
    assert [line.split() for line in screen_of(output)[-3:]] == [["x" * number, "y"] for number in (17, 18, 19)]


def test_no_line_is_wider_than_the_terminal_whatever_the_script():
    text = "普通段落，带有很长的一行中文文字，用来检查换行。" * 3 + "\n\n- 列表项目也要换行，列表项目也要换行，列表项目"
    lines = screen_of(write(list(text)))
    assert max(map(cell_len, lines)) == 38 + 1
    assert "".join(lines).replace("•", "").replace(" ", "") == text.replace("\n\n- ", "")


def test_a_thought_precedes_the_answer_dim_and_indented():
    output = write(["4"], thought="\n2 + 2\n**is** 4\n")
    assert screen_of(output) == ["  2 + 2", "  **is** 4", "", "4"]
    assert "\x1b[2;3m2 + 2" in output


def test_html_entities_images_and_control_tokens_are_text():
    text = "a <b>x</b> &#27;[2J &#x202e; ![alt](http://x) <|im_end|> \\(x\\) <think>"
    assert " ".join(screen_of(write([text]))) == text.replace("![alt](http://x)", "!alt (http://x)")


def test_an_answer_without_text_shows_nothing():
    assert write(["", "\n"]) == ""


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(PARTS, st.sampled_from(["\x1b[2J", "\x9b", "\x07", "\r", "\u202e", "\x1b]0;x"])), max_size=20)
)
def test_of_what_a_model_writes_no_byte_steers_the_terminal(parts):
    assert_safe(write(parts))


def assert_safe(output: str) -> None:
    """Nothing but our own drawing and what can be seen."""
    Screen().feed(COLOURS.sub("", output))  # raises for anything else that steers
    drawn = re.sub(r"\x1b\[(\?2026[hl]|\d+A|K|J)|\r", "", COLOURS.sub("", output))
    assert STEERING.findall(drawn) == []


@pytest.mark.slow
def test_ten_thousand_fuzzed_answers_cut_anywhere_draw_no_steering_byte():
    rng = random.Random(11)
    parts = ["# ", "\n", "\n\n", "- ", "```", "|a|b|\n|-|-|\n", "**", "`", "> ", "中文，", "word ", "[x](y)", "    "]
    parts += ["\x1b[2J", "\x1b]0;t\x07", "\x9b1m", "\x00", "\x7f", "\r", "\u202e", "\x1b", "[31m", "\x85", "&#27;"]
    for _ in range(10_000):
        text = "".join(rng.choices(parts, k=rng.randint(3, 12)))
        cut = rng.randint(0, len(text))
        assert_safe(write([text[:cut], text[cut:]]))


@given(MARKDOWN)
def test_blocks_joined_are_the_text(text):
    assert "".join(split_blocks(text)) == text


def test_two_texts_are_side_by_side_or_below_each_other_on_a_narrow_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "70")
    stream = io.StringIO()
    show_columns(stream, [("base", "**中文** answer"), ("tuned", "one\n\ntwo")])
    assert COLOURS.sub("", stream.getvalue()).splitlines() == [
        f"base{' ' * 29} │ tuned",
        f"{'─' * 33} │ {'─' * 33}",
        f"中文 answer{' ' * 22} │ one",
        f"{' ' * 33} │",
        f"{' ' * 33} │ two",
    ]
    monkeypatch.setenv("COLUMNS", "40")
    stream = io.StringIO()
    show_columns(stream, [("base", "a"), ("tuned", "b\x1b")])
    assert stream.getvalue() == "base:\na\ntuned:\nb␛\n"


def test_without_colours_no_escape_codes_are_printed(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    (line,) = Renderer(io.StringIO(), 40).render("# Title")
    assert re.findall(r"\x1b\[[0-9;]*(3[0-7]|38)", line) == []
