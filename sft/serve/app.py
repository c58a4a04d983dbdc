"""The HTTP side: routes, who may ask, body limit, time limit, errors in OpenAI's shape.

app = build_app(Service(engine, settings, list_served("demo", run), run.system_prompt, None, limits))
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from prompts import Message, PromptError, Rules
from sft.config.serve import ServeSettings
from sft.serve.engine import Engine
from sft.serve.guard import GONE, LOCAL_HOSTS, Guard, error_response
from sft.serve.metrics import ServerMetrics
from sft.serve.page import show_page
from sft.serve.protocol import (
    DONE,
    ERROR_SCHEMA,
    JSON,
    ApiError,
    ChatRequest,
    call_deltas,
    chunk,
    completion,
    describe_request,
    event,
    read_request,
    usage,
    usage_chunk,
)
from sft.serve.replies import Answer, Piece, decide_decoding, prepare_answer, read_parsed, write_answer
from sft.serve.served import Asked, Served, ask

Read = TypeVar("Read")
STEP_S = 30  # a step that is being computed cannot be left: seconds it has to come to its end
ERROR: JSON = {"description": "an error in OpenAI's shape", "content": {"application/json": {"schema": ERROR_SCHEMA}}}
REQUEST_BODY = {
    "required": True,
    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}},
}
WRITTEN: JSON = {"application/json": {"schema": {"type": "object", "required": ["id", "choices", "usage"]}}}
ANSWERS: dict[int | str, JSON] = {
    200: {"description": "the answer, whole or as events", "content": WRITTEN | {"text/event-stream": {}}},
    **dict.fromkeys((400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504), ERROR),
}


@dataclass
class Service:
    """Everything the routes share."""

    engine: Engine
    settings: ServeSettings
    served: dict[str, Served]
    system_prompt: str | None
    api_key: str | None
    limits: Rules  # of the texts of tasks
    metrics: ServerMetrics = field(default_factory=ServerMetrics)
    started: int = field(default_factory=lambda: int(time.time()))
    preparing: asyncio.Lock = field(default_factory=asyncio.Lock)  # texts become tokens one request after another
    clocks: set[asyncio.Timeout] = field(default_factory=set)  # one for each answer that is being waited for
    num_cut_off: int = 0
    is_cut_off: bool = False

    def cut_off(self) -> None:
        """Tell every running answer, and each that is still to come, that the server ends."""
        self.is_cut_off = True
        for clock in self.clocks:
            if not clock.expired():
                clock.reschedule(0)

    @property
    def hosts(self) -> tuple[str, ...]:
        """Host names accepted without a key: those of this machine, and --allowed_hosts."""
        return (*LOCAL_HOSTS, self.settings.host, *self.settings.allowed_hosts)


def build_app(service: Service) -> FastAPI:
    """The application; on shutdown it waits for the engine to finish its current work."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.engine.close, service.settings.shutdown_timeout_s + STEP_S)

    app = FastAPI(title="qwen-sft", lifespan=lifespan, docs_url=None, redoc_url=None)  # /openapi.json: behind the key
    app.openapi = lambda: describe_api(app, service.served)  # type: ignore[method-assign]

    @app.get("/", response_class=HTMLResponse)
    async def page() -> Response:
        return show_page()

    @app.get("/health", responses={503: {"description": "the engine has ended, or is stalled"}})
    async def health() -> Response:
        return _describe_health(service)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        gauges = {"running": service.engine.num_running, "waiting": service.engine.num_waiting}
        return PlainTextResponse(service.metrics.render(gauges), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models")
    async def models() -> JSON:
        return {"object": "list", "data": [_describe_model(service, served) for served in service.served.values()]}

    @app.get("/v1/models/{name:path}", responses={404: ERROR})
    async def model(name: str) -> JSON:
        return _describe_model(service, _find_served(service, name))

    @app.post("/v1/chat/completions", openapi_extra={"requestBody": REQUEST_BODY}, responses=ANSWERS)
    async def chat_completions(request: Request) -> Response:
        return await answer_request(service, request)

    @app.exception_handler(ApiError)
    async def refuse(_: Request, error: ApiError) -> Response:
        return error_response(error)

    @app.exception_handler(PromptError)
    async def refuse_prompt(_: Request, error: PromptError) -> Response:
        return error_response(
            ApiError(400, str(error).removesuffix("; fix the row"), code="invalid_value", param="messages")
        )

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> Response:
        refusal = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
        return error_response(refusal, error.headers)

    @app.exception_handler(Exception)
    async def fail(_: Request, error: Exception) -> Response:
        return error_response(ApiError(500, "the server failed on this request; see its log"))

    origins = service.settings.cors_origins
    app.add_middleware(Guard, api_key=service.api_key, hosts=service.hosts, origins=origins, metrics=service.metrics)
    if origins:  # outermost: a browser's preflight carries no key
        methods = ["GET", "POST"]
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=methods, allow_headers=["*"])
    return app


def describe_api(app: FastAPI, names: Iterable[str]) -> JSON:
    """The API as OpenAPI describes one, with the fields of a request and the names of the models."""
    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version="1", routes=app.routes)
        found.setdefault("components", {}).setdefault("schemas", {}).update(describe_request(names))
        app.openapi_schema = found
    return app.openapi_schema


async def answer_request(service: Service, request: Request) -> Response:
    """A chat completion, whole or as a stream of events."""
    _check_content_type(request)
    asked = read_request(await read_body(request, service.settings.max_body_bytes))
    served = _find_served(service, asked.model)
    async with service.preparing:  # in a thread, so that a long text does not keep /health and streams waiting
        answer = await asyncio.to_thread(_prepare, service, served, asked)
    head: JSON = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}
    pieces = with_time_limit(service, write_answer(service.engine, answer))
    if asked.stream:
        # What is refused at once gets a status, not an event after a 200.
        first = await _unless_gone(request, _read_first(pieces))
        return StreamingResponse(
            stream_events(service, asked, answer, head, first, pieces), media_type="text/event-stream"
        )
    async with aclosing(pieces):
        message = await _unless_gone(request, _read_all(pieces))
    service.metrics.count_tokens(len(answer.prompt_ids), answer.num_written)
    used = usage(len(answer.prompt_ids), answer.num_written)
    extra = read_parsed(answer, message["content"])
    return JSONResponse(completion(head, message, answer.finish_reason, used, extra))


async def stream_events(
    service: Service, asked: ChatRequest, answer: Answer, head: JSON, first: Piece, pieces: AsyncGenerator[Piece]
) -> AsyncIterator[bytes]:
    """Server-sent events of an answer; an error on the way is an event, since the status is sent already."""
    try:
        async with aclosing(pieces):
            begun: JSON = {"role": "assistant"}
            for delta in _deltas_of(first):
                yield event(chunk(head, begun | delta))
                begun = {}
            text = first.text if first.kind == "content" else ""
            async for piece in pieces:
                text += piece.text if piece.kind == "content" else ""
                for delta in _deltas_of(piece):
                    yield event(chunk(head, delta))
        yield event(chunk(head, read_parsed(answer, text), answer.finish_reason))
        if asked.stream_options and asked.stream_options.include_usage:
            yield event(usage_chunk(head, usage(len(answer.prompt_ids), answer.num_written)))
        yield DONE
    except ApiError as error:
        yield event(error.to_json())
    finally:
        service.metrics.count_tokens(len(answer.prompt_ids), answer.num_written)


def _deltas_of(piece: Piece) -> list[JSON]:
    return call_deltas(piece.calls) if piece.kind == "tool_calls" else [{piece.kind: piece.text}]


async def read_body(request: Request, limit: int) -> bytes:
    """The body, read no further than the limit. Raises ApiError 413."""
    too_large = ApiError(413, f"the body may have {limit:,} bytes", code="body_too_large")
    if int(request.headers.get("content-length") or 0) > limit:
        raise too_large
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise too_large
    except ClientDisconnect:
        raise _gone() from None
    return bytes(body)


def _gone() -> ApiError:
    return ApiError(GONE, "the client went away")


async def with_time_limit(service: Service, pieces: AsyncGenerator[Piece]) -> AsyncGenerator[Piece]:
    """Pass the pieces on; ApiError 504 if the last one takes longer than timeout_s, 503 if the server ends before."""
    limit_s = service.settings.timeout_s
    ends = asyncio.get_running_loop().time() + limit_s
    async with aclosing(pieces):
        while True:
            clock = asyncio.timeout_at(0 if service.is_cut_off else ends)
            service.clocks.add(clock)
            try:
                async with clock:
                    piece = await anext(pieces)
            except StopAsyncIteration:
                return
            except TimeoutError:
                if service.is_cut_off:
                    service.num_cut_off += 1
                    raise ApiError(503, "the server is shutting down; try again later", code="server_ending") from None
                raise ApiError(504, f"no complete answer within {limit_s:g} s", code="timeout") from None
            finally:
                service.clocks.discard(clock)
            yield piece


async def _read_all(pieces: AsyncGenerator[Piece]) -> Message:
    """The whole answer: {"role": "assistant", "content": "hello"}."""
    message: Message = {"role": "assistant", "content": ""}
    async for piece in pieces:
        if piece.kind == "content":
            message["content"] += piece.text
        elif piece.kind == "reasoning_content":
            message["reasoning_content"] = message.get("reasoning_content", "") + piece.text
        else:
            message["tool_calls"] = piece.calls
    return message


async def _read_first(pieces: AsyncGenerator[Piece]) -> Piece:
    async for piece in pieces:  # not anext(pieces, Piece("content")): Python fails on a default that is a tuple
        return piece
    return Piece("content")


async def _unless_gone(request: Request, reading: Coroutine[None, None, Read]) -> Read:
    """What is being read; ApiError GONE, which stops the model, where the client hangs up before."""

    async def wait_until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    read, gone = asyncio.ensure_future(reading), asyncio.ensure_future(wait_until_gone())
    try:
        await asyncio.wait({read, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not read.done():
            raise _gone()
        return read.result()
    finally:
        for task in (read, gone):
            task.cancel()
        await asyncio.gather(read, gone, return_exceptions=True)


def _prepare(service: Service, served: Served, asked: ChatRequest) -> Answer:
    turns = [turn.to_message() for turn in asked.messages]
    head = service.engine.loaded.head
    prepared = ask(served, turns, service.system_prompt, asked.category, head, asked.offered)
    return prepare_answer(service.engine.loaded, service.settings, asked, prepared, service.limits)


def _check_content_type(request: Request) -> None:
    """A web page may send any text to any address, but JSON only to one that allows it. Raises ApiError 415."""
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(
            415, "the body has to be JSON: send `Content-Type: application/json`", code="unsupported_media_type"
        )


def _describe_health(service: Service) -> Response:
    """200 while requests are answered; 503 where the engine has ended, or a step takes longer than timeout_s."""
    engine = service.engine
    age_s = engine.step_age_s
    status = "ok" if engine.is_alive else "ended"
    if engine.is_alive and age_s > service.settings.timeout_s:
        status = "stalled"
    found = {
        "status": status,
        "running": engine.num_running,
        "waiting": engine.num_waiting,
        "step_age_s": round(age_s, 3),
    }
    return JSONResponse(found, 200 if status == "ok" else 503)


def _find_served(service: Service, name: str) -> Served:
    if name not in service.served:
        known = ", ".join(service.served)
        raise ApiError(404, f"no model {name[:100]!r}; there are {known}", code="model_not_found", param="model")
    return service.served[name]


def _describe_model(service: Service, served: Served) -> JSON:
    """A model as OpenAI describes it, with its prompt and default decoding for the page."""
    task = served.task
    decoding = decide_decoding(
        service.settings, ChatRequest.model_construct(model=served.name, messages=[]), Asked([], task)
    )
    return {
        "id": served.name,
        "object": "model",
        "created": service.started,
        "owned_by": "qwen-sft",
        "task": task and task.name,
        "kind": task.kind if task else "chat",
        "base": served.base,
        "is_base": served.is_base,
        "prompt": served.build_prompt(service.system_prompt),
        "example": {name: task.example[name] for name in task.prompt_fields} if task else {},
        "decoding": decoding.model_dump(),
        "max_tokens_limit": service.settings.max_tokens_limit,
    }
