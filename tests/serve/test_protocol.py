import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sft.serve.answers import StopFilter
from sft.serve.protocol import ApiError, ChatRequest, read_request

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
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", None),
        ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content", None),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "messages.0.content: Field required"),
        ({"temperature": 3}, "temperature", "temperature: should be less than or equal to 2"),
        ({"n": 2}, "n", "n: should be 1"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens: should be greater than or equal to 1"),
        ({"tools": []}, "tools", "tools: this server does not take it"),
        (
            {"response_format": {"type": "json_object"}},
            "response_format.type",
            "response_format.type: should be 'text'",
        ),
        ({"stop": list("abcde")}, "stop", None),
    ],
)
def test_what_cannot_be_done_is_refused_by_the_name_of_its_field(changes, param, message):
    status, found, found_param = refusal(**changes)
    assert (status, str(found_param).split(".list")[0]) == (400, param)
    assert message is None or found == message


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
