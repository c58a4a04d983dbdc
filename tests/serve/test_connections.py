"""Clients that stop in the middle, over real sockets on 127.0.0.1."""

import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
import uvicorn

from sft.runs.run import open_run
from sft.serve.connections import RESERVED_FILES, Connections, fit_open_files
from sft.serve.server import listen
from tests.serve.conftest import KEY, run_server, wait_until

POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
UNFINISHED_BODY = POST + f"Authorization: Bearer {KEY}\r\nContent-Length: 1000\r\n\r\n{{".encode()
WITHOUT_KEY = POST + b"Content-Length: 1000\r\n\r\n{"
UNFINISHED_HEADERS = b"GET /health HTTP/1.1\r\nHost: loc"


def connect(stack: ExitStack, url: str, sent: bytes) -> socket.socket:
    opened = stack.enter_context(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20))
    opened.sendall(sent)
    return opened


def read_all(opened: socket.socket) -> bytes:
    received = b""
    try:
        while part := opened.recv(65536):
            received += part
    except ConnectionResetError:
        pass
    return received


@contextmanager
def serve_app(app, **limits) -> Iterator[tuple[uvicorn.Server, str]]:
    """A server of any ASGI application under limits of connections."""
    connections, listener = (
        Connections(**{"max_connections": 10, "client_timeout_s": 20, **limits}),
        listen("127.0.0.1", 0),
    )
    config = uvicorn.Config(app, http=connections.accept, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.mark.parametrize("sent", [UNFINISHED_BODY, WITHOUT_KEY, UNFINISHED_HEADERS, b""])
def test_three_times_the_allowed_connections_that_never_finish_a_request_keep_nobody_out(loaded, tiny_run, capfd, sent):
    with run_server(loaded, open_run(tiny_run), max_connections=40) as server, ExitStack() as stack:
        opened = [connect(stack, server.url, sent) for _ in range(120)]
        for _ in range(3):
            assert httpx.get(f"{server.url}/health", timeout=5).status_code == 200
        message = server.client().chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}])
        assert message.choices[0].finish_reason
        for connection in opened[:80]:  # the oldest
            connection.settimeout(5)
            read_all(connection)
        wait_until(lambda: server.service.engine.num_running == 0)
    assert capfd.readouterr().err.count("\n") <= 2  # one line a kind, not one a connection


def test_a_body_that_arrives_too_slowly_is_answered_and_closed(loaded, tiny_run):
    with run_server(loaded, open_run(tiny_run), client_timeout_s=0.5) as server, ExitStack() as stack:
        opened = connect(stack, server.url, UNFINISHED_BODY)
        began = time.monotonic()
        for _ in range(3):  # a byte now and then does not prolong it
            time.sleep(0.1)
            opened.sendall(b" ")
        head, _, body = read_all(opened).partition(b"\r\n\r\n")
        assert 0.4 < time.monotonic() - began < 5
        assert head.startswith(b"HTTP/1.1 408 ")
        assert json.loads(body)["error"]["message"] == "the request was not complete within 0.5 s"
        assert server.client().models.list().data


@pytest.mark.parametrize("sent", [b"", UNFINISHED_HEADERS, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea"])
def test_headers_that_do_not_come_whole_in_time_close_the_connection(loaded, tiny_run, sent):
    with run_server(loaded, open_run(tiny_run), client_timeout_s=0.5) as server, ExitStack() as stack:
        opened = connect(stack, server.url, sent)
        began = time.monotonic()
        assert read_all(opened).count(b"HTTP/1.1 200") == sent.count(b"\r\n\r\n")
        assert 0.4 < time.monotonic() - began < 5


def test_a_body_of_a_request_that_was_refused_without_reading_it_has_the_same_time(loaded, tiny_run):
    with run_server(loaded, open_run(tiny_run), client_timeout_s=0.5) as server, ExitStack() as stack:
        opened = connect(stack, server.url, WITHOUT_KEY)
        began = time.monotonic()
        assert read_all(opened).startswith(b"HTTP/1.1 401 ")
        assert time.monotonic() - began < 5


async def answer_much(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(400):
        await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


def test_a_client_that_does_not_read_its_answer_is_disconnected(capfd):
    with serve_app(answer_much, client_timeout_s=0.5) as (server, url), ExitStack() as stack:
        connect(stack, url, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: len(server.server_state.connections) == 1)
        wait_until(lambda: not server.server_state.connections, 10)
        wait_until(lambda: not server.server_state.tasks)
        assert len(httpx.get(url).content) == 40_000_000  # one that reads gets everything, however long it is


def test_connections_that_are_being_answered_are_not_closed_for_new_ones():
    may_go = threading.Event()

    async def answer_late(scope, receive, send):
        import asyncio

        while not may_go.is_set():
            await asyncio.sleep(0.02)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with serve_app(answer_late, max_connections=2) as (server, url), ExitStack() as stack:
        request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        opened = [connect(stack, url, request) for _ in range(2)]
        wait_until(lambda: len(server.server_state.tasks) == 2)
        refused = connect(stack, url, b"")
        assert read_all(refused).startswith(b"HTTP/1.1 503 ")
        may_go.set()
        assert all(read_all(connection).endswith(b"\r\n\r\nok") for connection in opened)


def test_what_is_no_http_is_refused_in_openais_shape(server):
    with ExitStack() as stack:
        for sent in (
            b"\x16\x03\x01\x02\x00",
            b"GET /health HTTP/1.1\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        ):
            head, _, body = read_all(connect(stack, server.url, sent + b"\r\n\r\n")).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 ")
            assert json.loads(body)["error"]["type"] == "invalid_request_error"
        # in the middle of an answer there is no room for another one
        connect(stack, server.url, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n\x00\x01\r\n\r\n").recv(65536)
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_clients_that_hang_up_in_the_middle_of_a_body_leave_no_trace_in_the_log(loaded, tiny_run, capfd):
    with run_server(loaded, open_run(tiny_run)) as server:
        for _ in range(20):
            with ExitStack() as stack:
                connect(stack, server.url, UNFINISHED_BODY)
        wait_until(lambda: server.service.metrics.requests["/v1/chat/completions", 499] == 20)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "raised"),
    [
        (1024, 4096, 512, None),
        (256, resource.RLIM_INFINITY, 512, 512 + RESERVED_FILES),
        (256, 500, 500 - RESERVED_FILES, 500),
        (64, 64, 1, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 512, None),
    ],
)
def test_connections_stay_below_the_limit_of_open_files_which_is_raised_where_it_may_be(
    monkeypatch, soft, hard, allowed, raised
):
    limits = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, given: limits.append(given))
    assert fit_open_files(512) == allowed
    assert limits == ([] if raised is None else [(raised, hard)])
