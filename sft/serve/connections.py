"""Connections: how many there may be, and how long a client may take to send its request and to read its answer.

uvicorn.Config(app, http=Connections(max_connections=512, client_timeout_s=30).accept)

uvicorn closes idle connections, but waits forever for the rest of a request and for a client that does not read. These
limits hold before any key is checked. Where there are too many connections, the oldest that has no whole request makes
room for the newest: clients that never finish a request cannot keep others out.
"""

import asyncio
import json
import logging
import resource

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from sft.serve.protocol import ApiError

BACKLOG = 128  # connections that asyncio accepts in one go, before the first of them can be closed again
RESERVED_FILES = 256  # open files of the process besides connections: a backlog of them, logs, libraries, devices
logger = logging.getLogger("sft.serve")


class Connections:
    """Shared state of a server's connections: limits, and which connections may be closed."""

    def __init__(self, *, max_connections: int, client_timeout_s: float) -> None:
        self.max_connections = max_connections
        self.client_timeout_s = client_timeout_s
        self.closable: dict[LimitedProtocol, None] = {}  # those that no answer is being written to, oldest first

    def accept(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> "LimitedProtocol":
        """The protocol of a new connection; uvicorn calls this as it would its own protocol class."""
        return LimitedProtocol(self, config, server_state, app_state, _loop)

    def make_room_for(self, newest: "LimitedProtocol") -> None:
        """Close the oldest connection without a whole request; where every one has one, refuse the newest."""
        oldest = next((connection for connection in self.closable if connection is not newest), None)
        if oldest is not None:
            logger.warning(
                "more than %d connections: the oldest without a complete request is closed", self.max_connections
            )
            oldest.abort()
            return
        logger.warning("more than %d connections that are being answered: a new one is refused", self.max_connections)
        newest.refuse(ApiError(503, f"{self.max_connections:,} connections are being answered; try again later"))


class LimitedProtocol(H11Protocol):
    """One connection under these limits. A clock runs whenever the client, and not the server, is the one to act."""

    def __init__(
        self,
        limits: Connections,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, object],
        loop: asyncio.AbstractEventLoop | None,
    ) -> None:
        super().__init__(config, server_state, app_state, loop)
        self.limits = limits
        self._sending_clock: asyncio.TimerHandle | None = None  # runs until a request is whole
        self._reading_clock: asyncio.TimerHandle | None = None  # runs while the client does not read its answer

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._follow()
        if len(self.connections) > self.limits.max_connections:
            self.limits.make_room_for(self)

    def data_received(self, data: bytes) -> None:
        """A part of a request has come."""
        super().data_received(data)
        self._follow()

    def on_response_complete(self) -> None:
        """An answer has been written; the next request may come."""
        super().on_response_complete()
        self._follow()

    def pause_writing(self) -> None:
        """More has been written than the client has read."""
        super().pause_writing()
        if self._reading_clock is None:
            self._reading_clock = self.loop.call_later(self.limits.client_timeout_s, self._end_unread)

    def resume_writing(self) -> None:
        """The client has read again."""
        super().resume_writing()
        self._stop_reading_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended, from either side."""
        self._forget()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP with an error in OpenAI's format, like every other error."""
        self.refuse(ApiError(400, msg))

    def refuse(self, error: ApiError) -> None:
        """Write an error, as far as the state of the connection allows one, and close."""
        body = json.dumps(error.to_json()).encode()
        headers = [("content-type", "application/json"), ("content-length", str(len(body))), ("connection", "close")]
        parts = (h11.Response(status_code=error.status, headers=headers), h11.Data(data=body), h11.EndOfMessage())
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            for part in parts:
                self.transport.write(self.conn.send(part) or b"")
        self.transport.close()

    def abort(self) -> None:
        """Close immediately, even with unread data; the slot is free from now on."""
        self._forget()
        self.transport.abort()

    @property
    def _is_receiving(self) -> bool:
        return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _follow(self) -> None:
        """Run the clock while a request may arrive until it is complete, and again after its answer."""
        is_answering = self.cycle is not None and not self.cycle.response_complete and not self._is_receiving
        if is_answering:
            self._stop_sending_clock()
            self.limits.closable.pop(self, None)
        elif self._sending_clock is None and self in self.connections:
            self._sending_clock = self.loop.call_later(self.limits.client_timeout_s, self._end_unfinished)
            self.limits.closable[self] = None

    def _end_unfinished(self) -> None:
        limit_s = self.limits.client_timeout_s
        if self.transport.is_closing() or self.conn.their_state is not h11.SEND_BODY:
            if not self.transport.is_closing() and self.conn.trailing_data[0]:
                logger.warning("a request's headers were not complete within %g s: the connection is closed", limit_s)
            self.abort()
            return
        logger.warning("a request's body was not complete within %g s: the connection is closed", limit_s)
        self.refuse(ApiError(408, f"the request was not complete within {limit_s:g} s", code="request_timeout"))
        self._sending_clock = self.loop.call_later(limit_s, self.abort)  # where the client does not read that either

    def _end_unread(self) -> None:
        logger.warning("an answer was not read for %g s: the connection is closed", self.limits.client_timeout_s)
        self.abort()

    def _forget(self) -> None:
        self._stop_sending_clock()
        self._stop_reading_clock()
        self.limits.closable.pop(self, None)

    def _stop_sending_clock(self) -> None:
        if self._sending_clock is not None:
            self._sending_clock.cancel()
            self._sending_clock = None

    def _stop_reading_clock(self) -> None:
        if self._reading_clock is not None:
            self._reading_clock.cancel()
            self._reading_clock = None


def fit_open_files(max_connections: int) -> int:
    """max_connections, or fewer where the process may not open this many files; that limit is raised first.

    Beyond it nothing could be accepted at all, not even to be refused.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max_connections + RESERVED_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return max_connections
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    if raised > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    return max(1, min(max_connections, max(raised, soft) - RESERVED_FILES))
