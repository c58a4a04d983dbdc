"""Named entities as doccano, CLUENER, Label Studio, spaCy, Prodigy and files of tags write them."""

from collections import Counter

import pytest

from sft.data.rows.canonical import RowError
from sft.data.rows.dialects import Context, convert_record
from sft.data.rows.entities import read_entities, read_tags
from sft.data.rows.reading import Reading
from sft.data.rows.recognised import Recognised

SPAN = {"start_idx": 0, "end_idx": 2, "entity_text": "北京", "entity_label": "GPE"}
SMILE = {"start_idx": 1, "end_idx": 3, "entity_text": "张华", "entity_label": "PER"}  # of "😀张华笑"


def refused(read, *arguments: object) -> tuple[str, str]:
    with pytest.raises(RowError) as caught:
        read(*arguments)
    return caught.value.reason, str(caught.value)


def test_an_entity_is_a_span_of_the_text_as_an_object_or_a_list_of_three():
    assert (
        read_entities("北京", [SPAN, [0, 2, "GPE"], {"start_idx": 0, "end_idx": 2, "entity_label": "GPE"}], Counter())
        == [SPAN] * 3
    )


@pytest.mark.parametrize(
    ("found", "reason", "message"),
    [
        ("GPE", "wrong_type", "is text, expected start_idx, end_idx, entity_text, entity_label"),
        ([0, 2], "wrong_type", "is a list, expected start_idx, end_idx, entity_text, entity_label"),
        ([0, 3, "GPE"], "wrong_span", ": start_idx 0, end_idx 3 lie outside the 2 characters"),
        ([-1, 2, "GPE"], "wrong_span", ": start_idx -1, end_idx 2 lie outside the 2 characters"),
        ([1, 1, "GPE"], "wrong_span", ": start_idx 1, end_idx 1 lie outside the 2 characters"),
        ([True, 2, "GPE"], "wrong_span", ": start_idx True, end_idx 2 lie outside the 2 characters"),
        ([0, 2, ""], "empty_answer", ": no 'entity_label'"),
        ([0, 2, 7], "empty_answer", ": no 'entity_label'"),
        (SPAN | {"start_idx": 1}, "wrong_span", ": text[1:2] is '京', entity_text says '北京'"),
    ],
)
def test_what_is_no_span_of_the_text_is_refused_with_its_index(found, reason, message):
    joint = "" if message.startswith(":") else " "
    assert refused(read_entities, "北京", [SPAN, found], Counter()) == (reason, f"entities[1]{joint}{message}")


@pytest.mark.parametrize(
    ("start", "end", "note"),
    [
        (1, 3, ""),
        (1, 2, "entities whose end is their last character"),
        (2, 4, "entities with offsets in UTF-16 units"),
        (4, 10, "entities with offsets in bytes"),
    ],
)
def test_other_offset_conventions_are_recognised_by_the_text_that_a_span_claims(start, end, note):
    notes = Counter()
    span = {"start": start, "end": end, "text": "张华", "label": "PER"}

    assert read_entities("😀张华笑", [span], notes) == [SMILE]
    assert notes == Counter({note: 1} if note else {})


@pytest.mark.parametrize(
    "record",
    [
        {"text": "😀张华笑", "label": [[1, 3, "PER"]], "Comments": []},  # doccano
        {
            "text": "😀张华笑",
            "entities": [{"id": 4, "label": "PER", "start_offset": 1, "end_offset": 3}],
            "relations": [],
        },
        {"text": "😀张华笑", "label": {"PER": {"张华": [[1, 2]]}}},  # CLUENER
        {"text": "😀张华笑", "label": [{"start": 1, "end": 3, "text": "张华", "labels": ["PER"]}]},  # Label Studio
        {"text": "😀张华笑", "spans": [{"start": 1, "end": 3, "label": "PER", "token_start": 1}]},  # Prodigy
        {"text": "😀张华笑", "entities": [{"start": 1, "end": 3, "type": "PER", "word": "张华"}]},
        {"tokens": ["😀", "张", "华", "笑"], "ner_tags": ["O", "B-PER", "I-PER", "O"]},
        {"words": ["😀", "张华", "笑"], "labels": ["O", "S_PER", "O"]},
    ],
)
def test_the_entities_of_other_tools_are_those_of_the_text(record):
    row = convert_record(record, Context(Reading(), Recognised()))

    assert row == {"id": "", "source": "", "task": "ner", "text": "😀张华笑", "entities": [SMILE]}


@pytest.mark.parametrize(
    "record",
    [
        {"text": "无", "label": []},
        {"text": "无", "label": {}},
        {"text": "无", "spans": []},
        {"text": "无", "entities": []},
    ],
)
def test_a_text_without_entities_is_a_row_of_a_file_of_entities(record):
    row = convert_record(record, Context(Reading(), Recognised()))

    assert row == {"id": "", "source": "", "task": "ner", "text": "无", "entities": []}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O B-LOC", [("张华", "PER"), ("京", "LOC")]),
        ("B-PER E-PER O S-LOC", [("张华", "PER"), ("京", "LOC")]),
        ("B-PER L-PER O U-LOC", [("张华", "PER"), ("京", "LOC")]),
        ("B-PER B-PER O O", [("张", "PER"), ("华", "PER")]),
        ("I-PER I-PER I-LOC O", [("张华", "PER"), ("去", "LOC")]),
        ("S-PER I-PER O O", [("张", "PER"), ("华", "PER")]),
        ("B-PER M-PER E-PER O", [("张华去", "PER")]),
    ],
)
def test_tags_of_every_scheme_give_the_same_spans(tags, expected):
    text, entities = read_tags(list("张华去京"), tags.split())

    assert text == "张华去京"
    assert [(found["entity_text"], found["entity_label"]) for found in entities] == expected
    assert all(text[found["start_idx"] : found["end_idx"]] == found["entity_text"] for found in entities)


def test_words_are_joined_with_spaces_and_chinese_and_single_characters_without():
    english = ["EU", "rejects", "call"], ["B-ORG", "O", "O"]
    assert read_tags(*english)[0] == "EU rejects call"
    assert read_tags(["买", "iPhone", "15"], ["O", "B-PRODUCT", "I-PRODUCT"])[1][0]["entity_text"] == "iPhone15"
    assert read_tags(["N", "B", "A"], ["B-ORG", "I-ORG", "I-ORG"])[0] == "NBA"


@pytest.mark.parametrize(
    ("tokens", "tags", "message"),
    [
        (["a"], ["O", "O"], "1 tokens under 2 tags; each token has one"),
        (["a", ""], ["O", "O"], "a token is empty or no text"),
        (["a"], [3], "tag 3 is a number whose name nothing tells; write the tags as text (B-PER, I-PER, O)"),
        (["a"], ["PER"], "tag 'PER' is no tag like B-PER, I-PER or O; write the tags as text (B-PER, I-PER, O)"),
    ],
)
def test_tags_that_cannot_be_read_are_refused(tokens, tags, message):
    assert refused(read_tags, tokens, tags) == ("wrong_tags", message)


def test_entities_of_labels_that_the_question_does_not_name_are_counted():
    recognised = Recognised()
    convert_record({"text": "北京", "entities": [[0, 2, "address"]]}, Context(Reading(), recognised))
    convert_record({"text": "北京", "entities": [[0, 2, "GPE"]]}, Context(Reading(), recognised))

    assert [count for note, count in recognised.notes.items() if "does not name" in note] == [1]
