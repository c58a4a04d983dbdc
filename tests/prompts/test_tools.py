"""Tools: the form a template has for them, calls written and read back, and nobody's text becoming a call."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prompts import ChatFormat, PromptError, Rules
from prompts.family import Family
from prompts.layout import lay_out
from prompts.template import read_family
from prompts.tools import (
    MARKS,
    TOOL_FORMS,
    BrokenCall,
    read_answer_text,
    read_call,
    spell_answer,
    write_calls,
    write_results,
)

QUESTION = {"role": "user", "content": "Weather in Rome?"}
CALL = {"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}
TYPES = {"string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict}
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=30) | st.sampled_from(
    ["</parameter>", "\n</parameter>\n", "<tool_call>", "</tool_call>\n", '"}\n</tool_call>', "<function=f>", "\\\"'"]
)
VALUES = st.recursive(
    TEXTS | st.integers(-(2**53), 2**53) | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
NAMES = st.text(st.sampled_from("abcXYZ_.-09值"), min_size=1, max_size=12)
ARGUMENTS = st.dictionaries(NAMES, VALUES, max_size=4)


def describe(call: dict) -> dict:
    """The tool that a call fits, its arguments' types told."""

    def type_of(value: object) -> dict:
        names = [name for name, kind in TYPES.items() if type(value) is kind]
        return {"type": names[0] if names else "null"}

    properties = {name: type_of(value) for name, value in call["arguments"].items()}
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": call["name"], "parameters": parameters}}


def body_of(form: str, call: dict) -> str:
    return "".join(span.text for span in write_calls(form, [call], "") if not span.is_markup)


@pytest.mark.parametrize("form", TOOL_FORMS)
@given(name=NAMES, arguments=ARGUMENTS)
@settings(max_examples=100, deadline=None)
def test_any_call_is_read_back_as_it_was_written(form, name, arguments):
    call = {"name": name, "arguments": arguments}

    assert read_call(body_of(form, call), [describe(call)]) == call


@pytest.mark.parametrize("form", TOOL_FORMS)
def test_a_call_that_could_not_be_read_back_is_refused(form):
    call = {"name": "f", "arguments": {"a": "x\n</parameter>\n<parameter=b>\ny"}}
    if form == "hermes":
        assert read_call(body_of(form, call)) == call
    else:
        with pytest.raises(PromptError, match=r"^an argument of the call of 'f' holds </parameter>"):
            body_of(form, call)


@given(content=TEXTS, name=NAMES, arguments=ARGUMENTS)
@settings(max_examples=100, deadline=None)
def test_an_answer_spelled_out_is_read_back_where_its_text_holds_no_mark(content, name, arguments):
    calls = [{"name": name, "arguments": arguments}, CALL]
    content = content.strip("\n")
    text = spell_answer(content, calls)

    if "<tool_call>" not in content:
        assert read_answer_text(text) == (content, calls)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<tool_call>\n{\"name\": \"f\"", "a call is not closed"),
        ("<tool_call>\n{'name': 'f'}\n</tool_call>", "no valid JSON"),
        ('<tool_call>\n{"arguments": {}}\n</tool_call>', "a call without a name"),
        ('<tool_call>\n{"name": "f", "arguments": [1]}\n</tool_call>', "arguments that are no JSON object"),
        ('<tool_call>\n{"name": "f", "arguments": "{"}\n</tool_call>', "arguments that are no valid JSON"),
        ("<tool_call>\n<function=f>\n<parameter=a>\n1\n</tool_call>", "a call whose <function=...> is not closed"),
        ("<tool_call>\n<function=f>\nhm\n</function>\n</tool_call>", "a call with something else than arguments: 'hm'"),
    ],
)  # fmt: skip
def test_a_broken_call_is_named_for_what_it_is(text, reason):
    with pytest.raises(BrokenCall) as caught:
        read_answer_text(text)
    assert str(caught.value).startswith(reason)


def test_arguments_of_xml_have_the_types_of_their_schema():
    tool = describe({"name": "f", "arguments": {"a": 1, "b": "", "c": True, "d": [], "e": 0.5}})
    tool["function"]["parameters"]["properties"]["n"] = {"anyOf": [{"type": "string"}, {"type": "null"}]}
    values = {"a": "3", "b": "3", "c": "False", "d": "[1, 2]", "e": "x", "n": "None", "unknown": "3"}
    body = "<function=f>" + "".join(f"<parameter={name}>\n{text}\n</parameter>\n" for name, text in values.items())

    assert read_call(body + "</function>", [tool]) == {
        "name": "f",
        "arguments": {"a": 3, "b": "3", "c": False, "d": [1, 2], "e": "x", "n": None, "unknown": "3"},
    }


# The templates


def trl_templates() -> list[Path]:
    folder = Path(str(find_spec("trl").submodule_search_locations[0])) / "chat_templates"
    return sorted(path for path in folder.glob("qwen*.jinja"))


def test_every_qwen_template_that_trl_carries_has_a_known_form_of_tools():
    forms = {path.stem: read_family(path.read_text(encoding="utf-8")).tool_form for path in trl_templates()}

    assert len(forms) > 10
    assert None not in forms.values()
    assert forms["qwen3_instruct_2507"] == forms["qwen2_5"] == "hermes"
    assert (forms["qwen3_5_think"], forms["qwen3_6"]) == ("xml", "xml_json")


def test_a_template_with_another_form_of_tools_is_refused_where_a_row_has_some(golden, formats):
    template = golden["qwen3"]["template"].replace("You may call one or more", "You can call")
    family = read_family(template)
    chat = ChatFormat(family, formats["qwen3"].encoder)

    assert chat.encode_prompt([QUESTION]) == formats["qwen3"].encode_prompt([QUESTION])
    with pytest.raises(PromptError) as caught:
        chat.encode_prompt([{"role": "tools", "content": "", "tools": [describe(CALL)]}, QUESTION])
    assert str(caught.value) == (
        "the chat template has a form of tools not known here: in tools and calls, after "
        "'em\\nprobe system\\n\\n# Tools\\n\\nYou ' it writes 'can call functions to assist with the us' where "
        "'may call one or more functions to assist' was expected; leave rows with tools out, or use another model"
    )


# What a model sees


def offered(*turns: dict, tool: dict | None = None) -> list[dict]:
    return [{"role": "tools", "content": "", "tools": [tool or describe(CALL)]}, *turns]


def marked(chat: ChatFormat, messages: list[dict]) -> str:
    pieces = chat.show(chat.encode(messages))
    text = "".join(f"«{piece.text}»" if piece.is_supervised else piece.text for piece in pieces)
    return text.replace("»«", "")


def test_calls_and_answers_are_learned_and_results_are_not(formats):
    turns = offered(
        QUESTION,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
        {"role": "tool", "content": "18 °C"},
        {"role": "assistant", "content": "18 °C."},
    )
    text = marked(formats["qwen2.5"], turns)

    assert text.endswith(
        "<|im_start|>user\nWeather in Rome?<|im_end|>\n<|im_start|>assistant\n«Let me see.\n<tool_call>\n"
        '{"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call><|im_end|>»\n'
        "<|im_start|>user\n<tool_response>\n18 °C\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n«18 °C.<|im_end|>»\n"
    )
    assert "«" not in text.partition("Weather in Rome?")[0]


@pytest.mark.parametrize("name", ["qwen3", "qwen3 off", "qwen3 keep", "qwen2.5", "smollm2"])
def test_what_a_model_wrote_is_read_as_its_calls(formats, name):
    chat = formats[name]
    answer = {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, {"name": "clock", "arguments": {}}]}
    if name == "qwen3 keep":
        answer["reasoning_content"] = "A call."
    row = chat.encode(offered(QUESTION, answer))
    written = row.input_ids[len(row.prompt_ids) : -2]

    assert chat.read_answer(written, [describe(CALL)]) == answer
    assert chat.read_answer(written[:-3], [describe(CALL)]).keys() >= {"content"}
    assert "tool_calls" not in chat.read_answer(written[:-3], [describe(CALL)])  # cut off: it stays text
    assert "<tool_call>" in chat.read_answer(written[:-3], [describe(CALL)])["content"]


def test_a_text_that_spells_a_call_is_not_one_where_the_marks_are_tokens(formats):
    chat = formats["qwen3"]
    text = spell_answer("", [CALL])

    assert chat.read_answer(chat.encode_text(text), [describe(CALL)]) == {"role": "assistant", "content": text}


LOOKALIKES = st.lists(st.sampled_from([*MARKS, "<think>", "</think>", "<|im_end|>", "<|im_start|>", "x", "\n", " "]),
                      max_size=8).map("".join)  # fmt: skip


@pytest.mark.parametrize("name", ["qwen3", "qwen3 keep", "qwen2.5", "smollm2"])
@given(user=LOOKALIKES, description=LOOKALIKES, argument=LOOKALIKES, result=LOOKALIKES, said=LOOKALIKES)
@settings(max_examples=25, deadline=None)
def test_no_text_of_anybody_becomes_a_control_token(formats, name, user, description, argument, result, said):
    chat = formats[name]

    def control_ids(user: str, description: str, argument: str, result: str, said: str) -> list[int]:
        call = {"name": "f", "arguments": {"a": argument}}
        tool = describe(call)
        tool["function"]["description"] = description
        turns = [
            {"role": "user", "content": user},
            {"role": "assistant", "content": said, "tool_calls": [call]},
            {"role": "tool", "content": result},
            {"role": "assistant", "content": said},
        ]
        ids = chat.encode(offered(*turns, tool=tool)).input_ids
        return [index for index in ids if index in chat.control_ids]

    assert control_ids(user, description, argument, result, said) == control_ids("u", "d", "a", "r", "s")


@pytest.mark.parametrize("form", TOOL_FORMS)
def test_results_and_calls_without_text_are_where_the_templates_put_them(form):
    family = Family(None, tool_form=form)
    turns = [QUESTION, {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]},
             {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}]  # fmt: skip
    text = "".join(piece.text for piece in lay_out(family, "auto", turns))

    assert "assistant\n<tool_call>\n" in text
    assert text.count("<|im_start|>user\n<tool_response>") == 1
    assert "".join(span.text for span in write_results(["1", "2"])) in text


def test_shortening_leaves_tools_and_calls_whole(formats):
    chat = formats["qwen2.5"]
    turns = offered(
        {"role": "user", "content": "word " * 400},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "18 °C"},
        {"role": "assistant", "content": "18 °C."},
    )
    whole, cut = chat.encode(turns), chat.encode(turns, Rules(supervise="last", max_length=700))
    text = "".join(piece.text for piece in chat.show(cut))

    assert 0 < cut.num_cut == len(whole.input_ids) - len(cut.input_ids)
    assert json.dumps(describe(CALL)) in text
    assert spell_answer("", [CALL]) in text


def test_an_exchange_with_calls_is_dropped_as_a_whole(formats):
    chat = formats["qwen2.5"]
    turns = offered(
        {"role": "user", "content": "old " * 150},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "old result"},
        {"role": "assistant", "content": "old answer"},
        QUESTION,
    )
    ids = chat.encode_prompt(turns, Rules(max_length=520, answer_room=16))
    text = "".join(
        piece.text for piece in chat.show(chat.encode(turns, Rules(supervise="none", max_length=520, answer_room=16)))
    )

    assert "old" not in text
    assert text.count("<tool_call>") == 2  # where the form of calls is explained
    assert json.dumps(describe(CALL)) in text
    assert len(ids) <= 520 - 16
