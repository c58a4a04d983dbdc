"""Tasks that are described in words, and what a task owns of the rows that files hold."""

import pytest

from prompts import Fingerprint, conversation_of
from prompts.task import is_blank, label_key, make_definition, make_label_task, name_by_labels
from prompts.tasks import add_task, get_task, task_names


def test_a_described_task_asks_answers_and_reads_like_any_other():
    task = make_label_task(make_definition("mood", {"labels": ["sad", "glad"]}))
    row = {"text": "What a day!", "label": "glad"}

    assert task.build_messages(row) == [
        {
            "role": "user",
            "content": "Which label fits this text: sad, glad? Answer with the label alone.\nWhat a day!",
            "document": (68, 79),
            "answers": ("sad", "glad"),
        },
        {"role": "assistant", "content": "glad"},
    ]
    assert [task.parse_answer(text, row) for text in ("Glad.", "sad")] == ["glad", "sad"]
    assert (task.labels, task.is_of_one_label, task.takes_text_and_label) == (("sad", "glad"), True, True)


def test_the_labels_name_a_task_and_many_of_them_are_cut_with_a_hash():
    many = [f"label number {n}" for n in range(9)]

    assert name_by_labels(["好评", "差评"]) == "好评/差评"
    assert name_by_labels(many).startswith("label number 0/and 8 more (")
    assert name_by_labels(many) != name_by_labels([*many[:-1], "another"])


def test_a_file_s_task_keeps_its_name():
    with pytest.raises(ValueError, match=r"task 'sentiment' is there already \(prompts/tasks/sentiment\.py\)"):
        add_task(make_label_task(make_definition("sentiment", {"labels": ["a", "b"]})))


def test_a_system_prompt_of_the_task_overrides_the_run_s_and_yields_to_the_row_s(formats):
    definition = make_definition("with_system", {"labels": ["a", "b"], "system": "Sort."})
    add_task(make_label_task(definition))
    row = {"task": "with_system", "text": "x", "label": "a"}

    said = [conversation_of(row | own, "Be kind.")[0]["content"] for own in ({}, {"system": "Mine."})]

    assert said == ["Sort.", "Mine."]
    other = make_label_task(make_definition("with_other_system", {"labels": ["a", "b"], "system": "Choose."}))
    add_task(other)
    parts = Fingerprint.of(formats["qwen3"], None, ["with_system", "with_other_system"], {}).parts
    assert parts["task with_system"] != parts["task with_other_system"]


@pytest.mark.parametrize("name", task_names())
def test_every_label_of_a_task_is_found_in_its_own_spelling(name):
    task = get_task(name)
    rows_hold = [task.find_label(label) for label in task.labels] if task.takes_text_and_label else []

    assert rows_hold in ([], [None, None], list(task.labels))  # sentiment_json's rows hold 0 and 1, not the answer


@pytest.mark.parametrize(
    ("written", "key"),
    [
        (1, "1"),
        (1.0, "1"),
        ("1.0 ", "1"),
        (True, "true"),
        ("Positive\u200b", "positive"),
        (0.5, "0.5"),
        (None, ""),
        ([1], ""),
    ],
)
def test_a_label_is_looked_up_without_what_does_not_matter(written, key):
    assert label_key(written) == key


@pytest.mark.parametrize("text", ["", " \n", "\u200b", "\ufeff \u2060", "\u3000\u3164"])
def test_what_shows_nothing_is_blank(text):
    assert is_blank(text)
    assert not is_blank(f"{text}a{text}")
