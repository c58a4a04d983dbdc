"""Tools, calls and results as files write them: every usual form becomes the same row, or is refused by name."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts import conversation_of
from prompts.family import Family
from prompts.layout import lay_out
from prompts.tools import TOOL_FORMS
from sft.data.rows.canonical import RowError, answer_of, asked_of, exact_key
from sft.data.rows.dialects import Context, convert_record
from sft.data.rows.reading import Reading
from sft.data.rows.recognised import Recognised
from sft.data.rows.tools import read_calls, read_result, read_tools
from sft.data.rows.turns import FILLED, OFFERED, SPELLED, UNREADABLE, make_chat_row, read_chatml

FUNCTION = {"name": "get_weather", "description": "查询天气", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"name": "get_weather", "arguments": {"city": "北京", "days": 2}}
NESTED = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": CALL["arguments"]}}
HI = {"role": "user", "content": "北京天气？"}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": '{"temp": 25}'}
ANSWER = {"role": "assistant", "content": "25 °C。"}
TURNS = [HI, CALLING, RESULT, ANSWER]


def read(record: dict) -> tuple[dict, dict]:
    """The canonical row of a record without its id and source, and what was noted."""
    recognised = Recognised()
    row = convert_record(record, Context(Reading(), recognised))
    notes = {note: count for note, count in recognised.notes.items() if count}
    return {name: value for name, value in row.items() if name not in ("id", "source", "task")}, notes


def dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


@pytest.mark.parametrize(
    "tools",
    [
        [TOOL],
        [FUNCTION],
        dumps([TOOL]),
        dumps([FUNCTION]),
        [dumps(FUNCTION)],
        TOOL,
        dumps(FUNCTION),
    ],
)
def test_tools_are_read_in_every_usual_form(tools):
    assert read({"messages": TURNS, "tools": tools})[0] == {"messages": TURNS, "tools": [TOOL]}


@pytest.mark.parametrize("tools", [None, "", [], "[]", "null", "{}"])
def test_a_row_without_functions_has_none(tools):
    assert read({"messages": [HI, ANSWER], "tools": tools})[0] == {"messages": [HI, ANSWER]}


@pytest.mark.parametrize(
    "call",
    [
        {"role": "assistant", "content": None, "tool_calls": [NESTED]},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": dumps([NESTED])},
        {"role": "assistant", "content": "", "tool_calls": [dumps(CALL)]},
        {"role": "assistant", "content": "", "tool_calls": [{**CALL, "arguments": dumps(CALL["arguments"])}]},
        {"role": "assistant", "content": "", "function_call": {**CALL, "arguments": dumps(CALL["arguments"])}},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": "get_weather", "arguments": CALL["arguments"]}],
        },
        {"role": "function_call", "content": dumps(CALL)},
        {"role": "tool_call", "content": CALL},
        {"from": "function_call", "value": dumps([CALL])},
    ],
)
@pytest.mark.parametrize(
    "result",
    [
        {**RESULT, "tool_call_id": "call_1", "name": "get_weather"},
        {"role": "tool", "content": {"temp": 25}},
        {"role": "function", "name": "get_weather", "content": '{"temp": 25}'},
        {"from": "observation", "value": '{"temp": 25}'},
        {"role": "tool_response", "content": '<tool_response>\n{"temp": 25}\n</tool_response>'},
        {"role": "tool", "content": [{"type": "text", "text": '{"temp": 25}'}]},
    ],
)
def test_calls_and_results_are_read_in_every_usual_form(call, result):
    row, notes = read({"messages": [HI, call, result, ANSWER], "tools": [TOOL]})

    assert row == {"messages": TURNS, "tools": [TOOL]}
    assert notes == {}


def test_sharegpt_has_its_own_words_and_its_tools_column():
    turns = [
        {"from": "human", "value": "北京天气？"},
        {"from": "function_call", "value": dumps(CALL)},
        {"from": "observation", "value": '{"temp": 25}'},
        {"from": "gpt", "value": "25 °C。"},
    ]

    assert read({"conversations": turns, "tools": dumps([FUNCTION])})[0] == {"messages": TURNS, "tools": [TOOL]}


def test_a_turn_for_each_call_is_one_answer():
    calls = [{"role": "tool_call", "content": dumps(CALL)}, {"role": "tool_call", "content": dumps(CALL)}]
    row, _ = read({"messages": [HI, {"role": "assistant", "content": "Both."}, *calls, RESULT, RESULT, ANSWER]})

    assert row["messages"] == [HI, {**CALLING, "content": "Both.", "tool_calls": [CALL, CALL]}, RESULT, RESULT, ANSWER]


@pytest.mark.parametrize("form", TOOL_FORMS)
def test_what_a_template_wrote_is_read_as_what_it_was_made_of(form):
    tool = {**TOOL, "function": {**FUNCTION, "parameters": {"properties": {"days": {"type": "integer"}}}}}
    system = {"role": "system", "content": "Be brief."}
    calling = {**CALLING, "content": "Let me see.", "reasoning_content": "A call."}
    row = {"task": "chat", "messages": [system, HI, calling, RESULT, RESULT, ANSWER], "tools": [tool]}
    family = Family(None, "every", tool_form=form)
    text = "".join(piece.text for piece in lay_out(family, "keep", conversation_of(row, None)))
    notes: Counter[str] = Counter()

    read_row = read_chatml(text, notes)

    assert (read_row["messages"], read_row["tools"]) == (row["messages"], [tool])
    assert notes[SPELLED] == notes[OFFERED] == 1


def test_calls_spelled_out_in_an_answer_become_calls_and_are_reported():
    spelled = f"Let me see.\n<tool_call>\n{dumps(CALL)}\n</tool_call>"
    turns = [HI, {"role": "assistant", "content": spelled}, RESULT, ANSWER]

    assert read({"messages": turns}) == (
        {"messages": [HI, {**CALLING, "content": "Let me see."}, RESULT, ANSWER]},
        {SPELLED: 1},
    )
    row, notes = read({"instruction": "Q", "output": spelled, "tools": [FUNCTION]})
    assert row["messages"][-1] == {**CALLING, "content": "Let me see."}
    assert (row["tools"], notes) == ([TOOL], {SPELLED: 1})
    unreadable = {"role": "assistant", "content": "Write <tool_call> before it."}
    assert read({"messages": [HI, unreadable]}) == ({"messages": [HI, unreadable]}, {UNREADABLE: 1})


@pytest.mark.parametrize(
    ("turns", "reason", "message"),
    [
        ([HI, {**CALLING, "tool_calls": [{"id": "c"}]}], "wrong_call", "turn 2 calls None, expected a function's name"),
        ([HI, {**CALLING, "tool_calls": [{"name": "f", "arguments": "{"}]}], "wrong_call",
         "turn 2: the arguments of 'f': no valid JSON"),
        ([HI, {**CALLING, "tool_calls": [{"name": "f", "arguments": [1]}]}], "wrong_call",
         "turn 2: the arguments of 'f' are a list, expected an object"),
        ([HI, {**CALLING, "tool_calls": [{"name": "f", "arguments": '{"a": 1, "a": 2}'}]}], "wrong_call",
         "turn 2: the arguments of 'f': no valid JSON (the key 'a' twice)"),
        ([HI, {**CALLING, "tool_calls": [{"name": "f", "arguments": '{"a": NaN}'}]}], "wrong_call",
         "turn 2: the arguments of 'f': no valid JSON (NaN is no JSON)"),
        ([HI, {"from": "function_call", "value": "{'name': 'f'}"}], "wrong_call", "turn 2: no valid JSON"),
        ([{**HI, "tool_calls": [CALL]}, ANSWER], "wrong_roles", "turn 1 (user) has 'tool_calls'; only"),
        ([HI, RESULT, ANSWER], "wrong_roles", "turn 2 is 'tool', expected 'assistant'; nothing was called before it"),
        ([HI, ANSWER, RESULT, ANSWER], "wrong_roles", "turn 3 is 'tool', expected 'user'; nothing"),
        ([HI, CALLING, HI, ANSWER], "wrong_roles", "turn 3 is 'user', expected 'tool'"),
        ([HI, CALLING, RESULT], "wrong_roles", "last turn is 'tool', expected 'assistant'"),
    ],
)  # fmt: skip
def test_calls_that_cannot_be_learned_are_refused_by_name(turns, reason, message):
    with pytest.raises(RowError) as caught:
        make_chat_row(turns, None, Counter())
    assert (caught.value.reason, str(caught.value)[: len(message)]) == (reason, message)


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ("[{", "'tools': no valid JSON"),
        ("[{'name': 'f'}]", "'tools': no valid JSON"),
        ([7], "'tools', tool 1 is a number, expected an object with name and parameters"),
        ([{"function": {"parameters": {}}}], "'tools', tool 1 has the name None, expected a function's name"),
        ([TOOL, {"name": "a b"}], "'tools', tool 2 has the name 'a b', expected a function's name"),
    ],
)
def test_invalid_tools_are_refused_by_name(tools, message):
    with pytest.raises(RowError) as caught:
        read_tools(tools)
    assert str(caught.value)[: len(message)] == message


VALUES = st.recursive(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=9) | st.integers(-(2**60), 2**60) | st.booleans()
    | st.none() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=6), VALUES, max_size=4))
def test_arguments_are_the_same_as_an_object_and_as_its_text(arguments):
    for call in ({"name": "f", "arguments": arguments}, {"name": "f", "arguments": json.dumps(arguments)}):
        assert read_calls("turn 1", [{"function": call}]) == [{"name": "f", "arguments": arguments}]


def test_a_result_is_text_whatever_it_was():
    assert [read_result("turn 1", value) for value in (None, 3, {"a": "值"}, [1], "x")] == [
        "",
        "3",
        '{"a": "值"}',
        "[1]",
        "x",
    ]


def test_tools_and_results_belong_to_what_a_row_asks_and_calls_to_its_answer():
    row = make_chat_row(TURNS, None, Counter(), [TOOL])
    other_tools = {**row, "tools": [{"type": "function", "function": {"name": "clock"}}]}
    other_result = {**row, "messages": [HI, CALLING, {**RESULT, "content": "3"}, ANSWER]}
    other_call = {**row, "messages": [HI, {**CALLING, "tool_calls": [{**CALL, "arguments": {}}]}, RESULT, ANSWER]}

    assert len({asked_of(row), asked_of(other_tools), asked_of(other_result)}) == 3
    assert answer_of(row) != answer_of(other_call)
    assert len({exact_key(each) for each in (row, other_tools, other_result, other_call)}) == 4


def test_a_row_of_a_dataset_folder_is_read_back_as_it_was_written():
    row = make_chat_row([{"role": "system", "content": "S"}, HI, {**CALLING, "weight": 0}, RESULT, ANSWER], None,
                        Counter(), [TOOL])  # fmt: skip
    row |= {"id": "a-1", "source": "a"}

    again = convert_record(json.loads(dumps(row)), Context(Reading(), Recognised()))
    assert again == row


def test_cells_that_a_table_filled_with_null_are_left_out_and_counted():
    city, days = {"type": "string"}, {"type": "integer", "enum": None}
    properties = {"city": city, "days": days, "note": {"type": ["string", "null"], "default": None}, "zone": None}
    tool = {"type": "function", "function": {"name": "f", "strict": None, "parameters": {"properties": properties}}}
    arguments = {"city": "Rome", "days": None, "zone": None, "note": None}
    row, notes = read(
        {"messages": [HI, {**CALLING, "tool_calls": [{"name": "f", "arguments": arguments}]}], "tools": [tool]}
    )

    assert row["messages"][-1]["tool_calls"] == [{"name": "f", "arguments": {"city": "Rome", "note": None}}]
    assert row["tools"][0]["function"] == {
        "name": "f",
        "parameters": {
            "properties": {
                "city": city,
                "days": {"type": "integer"},
                "note": {"type": ["string", "null"], "default": None},
            }
        },
    }
    assert notes == {FILLED: 2}
    unknown = [HI, {**CALLING, "tool_calls": [{"name": "g", "arguments": {"a": None}}]}]
    assert read({"messages": unknown, "tools": [tool]})[0]["messages"] == unknown
