"""Tools and thoughts over OpenAI's API: what the official client gets of an answer that calls, whole and streamed."""

import json

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from prompts import ChatFormat
from prompts.family import Family
from prompts.text_encoder import TextEncoder
from prompts.tools import CALL, spell_answer
from sft.models.loaded import LoadedModel
from sft.runs.run import open_run
from sft.serve.engine import Ticket
from sft.serve.replies import HeldText
from tests.serve.conftest import run_server

HI = [{"role": "user", "content": "Weather in Rome?"}]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]
CALLS = [{"name": "get_weather", "arguments": {"city": "Rome"}}, {"name": "get_weather", "arguments": {"city": "罗马"}}]


@pytest.fixture(scope="module")
def server(loaded, tiny_run):
    with run_server(loaded, open_run(tiny_run)) as running:
        yield running


@pytest.fixture
def says(server, monkeypatch):
    """Makes the model write a text, whatever it is asked; the prompts it was asked with."""
    prompts = []

    def write(ids: list[int], *, ends: bool = True) -> list[list[int]]:
        def submit(prompt_ids, decoding, max_new_tokens, deliver, untuned):
            prompts.append(list(prompt_ids))
            for token_id in [*ids, *([server.service.engine.loaded.chat.end_ids[0]] if ends else [])]:
                deliver(token_id)
            deliver(None)
            return Ticket()

        monkeypatch.setattr(server.service.engine, "submit", submit)
        return prompts

    monkeypatch.setattr(LoadedModel, "max_context", 4096)  # the tools' own explanation is longer than the tiny model's
    return write


@pytest.fixture
def thinking_chat(loaded):
    """The tiny run's tokenizer as one of a family that thinks."""
    backend = Tokenizer.from_str(loaded.tokenizer.backend_tokenizer.to_str())
    backend.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    return ChatFormat(Family(None, think_block="last"), TextEncoder(backend), think="keep")


def ask(server, **more):
    return server.client().chat.completions.create(**{"model": "tiny", "messages": HI, "tools": TOOLS, **more})


def streamed(server, **more) -> tuple[str, list[dict], str]:
    """Content, calls put together as clients do it, and the reason of the end."""
    content, calls, reason = "", {}, ""
    for chunk in ask(server, stream=True, **more):
        choice = chunk.choices[0]
        content, reason = content + (choice.delta.content or ""), choice.finish_reason or reason
        for part in choice.delta.tool_calls or ():
            call = calls.setdefault(part.index, {"id": part.id, "name": part.function.name, "arguments": ""})
            call["arguments"] += part.function.arguments or ""
    return content, [calls[index] for index in sorted(calls)], reason


@pytest.mark.parametrize("content", ["", "Let me see."])
def test_calls_come_back_as_openai_has_them_whole_and_streamed(server, says, content):
    prompts = says(server.service.engine.loaded.chat.encode_text(spell_answer(content, CALLS)))
    choice = ask(server).choices[0]

    assert (choice.message.content, choice.finish_reason) == (content or None, "tool_calls")
    found = [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls]
    assert found == [(call["name"], call["arguments"]) for call in CALLS]
    assert len({call.id for call in choice.message.tool_calls}) == 2
    text, calls, reason = streamed(server)
    assert (text, reason) == (content, "tool_calls")
    assert [(call["name"], json.loads(call["arguments"])) for call in calls] == found
    assert all(call["id"].startswith("call_") for call in calls)
    chat = server.service.engine.loaded.chat
    told = [{"role": "system", "content": "Be brief."}, {"role": "tools", "content": "", "tools": TOOLS}, *HI]
    assert prompts == [chat.encode_prompt(told)] * 2


def test_tool_results_are_sent_back_and_answered(server, says):
    prompts = says(server.service.engine.loaded.chat.encode_text(spell_answer("", CALLS)))
    called = ask(server).choices[0].message
    says(server.service.engine.loaded.chat.encode_text("18 °C."))
    results = [{"role": "tool", "tool_call_id": call.id, "content": "18"} for call in called.tool_calls]
    answer = ask(server, messages=[*HI, called, *results]).choices[0]

    assert (answer.message.content, answer.finish_reason, answer.message.tool_calls) == ("18 °C.", "stop", None)
    turns = [{"role": "system", "content": "Be brief."}, {"role": "tools", "content": "", "tools": TOOLS}, *HI,
             {"role": "assistant", "content": "", "tool_calls": CALLS},
             {"role": "tool", "content": "18"}, {"role": "tool", "content": "18"}]  # fmt: skip
    assert prompts[-1] == server.service.engine.loaded.chat.encode_prompt(turns)


def test_what_is_no_readable_call_is_text_with_nothing_of_it_lost(server, says):
    chat = server.service.engine.loaded.chat
    for text in ('<tool_call>\n{"name": "f"', "Use <tool_call> for it.\n", "a < b\n\n", "<tool"):
        says(chat.encode_text(text), ends=False)
        choice = ask(server).choices[0]
        assert (choice.message.content, choice.finish_reason, choice.message.tool_calls) == (text, "length", None)
        assert streamed(server) == (text, [], "length")


def test_without_tools_or_with_tool_choice_none_the_prompt_has_no_tools_and_a_call_is_text(server, says):
    chat = server.service.engine.loaded.chat
    text = spell_answer("", CALLS)
    prompts = says(chat.encode_text(text))
    plain = chat.encode_prompt([{"role": "system", "content": "Be brief."}, *HI])
    for more in ({"tool_choice": "none"}, {"tools": openai.NOT_GIVEN}, {"tools": []}):
        choice = ask(server, **more).choices[0]
        assert (choice.message.content, choice.message.tool_calls, choice.finish_reason) == (text, None, "stop")
    assert prompts == [plain] * 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"messages": [*HI, {"role": "tool", "tool_call_id": "x", "content": "1"}]}, "a tool message follows"),
        (
            {"messages": [*HI, {"role": "assistant", "content": None, "tool_calls": [
                {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{"}}]}]},
            "the arguments of 'f': no valid JSON",
        ),
        ({"tool_choice": "required"}, "tool_choice: should be 'none' or 'auto'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(server, changes, message):
    with pytest.raises(openai.BadRequestError, match=message):
        ask(server, **changes)


def test_a_thought_is_reasoning_content_whole_and_streamed(server, says, monkeypatch, thinking_chat):
    monkeypatch.setattr(server.service.engine.loaded, "chat", thinking_chat)
    think = [thinking_chat.encoder.control_tokens[token] for token in ("<think>", "</think>")]
    thought, said = thinking_chat.encode_text("\nA city.\n"), thinking_chat.encode_text("\n\n18 °C.")
    says([think[0], *thought, think[1], *said])
    message = ask(server).choices[0].message

    assert (message.content, message.reasoning_content) == ("18 °C.", "A city.")
    deltas = [chunk.choices[0].delta for chunk in ask(server, stream=True)]
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "A city."
    assert "".join(delta.content or "" for delta in deltas) == "18 °C."


@given(st.lists(st.text("<tol_ca>x\n", min_size=1, max_size=6), max_size=8))
def test_text_is_held_back_from_a_mark_on_and_nothing_of_it_is_lost(pieces):
    held, text = HeldText(CALL), "".join(pieces)
    shown = "".join(held.feed(piece) for piece in pieces)

    assert shown + held.rest == text
    assert shown == held.passed
    assert CALL not in shown
    assert held.passed == text.partition(CALL)[0].rstrip("\n")[: len(held.passed)]
