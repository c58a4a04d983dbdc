"""What every request passes first: the API key, or else a check of Host and Origin; and the counters of answers.

    app.add_middleware(Guard, api_key=read_api_key(host), hosts=("localhost", "127.0.0.1"), origins=(), metrics=metrics)

Without a key anybody on this machine may ask, and a web page in a browser here is not anybody: its requests carry the
page's address as Origin and, where the page's name has been pointed at this machine (DNS rebinding), as Host. The key
is read from the environment alone: a flag would be in `ps` and in the log.
"""

import hmac
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sft.console import say
from sft.errors import ConfigError
from sft.serve.metrics import ServerMetrics
from sft.serve.protocol import ApiError

OPEN_PATHS = ("/health", "/")  # for load balancers, without a key, and the page that asks for the key
UNLOGGED = (*OPEN_PATHS, "/metrics", "other")  # requested all the time, or for unknown paths
KEY_VARIABLE = "QWEN_SFT_API_KEY"
LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
UNREAD = (413, 415)  # refused before the body is read, which costs a client nothing and would fill a disk with lines
GONE = 499  # the client went away before it was answered


logger = logging.getLogger("sft.serve")


class Guard:
    """Plain ASGI, so that a stream passes through it piece by piece and counts when it has ended."""

    def __init__(
        self, app: ASGIApp, *, api_key: str | None, hosts: Sequence[str], origins: Sequence[str], metrics: ServerMetrics
    ) -> None:
        self.app = app
        self.api_key = api_key
        self.hosts = {host.lower() for host in hosts}
        self.origins = set(origins)
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's life."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), GONE

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            refusal = self._check_key(scope) if self.api_key is not None else self._check_sender(scope)
            if refusal is None:
                await self.app(scope, receive, send_noting)
            else:
                await error_response(refusal)(scope, receive, send_noting)
        finally:
            # Never a path of the client's choice: each would be a new counter.
            path = getattr(scope.get("route"), "path", "other")
            duration_s = time.monotonic() - started
            self.metrics.count_request(path, status, duration_s)
            if status in UNREAD:
                logger.warning(f"{scope['method']} {path} {status}")  # a kind, so that it is logged once a minute
            elif path not in UNLOGGED and status != GONE:  # thousands that hang up would fill a disk
                with suppress(OSError):  # nobody reads the log any more
                    say(f"{datetime.now():%H:%M:%S} {scope['method']} {path} {status} {duration_s:.2f} s")

    def _check_key(self, scope: Scope) -> ApiError | None:
        given = _header(scope, b"authorization").removeprefix("Bearer ")
        if scope["path"] in OPEN_PATHS or hmac.compare_digest(given.encode("latin-1"), str(self.api_key).encode()):
            return None
        return ApiError(401, "wrong or missing API key: send `Authorization: Bearer KEY`", code="invalid_api_key")

    def _check_sender(self, scope: Scope) -> ApiError | None:
        host, origin = _header(scope, b"host"), _header(scope, b"origin")
        if host_of(host) not in self.hosts:
            return ApiError(
                403,
                f"requests to Host {host[:100]!r} need a key; use a name of this machine, or "
                "start the server with --allowed_hosts",
                code="host_not_allowed",
            )
        if origin and not self.origins & {origin, "*"} and host_of(origin.partition("://")[2]) not in self.hosts:
            return ApiError(
                403,
                f"requests of web pages at {origin[:100]!r} are not answered; start the server with --cors_origins",
                code="origin_not_allowed",
            )
        return None


def host_of(address: str) -> str:
    """The name in an address with or without a port: "LocalHost:8000" -> "localhost", "[::1]:8000" -> "::1"."""
    host, colon, port = address.lower().rpartition(":")
    if not colon or not port.isdigit():
        host = address.lower()
    return host[1:-1] if host[:1] == "[" and host[-1:] == "]" else host


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def error_response(error: ApiError, headers: Mapping[str, str] | None = None) -> Response:
    """An ApiError as HTTP."""
    usual = {429: {"Retry-After": "1"}, 503: {"Retry-After": "1"}, 401: {"WWW-Authenticate": "Bearer"}}
    return JSONResponse(error.to_json(), error.status, {**usual.get(error.status, {}), **(headers or {})})


def read_api_key(host: str) -> str | None:
    """The key clients must send, None if none is set. Raises ConfigError for an open server without one."""
    key = os.environ.get(KEY_VARIABLE) or None
    if key is None and host not in LOCAL_HOSTS:
        raise ConfigError(f"--host {host} is open to others; set {KEY_VARIABLE}, or serve on 127.0.0.1")
    return key
