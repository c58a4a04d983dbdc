from html import escape
from itertools import pairwise

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from sft.report import render_markdown
from tests.report.conftest import make_prediction


def test_the_summary_has_verdict_figures_leaks_and_broken_rows(full_evaluation):
    text = render_markdown(full_evaluation)
    assert text.startswith("## demo\n\n🟢 **Tuning helped.**\n\n| metric | base | tuned |")
    assert "| sentiment accuracy | 0.5000 | 0.9000 | +0.4000 |" in text
    assert "1 of these rows occur in the 1,092 training rows, and 1 nearly (50.0% in all)" in text
    assert "<summary>Rows that got worse (5 / 20)</summary>" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count(" | ") + 1 for line in rows} <= {3, 4, 5, 9}


def test_figures_by_class_and_the_confusion_matrix_are_folded_away(full_evaluation):
    text = render_markdown(full_evaluation)
    assert "<summary>sentiment: by class</summary>\n\n| class | precision | recall | F1 | rows |" in text
    assert "| reference / answer |" in text


def test_the_summary_can_be_in_chinese(evaluation):
    text = render_markdown(evaluation, "zh")
    assert "🟢 **微调有效。**" in text
    assert "| 指标 | 微调前 | 微调后 | 差值 |" in text


READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def cells_of(text: str, name: str) -> list[list[Token]]:
    """What a reader of Markdown makes of each cell in the line of that id."""
    tokens = READER.parse(text)
    cells = [
        [part for part in token.children or [] if part.type != "text_special" or part.content]
        for before, token in pairwise(tokens)
        if before.type == "td_open"
    ]
    start = next(number for number, cell in enumerate(cells) if [part.content for part in cell] == [name])
    return cells[start : start + 5]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(st.text(alphabet="ab1 _*`~|<>[](){}!@#&;:/.-+\\\nwww中", max_size=30))
def test_text_of_a_model_is_read_as_that_text_and_as_nothing_else(evaluation, answer):
    evaluation.predictions[:] = [make_prediction("x", prediction=answer, changes={"a": "broken"})]
    cell = cells_of(render_markdown(evaluation), "x")[4]
    assert {part.type for part in cell} <= {"text"}
    assert "".join(part.content for part in cell) == " ".join(answer.split())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=100)
@given(st.text(alphabet="a1-+=>#.) *_", min_size=1, max_size=12))
def test_a_sentence_at_the_start_of_a_line_is_a_paragraph(evaluation, sentence):
    evaluation.metrics["yardsticks"] = {"verdict": f"{sentence}.", "verdict_zh": "x", "by_task": {}}
    paragraphs = [token.content for token in READER.parse(render_markdown(evaluation)) if token.type == "inline"]
    plain = [READER.renderInline(paragraph) for paragraph in paragraphs]
    assert escape(" ".join(f"{sentence}.".split()), quote=False) in plain


def test_nothing_becomes_a_mention_or_a_link(evaluation):
    answer = "@ada https://example.org www.example.org [a](b) <b> a@b.org"
    evaluation.predictions[:] = [make_prediction("x", prediction=answer, changes={"a": "broken"})]
    text = render_markdown(evaluation)
    assert [sign for sign in ("@", "://", "www.", "[a](b)", "<b>") if sign in text] == []


def test_text_that_is_not_markdown_stays_unchanged(evaluation):
    evaluation.predictions[:] = [
        make_prediction("x", prediction="eval_loss: -3.66 [a, b] (c) {d} 1. #2 it's > 1", changes={"a": "broken"})
    ]
    assert "| eval_loss: -3.66 [a, b] (c) {d} 1. #2 it's > 1 |" in render_markdown(evaluation)
