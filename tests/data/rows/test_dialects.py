"""Every accepted way to write a row, and the canonical row it becomes."""

import pytest

from sft.data.rows.canonical import RowError
from sft.data.rows.dialects import Context, convert_record
from sft.data.rows.reading import Reading
from sft.data.rows.recognised import Recognised

UNPLACED = {"id": "", "source": ""}  # the reader does not know them
LORA = {"task": "instruct", "instruction": "What is LoRA?", "input": "", "output": "A method."}
CHAT = {
    "task": "chat",
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
}
THOUGHT = {
    "task": "chat",
    "messages": [
        {"role": "user", "content": "2 + 2?"},
        {"role": "assistant", "content": "4", "reasoning_content": "Two and two."},
    ],
}
BEIJING = {"start_idx": 2, "end_idx": 4, "entity_text": "北京", "entity_label": "GPE"}


def read(record: dict[str, object], reading: Reading | None = None) -> tuple[str, dict[str, object]]:
    """The form that a record was recognised as, and its row."""
    recognised = Recognised()
    row = convert_record(record, Context(reading or Reading(), recognised))
    (name,) = recognised.dialects
    return name, row


ACCEPTED = [
    ("instruction/input/output", {"instruction": "What is LoRA?", "input": "", "output": "A method."}, LORA),
    ("instruction/input/output", {"instruction": "What is LoRA?", "output": "A method."}, LORA),
    (
        "instruction/input/output",
        {"instruction": "Sum up", "input": "text", "output": "ok", "system": "Be brief."},
        {"task": "instruct", "instruction": "Sum up", "input": "text", "output": "ok", "system": "Be brief."},
    ),
    (
        "instruction/input/output",
        {"instruction": "And you?", "input": "", "output": "Fine", "history": [["Hi", "Hello"]]},
        {
            "task": "chat",
            "messages": [
                *CHAT["messages"],
                {"role": "user", "content": "And you?"},
                {"role": "assistant", "content": "Fine"},
            ],
        },
    ),
    ("messages", {"messages": CHAT["messages"]}, CHAT),
    ("messages", {"messages": THOUGHT["messages"]}, THOUGHT),
    (
        "messages",
        {"messages": '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]'},  # from CSV
        CHAT,
    ),
    (
        "conversations",
        {
            "conversations": [
                {"from": "system", "value": "Be kind.", "weight": None},
                {"from": "human", "value": "Hi", "weight": 0},
                {"from": "gpt", "value": "Hello", "weight": 1},
            ]
        },
        {"task": "chat", "messages": [{"role": "system", "content": "Be kind."}, *CHAT["messages"]]},
    ),
    (
        "conversations",
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "Be kind."},
        {"task": "chat", "messages": [{"role": "system", "content": "Be kind."}, *CHAT["messages"]]},
    ),
    ("prompt/completion", {"prompt": "What is LoRA?", "completion": "A method."}, LORA),
    ("prompt/completion", {"prompt": CHAT["messages"][:1], "completion": CHAT["messages"][1:]}, CHAT),
    ("text/label", {"text": "很好", "label": 1}, {"task": "sentiment", "text": "很好", "label": "正面"}),
    ("text/label", {"text": "很差", "label": "0"}, {"task": "sentiment", "text": "很差", "label": "负面"}),
    ("text/label", {"text": "很好", "label": "正面"}, {"task": "sentiment", "text": "很好", "label": "正面"}),
    ("text/label", {"text": "打人", "label": "暴恐"}, {"task": "moderation", "text": "打人", "label": "暴恐"}),
    (
        "text_a/label",
        {"qid": "7", "label": "1", "text_a": "很好"},
        {"task": "sentiment_json", "text": "很好", "label": 1},
    ),
    (
        "text_cn/extracted_label",
        {"text_cn": "你好", "extracted_label": "0"},
        {"task": "moderation", "text": "你好", "label": "正常"},
    ),
    (
        "text_cn/n_labels",
        {"text_cn": "你好", "n_labels": 5},
        {"task": "moderation", "text": "你好", "label": "色情低俗"},
    ),
    (
        "text/entities",
        {"text": "我爱北京", "entities": [BEIJING | {"entity_names": ["地名"]}], "data_source": "CCFBDCI"},
        {"task": "ner", "text": "我爱北京", "entities": [BEIJING]},
    ),
    ("text/entities", {"text": "我爱你", "entities": "[]"}, {"task": "ner", "text": "我爱你", "entities": []}),
    (
        "text/category/output",
        {"text": "球赛", "category": ["Sports", "Enviornment"], "output": "Sports"},
        {"task": "news", "text": "球赛", "category": ["Sports", "Enviornment"], "output": "Sports"},
    ),
]


@pytest.mark.parametrize(("name", "record", "expected"), ACCEPTED)
def test_a_row_in_an_accepted_form_becomes_the_canonical_row(name, record, expected):
    assert read(record) == (name, UNPLACED | expected)


@pytest.mark.parametrize(("name", "record", "expected"), ACCEPTED)
def test_a_canonical_row_is_read_back_as_it_is(name, record, expected):
    row = {"id": "a-1", "source": "a"} | expected

    assert read(row) == ("id/source/task", row)


def test_a_named_task_decides_what_a_number_means():
    record = {"text": "很好", "label": 1}

    labels = [read(record, Reading(task=task))[1]["label"] for task in ("sentiment_json", "moderation")]

    assert labels == [1, "歧视"]


@pytest.mark.parametrize(
    ("record", "reason", "message"),
    [
        ({"instruction": "Q", "output": ""}, "empty_answer", "'output' is empty"),
        ({"instruction": "Q", "output": " \n"}, "empty_answer", "'output' is empty"),
        ({"instruction": "Q", "output": None}, "empty_answer", "no 'output'"),
        ({"instruction": "", "output": "A"}, "empty_text", "'instruction' is empty"),
        ({"instruction": "Q", "output": 7}, "wrong_type", "'output' is a number, expected text"),
        ({"prompt": "Q", "completion": ""}, "empty_answer", "'completion' is empty"),
        (
            {"text": "很好", "label": 2},
            "unknown_label",
            "label 2 is unknown to sentiment; expected one of: 负面 (0, false, negative,",
        ),
        ({"text": "很好", "label": None}, "empty_answer", "label is missing"),
        ({"text": "很好", "label": [1]}, "unknown_label", "label is a list"),
        ({"text": "北京", "entities": [BEIJING]}, "wrong_span", "entities[0]: start_idx 2, end_idx 4 lie outside"),
        (
            {"text": "我爱上海", "entities": [BEIJING]},
            "wrong_span",
            "entities[0]: text[2:4] is '上海', entity_text says '北京'",
        ),
        ({"text": "我爱你", "entities": "我"}, "wrong_type", "'entities' is text that is no JSON list"),
        (
            {"text": "球赛", "category": ["Art"], "output": "Sports"},
            "unknown_label",
            "'output' 'Sports' is none of the row's own options: Art",
        ),
        ({"messages": []}, "empty_text", "the conversation has no turns"),
        ({"messages": CHAT["messages"][:1]}, "wrong_roles", "last turn is 'user', expected 'assistant'"),
        ({"messages": CHAT["messages"][1:]}, "wrong_roles", "turn 1 is 'assistant', expected 'user'"),
        (
            {"messages": [{"role": "critic", "content": "x"}]},
            "wrong_roles",
            "turn 1 is by 'critic'; expected one of: system,",
        ),
        (
            {"messages": [CHAT["messages"][0], {"role": "assistant", "content": ""}]},
            "empty_answer",
            "turn 2 (assistant)",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "wrong_type", "turn 1: content is missing, expected text"),
        (
            {"a": 1, "b": 2},
            "unknown_dialect",
            "columns (a, b) fit no known form (messages, conversations, instruction/output,",
        ),
        (
            {"id": "1", "source": "s", "task": "nerr", "text": ""},
            "unknown_task",
            "task 'nerr' is unknown; did you mean 'ner'?; expected one of: chat,",
        ),
    ],
)
def test_a_row_that_cannot_be_used_says_why(record, reason, message):
    with pytest.raises(RowError) as caught:
        read(record)

    assert caught.value.reason == reason
    assert str(caught.value).startswith(message)
