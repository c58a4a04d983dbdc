"""Stack Exchange's questions and answers: which answer is best, and HTML as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.data.adapters.stack_exchange import adapt_stack_exchange, read_html
from sft.data.canonical import RowError
from tests.hub_lookalikes import make_answer


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("no tags", "no tags"),
        ("a &lt; b &amp;&amp; c", "a < b && c"),
        ("<p>One\n line</p>\n\n<p>two<br>lines</p>", "One line\n\ntwo\nlines"),
        ("<p>Use <code>x &lt; 1</code>, <b>not</b> <a href='https://x.org'>this</a></p>", "Use `x < 1`, not this"),
        ("<p>See</p><pre><code>def f():\n    return 1\n\n\n    # end</code></pre><p>so</p>",
         "See\n\n```\ndef f():\n    return 1\n\n\n    # end\n```\n\nso"),
        ("<ul>\n<li>one</li>\n<li><p>two</p></li>\n</ul><p>end</p>", "- one\n- two\n\nend"),
        ("<blockquote><p>said</p></blockquote><hr><p>x</p>", "said\n\nx"),
        ("<p>a<img src='x.png' alt='a plot'>b<img src='y.png'></p>", "a[a plot]b"),
        ("<p>shown<!-- hidden --><script>alert(1)</script></p>", "shown"),
        ("<p>half", "half"),
        ("<p>中文，<em>强调</em>。</p>", "中文，强调。"),
        ("", ""),
    ],
)  # fmt: skip
def test_html_becomes_text(html, text):
    assert read_html(html) == text


@given(st.text(st.characters(exclude_categories=("C", "Z")), min_size=1))
def test_words_survive_whatever_they_are(word):
    escaped = word.replace("&", "&amp;").replace("<", "&lt;")

    assert read_html(f"<p>{escaped}</p>") == word.strip()


@given(st.text())
def test_any_text_can_be_read(text):
    assert "\0" not in read_html(f"<pre>{text}</pre>{text}")


def test_the_best_answer_has_the_highest_score_then_the_askers_choice_then_comes_first():
    answers = [
        make_answer(1, "first", 2, "A"),
        make_answer(3, "also three", 3, "C"),
        make_answer(2, "chosen", 3, "B", selected=True),
    ]

    assert adapt_stack_exchange({"question": "Q", "answers": answers})["output"] == "chosen"
    assert adapt_stack_exchange({"question": "Q", "answers": answers[:2]})["output"] == "also three"
    assert adapt_stack_exchange({"question": "Q", "answers": [answers[1], answers[1] | {"text": "later"}]}) == {
        "instruction": "Q",
        "output": "also three",
        "attribution": "Stack Exchange; answer by C, https://example.stackexchange.com/users/3; CC BY-SA 4.0",
    }


def test_a_question_without_answers_is_a_bad_row():
    with pytest.raises(RowError) as caught:
        adapt_stack_exchange({"question": "Q", "answers": []})

    assert caught.value.reason == "empty_answer"
