"""Who may ask: Host and Origin where there is no key, CORS where a flag allows it."""

import httpx
import pytest
from pydantic import ValidationError

from sft.config.serve import ServeSettings
from sft.runs.run import open_run
from sft.serve.guard import host_of
from tests.serve.conftest import KEY, run_server

BODY = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}


@pytest.fixture(scope="module")
def without_key(loaded, tiny_run):
    given = {"allowed_hosts": ("Box.example",), "cors_origins": ("http://allowed.example:3000",)}
    with run_server(loaded, open_run(tiny_run), key=None, **given) as server:
        yield server


def ask(server, **headers):
    return httpx.post(f"{server.url}/v1/chat/completions", json=BODY, headers=headers)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:1", "LOCALHOST:80", "127.0.0.1:9", "[::1]:8000", "box.example"]
)
def test_a_name_of_this_machine_is_answered_without_a_key(without_key, host):
    assert ask(without_key, Host=host).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "", "a@localhost"]
)
@pytest.mark.parametrize("path", ["/v1/models", "/health", "/metrics"])
def test_another_host_is_refused_wherever_its_name_points(without_key, host, path):
    answer = httpx.get(without_key.url + path, headers={"Host": host})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "host_not_allowed")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://localhost.evil.example", "http://allowed.example"]
)
def test_a_web_page_from_elsewhere_is_refused(without_key, origin):
    answer = ask(without_key, Origin=origin)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["http://localhost:8000", "http://127.0.0.1", "http://allowed.example:3000"])
def test_a_page_of_this_machine_or_of_the_flag_is_answered(without_key, origin):
    answer = ask(without_key, Origin=origin)
    assert answer.status_code == 200
    allowed = origin if "allowed" in origin else None
    assert answer.headers.get("access-control-allow-origin") == allowed


def preflight(server, origin):
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    return httpx.options(f"{server.url}/v1/chat/completions", headers={"Origin": origin, **wanted})


def test_browsers_may_ask_only_from_the_origins_of_the_flag(without_key, server, loaded, tiny_run):
    found = preflight(without_key, "http://allowed.example:3000")
    assert (found.status_code, found.headers["access-control-allow-origin"]) == (200, "http://allowed.example:3000")
    assert preflight(without_key, "http://evil.example").status_code == 400
    off = preflight(server, "http://allowed.example:3000")  # off unless the flag is given
    assert off.status_code in (401, 405)
    assert "access-control-allow-origin" not in off.headers
    with run_server(loaded, open_run(tiny_run), cors_origins=("*",)) as open_to_pages:
        assert preflight(open_to_pages, "https://any.example").status_code == 200
        assert ask(open_to_pages, Origin="https://any.example").status_code == 401  # the key is asked for all the same
        assert ask(open_to_pages, Origin="https://any.example", Authorization=f"Bearer {KEY}").status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_a_body_that_a_form_could_send_is_refused(without_key, content_type):
    answer = ask(without_key, **{"Content-Type": content_type})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_the_content_type_may_name_its_characters(without_key):
    assert ask(without_key, **{"Content-Type": "Application/JSON; charset=utf-8"}).status_code == 200


def test_a_host_is_read_with_and_without_a_port():
    addresses = ["LocalHost:8000", "localhost", "[::1]:80", "[::1]", "127.0.0.1:", "a:b", ""]
    assert [host_of(address) for address in addresses] == [
        "localhost",
        "localhost",
        "::1",
        "::1",
        "127.0.0.1:",
        "a:b",
        "",
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cors_origins": ("http://localhost:3000/",)}, "is no origin; write http://localhost:3000, without a path"),
        ({"cors_origins": ("localhost",)}, "is no origin"),
        ({"allowed_hosts": ("http://box",)}, "is no host name; write chat.example.org"),
        ({"allowed_hosts": ("box:8000",)}, "is no host name"),
        ({"cors_origins": ("*",), "backend": "vllm"}, "cors_origins is for --backend native"),
    ],
)
def test_hosts_and_origins_are_checked_before_anything_is_loaded(given, message):
    with pytest.raises(ValidationError, match=message):
        ServeSettings(**given)
