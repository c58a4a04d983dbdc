"""Columns under other names, templates, and roles under other names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sft.data.rows.canonical import BadRecord, GoodRecord, RowError
from sft.data.rows.mapping import Mapping, Tags

RECORD = {"q": "Why?", "context": {"parts": ["one", "two"], "score": 0.5}, "empty": None, "a.b": "dotted"}


def test_columns_are_read_by_name_or_path_and_nothing_else_is():
    mapping = Mapping(columns={"instruction": "q", "output": "context.score", "input": "a.b", "system": "none"})

    assert mapping.map_record(RECORD) == {"instruction": "Why?", "output": 0.5, "input": "dotted"}


def test_a_template_fills_its_gaps_and_joins_lists_by_lines():
    mapping = Mapping(templates={"input": "背景：\n{context.parts}\n\n{{{q}}}{empty} {context.score}"})

    assert mapping.map_record(RECORD) == {"input": "背景：\none\ntwo\n\n{Why?} 0.5"}


@given(st.text())
def test_what_fills_a_gap_is_never_read_as_a_template(text):
    assert Mapping(templates={"output": "<{q}>"}).map_record({"q": text}) == {"output": f"<{text}>"}


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"columns": {"output": "qq"}}, "no column 'qq'; did you mean 'q'? (there are: q, context, empty, a.b)"),
        (
            {"columns": {"output": "context.part"}},
            "no column 'context.part'; did you mean 'parts'? (there are: parts, score)",
        ),
        (
            {"templates": {"output": "{context}"}},
            "column 'context' contains objects, which cannot be inserted into text; name a part: context.x",
        ),
    ],
)
def test_a_column_that_is_not_there_is_named_with_those_that_are(mapping, message):
    with pytest.raises(RowError) as caught:
        Mapping(**mapping).map_record(RECORD)

    assert str(caught.value) == message


def test_a_template_that_cannot_be_read_is_refused_when_the_preset_is():
    with pytest.raises(ValidationError, match=r"write \{\{ and \}\} for braces that are text"):
        Mapping(templates={"output": "{q"})
    with pytest.raises(ValidationError, match=r"no adapter 'stackexchange'; did you mean 'stack_exchange'\?"):
        Mapping(adapter="stackexchange")


def test_speakers_get_their_usual_names_and_unknown_ones_stay():
    tags = Tags(role_tag="who", content_tag="said", user_tag="Q", assistant_tag="A")
    turns = [{"who": "Q", "said": "hi"}, {"who": "A", "said": "ho"}, {"who": "tool", "said": "x"}]

    assert Mapping(columns={"messages": "talk"}, tags=tags).map_record({"talk": turns}) == {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "ho"},
            {"role": "tool", "content": "x"},
        ]
    }


def test_records_pass_in_their_order_and_only_the_broken_one_is_bad():
    records = [GoodRecord(1, {"q": "a"}), GoodRecord(2, {}), BadRecord(3, "not_json", "cut off")]

    assert list(Mapping(columns={"output": "q"}).map_records(records)) == [
        GoodRecord(1, {"output": "a"}),
        BadRecord(2, "missing_column", "no column 'q' (there are: none)"),
        BadRecord(3, "not_json", "cut off"),
    ]
    assert Mapping().map_records(records) is records
