"""What makes two texts the same."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.data.rows.canonical import exact_key, group_key
from sft.text.normalise import normalise_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ｈello, World！", "helloworld"),
        ("很 好。\n真的——", "很好真的"),
        ("１２月３１日", "12月31日"),
        ("C++ > C", "c++>c"),  # symbols are no punctuation
        ("⑴ ﬁne", "1fine"),  # NFKC brings brackets that are removed, too
        ("！！！", "!!!"),  # nothing but punctuation: it is what the text says
        ("", ""),
    ],
)
def test_width_case_spaces_and_punctuation_do_not_count(text, expected):
    assert normalise_text(text) == expected


@given(st.text(max_size=40))
def test_a_normalised_text_is_the_same_however_it_was_composed(text):
    assert normalise_text(unicodedata.normalize("NFD", text)) == normalise_text(unicodedata.normalize("NFC", text))


def test_the_key_depends_on_seed_and_text_alone_and_never_changes():
    assert group_key("很好。", 42) == group_key("很 好", 42) == 5864220630504120366
    assert group_key("很好。", 42) != group_key("很好。", 43)


def test_rows_are_duplicates_only_where_task_question_and_answer_are_equal():
    row = {"id": "a-1", "source": "a", "task": "sentiment", "text": "很好", "label": "正面"}

    assert exact_key(row) == exact_key(row | {"id": "b-7", "source": "b"})
    assert exact_key(row) != exact_key(row | {"label": "负面"})
    assert exact_key(row) != exact_key(row | {"text": "很好。"})
