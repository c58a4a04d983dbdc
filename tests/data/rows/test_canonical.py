"""A canonical row: what it asks and answers, by which keys rows are the same, and its fields as they are read."""

import itertools
from datetime import date

import pytest

from prompts.text_encoder import LONGEST_TEXT
from sft.data.rows import canonical
from sft.data.rows.canonical import (
    NotAValue,
    RowError,
    answer_of,
    asked_of,
    exact_key,
    group_key,
    name_kind,
    question_of,
    read_list,
    read_optional_text,
    read_text,
    refuse_endless,
    system_of,
    thread_of,
)

CALL = {"name": "clock", "arguments": {"zone": "UTC"}}
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {}}}
SPAN = {"start_idx": 0, "end_idx": 2, "entity_text": "北京", "entity_label": "GPE"}


def row_of(task: str, **fields: object) -> dict:
    return {"id": "", "source": "", "task": task, **fields}


def chat(*said: tuple[str, str], **fields: object) -> dict:
    return row_of("chat", messages=[{"role": role, "content": content} for role, content in said], **fields)


ASKED = chat(("system", "Be brief."), ("user", "What time?"), ("tool", "noon"), ("assistant", "Noon."), tools=[TOOL])
PLAIN = row_of("instruct", instruction="Add", input="1 + 1", output="2")


def refused(read, *arguments: object) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        read(*arguments)
    return caught.value.reason, str(caught.value)


@pytest.mark.parametrize(
    ("row", "question", "answer"),
    [
        (PLAIN, "Add\n1 + 1", "2"),
        (PLAIN | {"input": ""}, "Add", "2"),
        (row_of("sentiment_json", text="很好", label=1), "很好", "1"),
        (
            row_of("ner", text="北京很大", entities=[SPAN, SPAN | {"start_idx": 3}]),
            "北京很大",
            "北京@0:GPE\n北京@3:GPE",
        ),
        (ASKED, "What time?", "Noon."),
        (chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")), "a\nc", "b\nd"),
    ],
)
def test_a_row_asks_and_answers_with_its_own_fields(row, question, answer):
    assert (question_of(row), answer_of(row)) == (question, answer)


def test_calls_are_part_of_an_answer():
    row = chat(("user", "What time?"), ("assistant", ""))
    row["messages"][1]["tool_calls"] = [CALL]

    assert '"clock"' in answer_of(row)


def test_the_system_prompt_of_a_conversation_is_its_first_turn_and_of_other_rows_a_field():
    assert [system_of(row) for row in (ASKED, PLAIN | {"system": "Be brief."}, PLAIN)] == ["Be brief.", "Be brief.", ""]
    assert [system_of(chat(("user", "a"), ("system", "late"))), system_of(chat())] == ["", ""]


def test_all_that_a_row_asks_has_its_system_prompt_its_tools_and_what_they_returned():
    tool = '{"type": "function", "function": {"name": "clock", "parameters": {}}}'

    assert asked_of(ASKED) == f"Be brief.\0{tool}\0noon\0What time?"
    assert asked_of(PLAIN | {"system": "Be brief."}) == "Be brief.\0Add\n1 + 1"
    assert asked_of(PLAIN) == "Add\n1 + 1"
    assert asked_of(chat(("user", "a"), ("assistant", "b"))) == "a"


def test_a_conversation_and_its_continuation_share_a_thread_and_a_named_group_takes_precedence():
    first = chat(("system", "s"), ("user", "a"), ("assistant", "b"))
    longer = chat(("system", "s"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    other = chat(("system", "s"), ("user", "a"), ("assistant", "x"))

    assert thread_of(first) == thread_of(longer) == "\0thread\0s\0a\0b"
    assert thread_of(other) != thread_of(first)
    assert thread_of(longer | {"group": "g"}) == thread_of(PLAIN | {"group": "g"}) == "\0group\0g"
    assert thread_of(PLAIN) is None


def test_rows_are_the_same_only_if_task_question_answer_system_and_what_is_learned_are():
    dialogue = chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    marked = [dict(turn) for turn in dialogue["messages"]]
    marked[1]["supervised"] = False
    all_marked = [turn | ({"supervised": True} if turn["role"] == "assistant" else {}) for turn in marked]
    different = [
        PLAIN,
        PLAIN | {"output": "3"},
        PLAIN | {"input": "1 + 2"},
        PLAIN | {"system": "Be brief."},
        row_of("sentiment", text="很好", label="正面"),
        row_of("moderation", text="很好", label="正面"),
        dialogue,
        dialogue | {"messages": marked},
        dialogue | {"messages": all_marked},
    ]

    assert all(exact_key(one) != exact_key(two) for one, two in itertools.combinations(different, 2))
    assert exact_key(PLAIN) == exact_key(PLAIN | {"id": "7", "source": "other"})


def test_a_group_key_is_of_the_normalised_text_and_the_seed_and_has_64_bits():
    assert group_key("很好。", 42) == group_key("很 好", 42) != group_key("很好", 43)
    assert max(group_key(str(number), 42) for number in range(100)) >= 2**60


def test_a_text_beyond_what_a_tokenizer_is_given_is_named_with_its_field(monkeypatch):
    monkeypatch.setattr(canonical, "LONGEST_TEXT", 10_000_000)
    monkeypatch.setattr(canonical, "PROMPT_ROOM", 10_000_000 - 8)
    refuse_endless(row_of("", instruction="1234", input="", output="5678"))
    refuse_endless(chat(("user", "1234"), ("assistant", "12")))

    most = "at most 10,000,000 are read; cut it"
    assert refused(refuse_endless, row_of("", output="x", text="12345678")) == (
        "endless_text", f"'text' holds a text of 8 characters, {most}",
    )  # fmt: skip
    assert refused(refuse_endless, chat(("user", "1234567"), ("assistant", "12"))) == (
        "endless_text", f"'messages' holds a text of 7 characters, {most}",
    )  # fmt: skip
    assert LONGEST_TEXT < 10_000_000


@pytest.mark.parametrize(("name", "most"), [("messages", "MOST_TURNS"), ("entities", "MOST_ENTITIES")])
def test_more_turns_or_entities_than_are_read_are_counted(name, most, monkeypatch):
    monkeypatch.setattr(canonical, most, 2)
    items = [{"role": "user", "content": "a"}] * 3
    refuse_endless(row_of("", **{name: items[:2]}))

    assert refused(refuse_endless, row_of("", **{name: items})) == (
        "endless_text", f"{name!r} holds 3 of them, at most 2 are read; split the row",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("record", "name", "called", "problem"),
    [
        ({}, "text", None, ("empty_text", "no 'text'")),
        ({"text": None}, "text", None, ("empty_text", "no 'text'")),
        ({"text": " \u200b\n"}, "text", None, ("empty_text", "'text' is empty")),
        ({"output": ""}, "output", None, ("empty_answer", "'output' is empty")),
        ({"output": ""}, "output", "reply", ("empty_answer", "'reply' is empty")),
        ({"output": 7}, "output", "reply", ("wrong_type", "'reply' is a number, expected text")),
        ({"output": 7}, "output", None, ("wrong_type", "'output' is a number, expected text")),
    ],
)
def test_a_missing_or_empty_text_is_reported_with_the_name_of_its_column(record, name, called, problem):
    assert refused(read_text, record, name, called) == problem


def test_a_text_is_read_unchanged_and_one_that_may_be_missing_is_empty():
    assert read_text({"text": " a "}, "text") == " a "
    assert [read_optional_text(record, "text") for record in ({"text": " a "}, {}, {"text": None})] == [" a ", "", ""]


def test_a_list_may_be_json_text():
    assert read_list({"a": [1]}, "a") == read_list({"a": "[1]"}, "a") == [1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x", "'a' is text that is no JSON list"),
        (" [{'b': 1}]", "'a' is text that is no JSON list; it looks like Python's repr: write it with json.dumps"),
        ("['b']", "'a' is text that is no JSON list; it looks like Python's repr: write it with json.dumps"),
        ('{"b": 1}', "'a' is an object, expected a list"),
        (None, "'a' is missing, expected a list"),
    ],
)
def test_what_is_not_a_list_is_reported_with_its_type(value, message):
    assert refused(read_list, {"a": value}, "a") == ("wrong_type", message)


def test_kinds_of_values_have_words():
    values = [None, "a", True, 7, 0.5, [], {}, date(2026, 12, 1), b"", NotAValue("a formula"), {1}]

    assert [name_kind(value) for value in values] == [
        "missing", "text", "true or false", "a number", "a number", "a list", "an object", "a date", "bytes",
        "a formula", "set",
    ]  # fmt: skip
