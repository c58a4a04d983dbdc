"""Rows with tools that are asked: read as a training reads them, and answered with their calls."""

import json

import pytest

from prompts import PromptError
from prompts.tasks import get_task
from sft.data.rows.tools import load_tools
from sft.errors import ConfigError
from sft.inference.predictor import read_text
from sft.inference.questions import choose_task, make_row, row_of_record

FUNCTION = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"name": "get_weather", "arguments": {"city": "Rome"}}
HI = {"role": "user", "content": "Weather in Rome?"}
WRITTEN = {**CALL, "arguments": json.dumps(CALL["arguments"])}
NESTED = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", "function": WRITTEN}]}
CALLING = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "18"}


@pytest.mark.parametrize(
    ("turns", "asked"),
    [
        ([HI], [HI]),
        ([HI, NESTED], [HI]),
        ([HI, NESTED, RESULT], [HI, CALLING, RESULT]),
        ([HI, NESTED, {"role": "observation", "content": 18}, {"role": "assistant", "content": "18 °C."}],
         [HI, CALLING, RESULT]),
    ],
)  # fmt: skip
def test_the_prompt_of_a_row_ends_at_its_last_question_or_result(turns, asked):
    row = row_of_record({"messages": turns, "tools": json.dumps([FUNCTION])}, get_task("chat"))

    assert (row["messages"], row["tools"]) == (asked, [TOOL])


def test_a_row_whose_result_nothing_called_is_refused():
    with pytest.raises(PromptError, match="turn 2 is 'tool', expected 'assistant'; nothing was called before it"):
        row_of_record({"messages": [HI, RESULT]}, get_task("chat"))


def test_an_answer_that_calls_is_no_empty_answer():
    task = get_task("chat")
    message = {"role": "assistant", "content": "", "tool_calls": [CALL]}
    found = read_text(task, {"task": "chat"}, message, finished=True, num_tokens=9, num_cut=0)

    assert (found.problem, found.tool_calls) == (None, (CALL,))
    assert found.show() == '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    assert found.to_fields()["tool_calls"] == [
        {"type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    ]


def test_tools_go_with_the_chat_task_alone():
    assert make_row(choose_task("chat", []), "Weather?", tools=[TOOL])["tools"] == [TOOL]
    with pytest.raises(ConfigError, match="--tools is for task chat, this is sentiment"):
        make_row(get_task("sentiment"), "Weather?", tools=[TOOL])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[{", "tools.json: no valid JSON"),
        ('[{"parameters": {}}]', "tools.json, tool 1 has the name None, expected a function's name; give a JSON list"),
    ],
)
def test_a_file_of_tools_that_holds_none_is_refused_by_name(tmp_path, text, message):
    path = tmp_path / "tools.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_tools(path)
    assert message in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_tools(tmp_path / "other.json")
    assert load_tools(None) == []


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [HI]},
        {"messages": json.dumps([HI])},
        {"conversations": [{"from": "human", "value": HI["content"]}, {"from": "bing", "value": "Hello"}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": HI["content"]}]},
                {"role": "assistant", "content": "H"},
            ]
        },
    ],
)
def test_a_conversation_is_asked_as_one_however_it_is_written_and_whatever_other_rows_ask(record):
    row = row_of_record(record, get_task("instruct"))

    assert (row["task"], row["messages"]) == ("chat", [HI])


def test_a_system_column_and_earlier_exchanges_are_asked_with():
    system = {"role": "system", "content": "Be brief."}
    record = {
        "instruction": "And?",
        "input": "x",
        "history": [[HI["content"], "Hello"]],
        "system": "Be brief.",
        "output": "y",
    }

    turns = [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "And?\nx"}]
    assert row_of_record(record, get_task("instruct"))["messages"] == [system, HI, *turns]
    assert row_of_record({"messages": [HI], "system": "Be brief."}, get_task("chat"))["messages"] == [system, HI]
