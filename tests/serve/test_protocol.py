import json

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.serve.protocol import ApiError, ChatRequest, Turn, completion, read_request, usage
from sft.serve.replies import StopFilter

MINIMAL = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]}


def refusal(**changes) -> tuple[int, str, str | None]:
    with pytest.raises(ApiError) as found:
        read_request(json.dumps(MINIMAL | changes).encode())
    return found.value.status, str(found.value), found.value.param


def test_a_request_is_read_and_its_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    turns = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    request = read_request(
        json.dumps({"model": "tiny", "messages": turns, "stop": ["x", ""], "max_tokens": 3}).encode()
    )
    assert [turn.to_message() for turn in request.messages] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "ab"},
    ]
    assert (request.stops, request.token_limit) == (["x"], 3)


@pytest.mark.parametrize(
    ("changes", "param", "message"),
    [
        ({"messages": []}, "messages", "messages: List should have at least 1 item after validation, not 0"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "messages.0.role", None),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content", None),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "messages.0.content: Field required"),
        ({"temperature": 3}, "temperature", "temperature: should be less than or equal to 2"),
        ({"n": 2}, "n", "n: should be less than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens: should be greater than or equal to 1"),
        ({"tools": [{"type": "web_search"}]}, "tools", "tools: 0: type: should be 'function'"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools", "tools: 0: function.name: Field required"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
            "tools",
            "tools: 0: function.strict: should be False",
        ),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", "parallel_tool_calls: should be True"),
        (
            {"response_format": {"type": "json_object"}},
            "response_format.type",
            "response_format.type: should be 'text'",
        ),
        ({"stop": list("abcde")}, "stop", "stop: List should have at most 4 items after validation, not 5"),
        ({"stop": ["a", 7]}, "stop.1", "stop.1: should be a valid string"),
        ({"max_tokens": "5"}, "max_tokens", "max_tokens: should be a valid integer"),
        ({"max_tokens": True}, "max_tokens", "max_tokens: should be a valid integer"),
        ({"stream": "yes"}, "stream", "stream: should be a valid boolean"),
        ({"n": True}, "n", "n: should be a valid integer"),
        ({"model": None}, "model", "model: Field required"),
        ({"top_logprobs": 3}, "top_logprobs", "top_logprobs: should be less than or equal to 0"),
        ({"logit_bias": {"5": 1}}, "logit_bias", None),
        ({"modalities": ["text", "audio"]}, "modalities", None),
        ({"tool_choice": "required"}, "tool_choice", "tool_choice: should be 'none' or 'auto'"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", None),
        ({"reasoning_effort": "low"}, "reasoning_effort", "reasoning_effort: this server does not take it"),
        (
            {"max_tokens": 5, "max_completion_tokens": 6},
            None,
            "max_tokens 5 and max_completion_tokens 6 are one limit; send one of them",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]},
            "messages.0.content",
            "messages.0.content: part 0 is 'image_url'; this server reads parts of type 'text' alone",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, "b"]}]},
            "messages.0.content",
            "messages.0.content: part 1 should be an object",
        ),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content", None),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "cache": 1}]}]},
            "messages.0.content",
            "messages.0.content: part 0: this server does not take 'cache'",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1"}]}]},
            "messages.0.tool_calls.0.function",
            None,
        ),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages.0.content", None),
        ({"messages": [{"role": "assistant", "content": "", "refusal": "no"}]}, "messages.0.refusal", None),
        ({"messages": [{"role": "assistant", "content": "x", "audio": {"id": "1"}}]}, "messages.0.audio", None),
        (
            {"messages": [{"role": "user", "content": "x", "parsed": "y"}]},
            "messages.0",
            "messages.0: a user message has no parsed",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_the_name_of_its_field(changes, param, message):
    status, found, found_param = refusal(**changes)
    assert (status, found_param) == (400, param)
    assert message is None or found == message


OPENAIS_FIELDS = """
    audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens metadata
    modalities moderation n parallel_tool_calls prediction presence_penalty reasoning_effort response_format seed stop
    store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity web_search_options
"""


def test_every_field_may_be_null_and_then_means_nothing():
    bare = read_request(json.dumps(MINIMAL).encode())
    nulls = dict.fromkeys([*OPENAIS_FIELDS.split(), *(ChatRequest.model_fields.keys() - MINIMAL.keys())])
    assert read_request(json.dumps(nulls | MINIMAL).encode()) == bare
    turn = dict.fromkeys(Turn.model_fields) | {"audio": None, "function_call": None} | MINIMAL["messages"][0]
    assert read_request(json.dumps(MINIMAL | {"messages": [turn]}).encode()) == bare


def test_what_says_the_default_in_words_is_taken():
    defaults = {
        "n": 1, "logprobs": False, "top_logprobs": 0, "logit_bias": {}, "modalities": ["text"], "tool_choice": "none",
        "response_format": {"type": "text"}, "frequency_penalty": 0, "presence_penalty": 0.0, "stop": [],
        "stream_options": {"include_usage": None}, "max_tokens": 5, "max_completion_tokens": 5, "temperature": 1,
    }  # fmt: skip
    request = read_request(json.dumps(MINIMAL | defaults).encode())
    assert (request.token_limit, request.stops, request.temperature) == (5, [], 1)


@pytest.mark.parametrize(
    "extra", [{}, {"parsed": "正面", "confidence": 0.9, "probabilities": {"正面": 0.9}, "num_cut": 3}]
)
def test_an_answer_comes_back_as_the_client_dumps_it(extra):
    told = {"role": "assistant", "content": "hello"}
    answer = completion({"id": "x", "created": 1, "model": "tiny"}, told, "stop", usage(1, 1), extra)
    message = openai.types.chat.ChatCompletion.model_validate(answer).choices[0].message
    for dumped in (
        message.model_dump(),
        message.model_dump(exclude_unset=True),
        {**message.to_dict(), "annotations": []},
    ):
        turns = [MINIMAL["messages"][0], dumped, MINIMAL["messages"][0]]
        request = read_request(json.dumps(MINIMAL | {"messages": turns}).encode())
        assert request.messages[1].to_message() == {"role": "assistant", "content": "hello"}


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"model": NaN}', b"null"])
def test_a_body_that_is_no_request_is_refused(body):
    with pytest.raises(ApiError) as found:
        read_request(body)
    assert found.value.status == 400
    assert found.value.to_json()["error"]["type"] == "invalid_request_error"


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from([*ChatRequest.model_fields, "x", "role", "content"]), inner)
        ),
        max_leaves=12,
    )
)
def test_whatever_json_comes_is_read_or_refused(value):
    try:
        outcome: ChatRequest | ApiError = read_request(json.dumps(value).encode())
    except ApiError as error:
        outcome = error
    assert isinstance(outcome, ChatRequest) or outcome.status == 400


@given(
    text=st.text("abEN.", max_size=30),
    stops=st.lists(st.text("abEN", min_size=1, max_size=3), max_size=3),
    data=st.data(),
)
def test_a_stop_word_ends_the_text_however_it_is_cut_into_pieces(text, stops, data):
    passing, shown, place = StopFilter(stops), "", 0
    while place < len(text):
        end = data.draw(st.integers(place + 1, len(text)))
        shown += passing.feed(text[place:end])
        place = end
    shown += passing.flush()
    # The end of the first stop word to be complete decides; of several complete there, the one that begins first.
    ends = [n for n in range(len(text) + 1) if any(text[:n].endswith(stop) for stop in stops)]
    assert passing.has_stopped == bool(ends)
    if not ends:
        assert shown == text
    else:
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
        assert any(text[len(shown) :].startswith(stop) for stop in stops)


def test_results_are_read_in_the_order_of_the_calls_that_they_name():
    calls = [{"id": name, "type": "function", "function": {"name": name, "arguments": "{}"}} for name in ("a", "b")]
    results = [{"role": "tool", "tool_call_id": name, "content": f"of {name}"} for name in ("b", "a")]
    turns = [*MINIMAL["messages"], {"role": "assistant", "content": None, "tool_calls": calls}, *results]

    request = read_request(json.dumps(MINIMAL | {"messages": turns}).encode())

    assert [turn.content for turn in request.messages[2:]] == ["of a", "of b"]
