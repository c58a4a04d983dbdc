"""Stack Exchange's questions and answers: which answer is best, and who wrote it."""

import pytest

from sft.data.rows.canonical import RowError
from sft.data.rows.mapping import adapt_stack_exchange
from tests.hub_lookalikes import make_answer


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
