"""HTML as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.data.rows.html_text import read_html


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
