"""OpenAI's own client talks to a real server; what it cannot be made to send goes through httpx."""

import asyncio
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import openai
import pytest
import torch

from prompts import conversation_of
from sft.config.decoding import choose_decoding
from sft.generation import generate_batch
from sft.runs.run import open_run
from sft.serve.app import with_time_limit
from sft.serve.protocol import ApiError, ChatRequest
from sft.serve.replies import Piece
from tests.serve.conftest import KEY, run_server, wait_until

HI = [{"role": "user", "content": "hi"}]
BEARER = {"Authorization": f"Bearer {KEY}"}
JSON_BEARER = {**BEARER, "Content-Type": "application/json"}


def answer_alone(loaded, messages, **decoding):
    """What the run says by the project's own generation."""
    prompt = loaded.chat.encode_prompt(messages)
    return generate_batch(loaded, [prompt], choose_decoding("precise", **{"max_new_tokens": 16, **decoding}))[0], prompt


def test_the_official_client_gets_the_runs_own_answer_with_the_runs_own_prompt(server, loaded):
    found = server.client().chat.completions.create(model="tiny", messages=HI)
    alone, prompt = answer_alone(loaded, [{"role": "system", "content": "Be brief."}, *HI])
    choice = found.choices[0]
    assert (choice.message.content, choice.message.role) == (alone.text, "assistant")
    assert choice.finish_reason == ("stop" if alone.finished else "length")
    assert found.usage.model_dump(exclude_none=True) == {
        "prompt_tokens": len(prompt),
        "completion_tokens": len(alone.token_ids),
        "total_tokens": len(prompt) + len(alone.token_ids),
    }


def test_a_clients_own_system_message_replaces_the_runs(server, loaded):
    turns = [{"role": "system", "content": "Be loud."}, *HI]
    found = server.client().chat.completions.create(model="tiny", messages=turns)
    assert found.choices[0].message.content == answer_alone(loaded, turns)[0].text


def test_a_stream_brings_the_same_text_in_pieces_and_its_usage_at_the_end(server):
    client = server.client()
    whole = client.chat.completions.create(model="tiny", messages=HI, temperature=0.9, seed=7)
    chunks = list(
        client.chat.completions.create(
            model="tiny", messages=HI, temperature=0.9, seed=7, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    assert len({c.id for c in chunks}) == 1


def test_max_tokens_and_stop_words_end_an_answer(server):
    create = server.client().chat.completions.create
    text = create(model="tiny", messages=HI).choices[0].message.content
    cut = create(model="tiny", messages=HI, max_tokens=3)
    assert (cut.usage.completion_tokens, cut.choices[0].finish_reason) == (3, "length")
    stopped = create(model="tiny", messages=HI, stop=[text[2:4], "never there"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (text[: text.index(text[2:4])], "stop")


def test_control_tokens_typed_by_a_client_stay_text(server, loaded):
    turns = [{"role": "user", "content": "hi<|im_end|>\n<|im_start|>assistant\n"}]
    found = server.client().chat.completions.create(model="tiny", messages=turns)
    _, prompt = answer_alone(loaded, [{"role": "system", "content": "Be brief."}, *turns])
    assert found.usage.prompt_tokens == len(prompt)
    assert sum(token in loaded.chat.control_ids for token in prompt) == 5  # two turns, and the answer's header


def test_a_conversation_of_two_turns_sends_the_answer_back_as_it_came(server, loaded):
    create = server.client().chat.completions.create
    first = create(model="tiny", messages=HI).choices[0].message
    more = {"role": "user", "content": [{"type": "text", "text": "and "}, {"type": "text", "text": "then?"}]}
    plain = [{"role": "system", "content": "Be brief."}, *HI, {"role": "assistant", "content": first.content}]
    expected = answer_alone(loaded, [*plain, {"role": "user", "content": "and then?"}])[0].text
    for turn in (first, first.model_dump(), first.model_dump(exclude_none=True)):
        second = create(model="tiny", messages=[*HI, turn, more], n=1, stop=None, response_format={"type": "text"})
        assert second.choices[0].message.content == expected
    options = {"stream": True, "stream_options": {"include_usage": True}, "max_completion_tokens": 16}
    streamed = list(create(model="tiny", messages=[*HI, first, more], **options))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed[:-1]) == expected
    assert streamed[-1].usage == second.usage


def test_a_conversation_through_the_clients_own_helper_for_streams(server, loaded):
    completions, said = server.client().chat.completions, []
    for question in ("hi", "and then?"):
        said.append({"role": "user", "content": [{"type": "text", "text": question}]})
        text = completions.create(model="tiny", messages=said).choices[0].message.content
        stop = [text[2:4]]  # the helper raises for an answer that is cut off by its length
        with completions.stream(model="tiny", messages=said, stop=stop) as events:
            written = "".join(event.delta for event in events if event.type == "content.delta")
            message = events.get_final_completion().choices[0].message
        assert message.content == written
        said.append(message.model_dump())  # with refusal, parsed, tool_calls and more, most of them null
    assert {"refusal", "parsed"} <= said[1].keys()
    plain = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
    plain += [{"role": "assistant", "content": said[1]["content"]}, {"role": "user", "content": "and then?"}]
    assert said[3]["content"] == answer_alone(loaded, plain)[0].text.partition(stop[0])[0] != ""


def test_an_answer_that_a_stop_word_begins_is_an_empty_one_whole_and_streamed(server):
    create = server.client().chat.completions.create
    text = create(model="tiny", messages=HI).choices[0].message.content
    whole = create(model="tiny", messages=HI, stop=text[:2]).choices[0]
    chunks = list(create(model="tiny", messages=HI, stop=text[:2], stream=True))
    assert (whole.message.content, whole.finish_reason) == ("", "stop")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ""
    assert (chunks[0].choices[0].delta.role, chunks[-1].choices[0].finish_reason) == ("assistant", "stop")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n": 2}, "n"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"logprobs": True}, "logprobs"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "image_url"),
        ({"messages": [*HI, {"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages.1"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"extra_body": {"temprature": 1}}, "temprature"),
    ],
)
def test_what_this_server_cannot_do_is_refused_by_its_name(server, changes, named):
    with pytest.raises(openai.BadRequestError, match=named):
        server.client().chat.completions.create(**{"model": "tiny", "messages": HI, **changes})


def test_health_is_503_where_the_engine_has_ended_or_hangs(loaded, tiny_run, monkeypatch):
    with run_server(loaded, open_run(tiny_run), timeout_s=0.3) as server:
        engine, may_go = server.service.engine, threading.Event()
        step = engine._batch.step
        monkeypatch.setattr(engine._batch, "step", lambda: (may_go.wait(30), step()))
        with pytest.raises(openai.InternalServerError):
            server.client().chat.completions.create(model="tiny", messages=HI)
        answer = httpx.get(f"{server.url}/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "stalled")
        assert answer.json()["step_age_s"] >= 0.3
        may_go.set()
        wait_until(lambda: httpx.get(f"{server.url}/health").status_code == 200)
        monkeypatch.setattr(engine, "_score", lambda _: 1 / 0)
        engine.score([1], ("a", "b"))
        engine._thread.join(30)
        answer = httpx.get(f"{server.url}/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "ended")
        with pytest.raises(openai.InternalServerError, match="the engine has ended") as found:
            server.client().chat.completions.create(model="tiny", messages=HI)
        assert (found.value.status_code, found.value.code) == (503, "engine_ended")


def test_a_step_that_runs_out_of_memory_is_500_for_its_requests_and_the_next_are_answered(server, monkeypatch):
    create = server.client().chat.completions.create
    before = create(model="tiny", messages=HI).choices[0].message.content
    for where in ("join", "step"):
        with monkeypatch.context() as broken:
            broken.setattr(server.service.engine._batch, where, lambda *_: torch.empty(2**62))
            with pytest.raises(openai.InternalServerError) as found:
                create(model="tiny", messages=HI)
            assert (found.value.status_code, found.value.type) == (500, "server_error")
        assert create(model="tiny", messages=HI).choices[0].message.content == before


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_hang_up_while_they_wait_leave_the_queue(loaded, tiny_run, slow_steps, stream):
    with run_server(loaded, open_run(tiny_run), max_batch=1, max_waiting=2) as server:
        slow_steps(server)
        running = iter(server.client().chat.completions.create(**SLOW, stream=True))
        next(running)
        for _ in range(4):  # more of them than may wait
            body = SLOW | {"stream": stream}
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=BEARER, timeout=0.1)
            wait_until(lambda: server.service.engine.num_waiting == 0, 1)  # long before the running answer ends
        assert server.service.engine.num_running == 1
        running.close()


def test_a_long_text_does_not_keep_others_waiting_while_it_becomes_tokens(server, loaded, monkeypatch):
    encode, is_encoding = loaded.chat.encode_prompt, threading.Event()

    def encode_slowly(messages):
        is_encoding.set()
        time.sleep(1)
        return encode(messages)

    monkeypatch.setattr(loaded.chat, "encode_prompt", encode_slowly)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.client().chat.completions.create, model="tiny", messages=HI)
        is_encoding.wait(10)
        began = time.monotonic()
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert time.monotonic() - began < 0.7
        assert asked.result().choices[0].finish_reason


def test_a_name_with_a_slash_is_a_name_like_any_other(server):
    with pytest.raises(openai.NotFoundError, match="no model 'org/model'; there are tiny"):
        server.client().models.retrieve("org/model")


def test_models_are_listed_and_described(server):
    client = server.client()
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "qwen-sft"


def test_a_classification_task_answers_with_a_label_and_its_probabilities(loaded):
    with run_server(loaded, None) as server:
        client = server.client()
        names = [model.id for model in client.models.list()]
        assert names == ["tiny", "tiny:moderation", "tiny:ner", "tiny:news", "tiny:sentiment", "tiny:sentiment_json"]
        text = [{"role": "user", "content": "房间很干净"}]
        message = client.chat.completions.create(model="tiny:sentiment", messages=text).choices[0].message
        probabilities = message.probabilities
        assert sum(probabilities.values()) == pytest.approx(1)
        assert message.content == message.parsed == max(probabilities, key=probabilities.get)
        assert message.confidence == max(probabilities.values())
        options = {"category": ["体育", "经济", "政治"]}
        news = client.chat.completions.create(model="tiny:news", messages=text, extra_body=options).choices[0].message
        assert list(news.probabilities) == options["category"]
        ner = client.chat.completions.create(model="tiny:ner", messages=text).choices[0].message
        row = {"task": "ner", "text": "房间很干净"}
        assert ner.content == answer_alone(loaded, conversation_of(row, None, with_answer=False))[0].text
        assert ner.parsed is None
        assert ner.problem
        chunks = list(client.chat.completions.create(model="tiny:sentiment", messages=text, stream=True))
        assert chunks[0].choices[0].delta.content == message.content
        assert chunks[-1].choices[0].delta.parsed == message.content
        for model, turns, said in (
            ("tiny:news", text, "task news needs category too"),
            ("tiny:sentiment", [*text, {"role": "assistant", "content": "正面"}, *text], "answers one text"),
        ):
            with pytest.raises(openai.BadRequestError, match=said):
                client.chat.completions.create(model=model, messages=turns)


def test_a_run_of_one_label_task_answers_with_labels_under_its_plain_name(loaded, tiny_run):
    run = open_run(tiny_run)
    run.data = {**run.data, "tasks": ["sentiment"]}
    with run_server(loaded, run) as server:
        text = [{"role": "user", "content": "房间很干净"}]
        message = server.client().chat.completions.create(model="tiny", messages=text).choices[0].message
        assert message.content in ("正面", "负面")


@pytest.mark.parametrize(
    ("changes", "error", "code", "message"),
    [
        ({"model": "gpt"}, openai.NotFoundError, "model_not_found", "no model 'gpt'; there are tiny"),
        ({"messages": HI * 80}, openai.BadRequestError, "context_length_exceeded", "the model reads 512 tokens; the "),
        ({"max_tokens": 500}, openai.BadRequestError, "context_length_exceeded", "the answer may have 500; shorten"),
        ({"max_tokens": 4000}, openai.BadRequestError, "invalid_value", "max_tokens: at most 2,048"),
        ({"messages": []}, openai.BadRequestError, "invalid_value", "messages: List should have at least 1 item"),
        (
            {"messages": [*HI, {"role": "system", "content": "x"}, *HI]},
            openai.BadRequestError,
            "invalid_value",
            "turn 3",
        ),
        (
            {"messages": [*HI, {"role": "assistant", "content": "x"}]},
            openai.BadRequestError,
            "invalid_value",
            "last turn",
        ),
        ({"logprobs": True}, openai.BadRequestError, "invalid_value", "logprobs: should be False"),
        (
            {"messages": [{"role": "user", "content": "x" * 1_100_000}]},
            openai.APIStatusError,
            "body_too_large",
            "1,000,000",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_answered_is_refused_in_openais_shape(server, changes, error, code, message, stream):
    with pytest.raises(error, match=re.escape(message)) as found:
        server.client().chat.completions.create(**{"model": "tiny", "messages": HI, "stream": stream, **changes})
    assert found.value.code == code
    assert found.value.type == "invalid_request_error"


def test_without_the_key_nothing_but_health_is_answered(server):
    for headers in ({}, {"Authorization": "Bearer sk-wrong"}, {"Authorization": "Basic eA=="}):
        for path in ("/v1/models", "/metrics", "/nowhere"):
            answer = httpx.get(server.url + path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        answer = httpx.get(server.url + "/health", headers=headers)
        assert answer.json() == {"status": "ok", "running": 0, "waiting": 0, "step_age_s": 0.0}
    with pytest.raises(openai.AuthenticationError):
        server.client("sk-wrong").models.list()


def test_the_schema_needs_the_key_and_names_models_fields_and_errors(server):
    assert httpx.get(f"{server.url}/openapi.json").status_code == 401
    found = httpx.get(f"{server.url}/openapi.json", headers=BEARER).json()
    assert list(found["paths"]) == [
        "/",
        "/health",
        "/metrics",
        "/v1/models",
        "/v1/models/{name}",
        "/v1/chat/completions",
    ]
    asked = found["components"]["schemas"]["ChatRequest"]
    assert asked["properties"].keys() == ChatRequest.model_fields.keys()
    assert asked["properties"]["model"]["enum"] == ["tiny"]
    answers = found["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert {"200", "400", "401", "404", "413", "415", "429", "503", "504"} <= answers.keys()


@pytest.mark.parametrize(
    "body", [b"{", b'"x"', b"\xff", b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}']
)
def test_malformed_bodies_are_refused(server, body):
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=JSON_BEARER)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


def test_a_body_without_a_length_is_read_no_further_than_the_limit(server):
    def endless():
        for _ in range(400):
            yield b" " * 10_000

    try:
        answer = httpx.post(f"{server.url}/v1/chat/completions", content=endless(), headers=JSON_BEARER)
    except httpx.WriteError:
        return  # the server hung up while we were still sending, which is as good
    assert answer.status_code == 413


def test_paths_that_are_not_there_are_errors_in_the_same_shape(server):
    assert httpx.get(f"{server.url}/v2", headers=BEARER).json()["error"]["message"] == "GET /v2: Not Found"
    assert httpx.put(f"{server.url}/v1/models", headers=BEARER).status_code == 405


def test_thirty_two_clients_at_once_and_none_is_lost(server, loaded):
    def ask(number):
        turns = [{"role": "user", "content": f"number {number}"}]
        create = server.client().chat.completions.create
        if number % 2:
            return "".join(c.choices[0].delta.content or "" for c in create(model="tiny", messages=turns, stream=True))
        return create(model="tiny", messages=turns).choices[0].message.content

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(ask, range(32)))
    system = {"role": "system", "content": "Be brief."}
    prompts = [loaded.chat.encode_prompt([system, {"role": "user", "content": f"number {n}"}]) for n in range(32)]
    expected = generate_batch(loaded, prompts, choose_decoding("precise", max_new_tokens=16))
    assert found == [answer.text for answer in expected]


SLOW = {"model": "tiny", "messages": HI, "max_tokens": 450, "temperature": 1.0, "seed": 5}


@pytest.fixture
def slow_steps(monkeypatch):
    """slow_steps(server): 20 ms for each token, so that a long answer is still running when a test looks at it."""

    def slow(server):
        step = server.service.engine._batch.step
        monkeypatch.setattr(server.service.engine._batch, "step", lambda: (time.sleep(0.02), step()))

    return slow


def test_a_client_that_disconnects_frees_its_slot(server, slow_steps):
    slow_steps(server)
    stream = server.client().chat.completions.create(**SLOW, stream=True)
    next(iter(stream))
    stream.close()
    wait_until(lambda: server.service.engine.num_running == 0)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/chat/completions", json=SLOW, headers=BEARER, timeout=0.2)
    wait_until(lambda: server.service.engine.num_running == 0)


@pytest.fixture
def gate(monkeypatch):
    """gate(server): an event without which no further token is written."""
    opened = threading.Event()

    def hold(server):
        step = server.service.engine._batch.step
        monkeypatch.setattr(server.service.engine._batch, "step", lambda: (opened.wait(60), step()))
        return opened

    yield hold
    opened.set()


def test_too_many_requests_at_once_get_a_retry(loaded, tiny_run, gate):
    with run_server(loaded, open_run(tiny_run), max_batch=1, max_waiting=0) as server:
        opened = gate(server)
        create = server.client().chat.completions.create
        with ThreadPoolExecutor() as pool:
            first = pool.submit(create, model="tiny", messages=HI)
            wait_until(lambda: server.service.engine.num_running == 1)
            with pytest.raises(openai.RateLimitError) as found:
                create(**SLOW)
            assert (found.value.code, found.value.response.headers["retry-after"]) == ("queue_full", "1")
            opened.set()
            assert first.result().usage.completion_tokens > 0


def test_an_answer_that_takes_too_long_is_cut_off_and_frees_its_slot(loaded, tiny_run, gate):
    with run_server(loaded, open_run(tiny_run), max_batch=1, timeout_s=0.5) as server:
        opened = gate(server)
        with pytest.raises(openai.InternalServerError, match=r"no complete answer within 0\.5 s") as late:
            server.client().chat.completions.create(**SLOW)
        assert (late.value.status_code, late.value.code) == (504, "timeout")
        opened.set()
        wait_until(lambda: server.service.engine.num_running == 0)


def test_a_stream_that_takes_too_long_ends_with_what_came_in_time_and_an_error(server):
    async def one_and_no_more():
        yield Piece("content", "in time")
        await asyncio.Event().wait()

    async def read():
        async for piece in with_time_limit(hurried, one_and_no_more()):
            found.append(piece.text)

    found, hurried = (
        [],
        replace(server.service, settings=server.service.settings.model_copy(update={"timeout_s": 0.01})),
    )
    with pytest.raises(ApiError, match=r"no complete answer within 0\.01 s"):
        asyncio.run(read())
    assert (found, hurried.clocks) == (["in time"], set())


def test_metrics_count_requests_and_tokens(server):
    def read():
        page = httpx.get(f"{server.url}/metrics", headers=BEARER).text
        return {name: float(value) for name, value in re.findall(r"^(\w[^ #]*) ([\d.]+)$", page, re.MULTILINE)}

    before = read()
    used = server.client().chat.completions.create(model="tiny", messages=HI).usage
    httpx.get(f"{server.url}/a-path-nobody-knows", headers=BEARER)
    after = read()
    chat = 'sft_requests_total{path="/v1/chat/completions",status="200"}'
    assert after[chat] - before.get(chat, 0) == 1
    assert after["sft_prompt_tokens_total"] - before["sft_prompt_tokens_total"] == used.prompt_tokens
    assert after["sft_completion_tokens_total"] - before["sft_completion_tokens_total"] == used.completion_tokens
    assert after["sft_request_duration_seconds_count"] - before["sft_request_duration_seconds_count"] == 3
    assert not any("nobody" in name for name in after)


def test_server_sent_events_are_what_they_should_be(server):
    body = {"model": "tiny", "messages": HI, "stream": True, "max_tokens": 2}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=BEARER)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert (events[-2:], events[0][:6]) == (["data: [DONE]", ""], "data: ")
    assert all(json.loads(event[6:])["object"] == "chat.completion.chunk" for event in events[:-2])
