"""What every request passes first: the API key; and what every answer is counted by.

app.add_middleware(Guard, api_key="...", metrics=metrics)
"""

import hmac
import time

from fastapi.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sft.serve.metrics import ServerMetrics
from sft.serve.protocol import ApiError

OPEN_PATHS = ("/health",)  # what a load balancer asks without a key


class Guard:
    """Plain ASGI, so that a stream passes through it piece by piece and counts when it has ended."""

    def __init__(self, app: ASGIApp, *, api_key: str | None, metrics: ServerMetrics) -> None:
        self.app = app
        self.api_key = api_key
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the application's life."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 499  # 499: gone before it was answered

        async def send_noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if self._is_allowed(scope):
                await self.app(scope, receive, send_noting)
            else:
                refusal = ApiError(
                    401, "wrong or missing API key: send `Authorization: Bearer KEY`", code="invalid_api_key"
                )
                await error_response(refusal)(scope, receive, send_noting)
        finally:
            # Never a path of the client's choice: each would be a new counter.
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.count_request(path, status, time.monotonic() - started)

    def _is_allowed(self, scope: Scope) -> bool:
        if self.api_key is None or scope["path"] in OPEN_PATHS:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"").removeprefix(b"Bearer ")
        return hmac.compare_digest(given, self.api_key.encode())


def error_response(error: ApiError) -> Response:
    """An ApiError as HTTP."""
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error.to_json(), status_code=error.status, headers=headers)
