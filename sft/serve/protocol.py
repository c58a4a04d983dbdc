"""OpenAI's chat completions as data: fields of requests, shapes of answers and errors. Pure.

read_request(b'{"model": "demo", "messages": [...]}')     # ChatRequest, or ApiError 400 saying which field is wrong

Source: the API reference of OpenAI and the types of its Python package, which tests/serve talks with.
"""

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from prompts import Message, Tool, ToolCall
from prompts.tools import order_results, write_openai_calls
from sft.data.rows.tools import read_calls

JSON = dict[str, object]


class ApiError(Exception):
    """An answer that is an error, in OpenAI's shape: ApiError(404, "no model 'x'", code="model_not_found")."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param

    @property
    def type(self) -> str:
        """OpenAI's family of the error, which clients turn into an exception class."""
        if self.status >= 500:
            return "server_error"
        return {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}.get(
            self.status, "invalid_request_error"
        )

    def to_json(self) -> JSON:
        """{"error": {"message": ..., "type": ..., "param": ..., "code": ...}}."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}


ERROR_SCHEMA: JSON = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "object", "required": ["message", "type", "param", "code"]}},
}
ANSWER_FIELDS = (
    "annotations", "tool_calls", "reasoning_content", "parsed", "problem", "confidence", "probabilities", "num_cut"
)  # fmt: skip


class _Strict(BaseModel):
    # strict: "5" and true are no integers; what OpenAI refuses is not guessed at here either
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, fields: object) -> object:
        """Ignore null fields: clients send every field they know, most of them null."""
        return (
            {name: value for name, value in fields.items() if value is not None} if isinstance(fields, dict) else fields
        )


class CalledFunction(_Strict):
    """A function that was called; its arguments are JSON text."""

    name: str
    arguments: str = "{}"


class SentCall(_Strict):
    """A call as it comes back in an answer of the history."""

    id: str | None = None
    type: Literal["function"] = "function"
    index: int | None = None
    function: CalledFunction


class Function(_Strict):
    """A function that may be called. strict: arguments are not forced into their schema here."""

    name: str
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: Literal[False] | None = None


class OfferedTool(_Strict):
    """A tool of a request; functions are all there is."""

    type: Literal["function"]
    function: Function


class Turn(_Strict):
    """A message as clients send it; `developer` is OpenAI's newer word for system.

    An answer may come back as it was given, this server's own fields included; its text, calls and thought are read.
    A tool's message is the function's result, after the answer that called it.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str
    name: str | None = None
    tool_call_id: str | None = None
    refusal: None = None
    annotations: Annotated[list[object], Field(max_length=0)] | None = None
    tool_calls: list[SentCall] | None = None
    reasoning_content: str | None = None
    parsed: object = None
    problem: object = None
    confidence: object = None
    probabilities: object = None
    num_cut: object = None

    @model_validator(mode="before")
    @classmethod
    def _say_nothing_beside_calls(cls, fields: object) -> object:
        """An answer that only calls has null for its content."""
        if isinstance(fields, dict) and fields.get("tool_calls") and fields.get("content") is None:
            return {**fields, "content": ""}
        return fields

    @field_validator("content", mode="before")
    @classmethod
    def _join_parts(cls, content: object) -> object:
        """[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}] -> "ab"."""
        if not isinstance(content, list):
            return content
        if not content:
            raise ValueError("should have at least one part")
        return "".join(_read_part(number, part) for number, part in enumerate(content))

    @model_validator(mode="after")
    def _only_answers_have_results(self) -> Self:
        if self.role != "assistant":
            for name in ANSWER_FIELDS:
                if getattr(self, name) is not None:
                    raise ValueError(f"a {self.role} message has no {name}")
        return self

    def to_message(self) -> Message:
        """The message for prompts/: {"role": "user", "content": "hello"}. Raises PromptError for invalid calls."""
        message: Message = {"role": "system" if self.role == "developer" else self.role, "content": self.content}
        if self.reasoning_content:
            message["reasoning_content"] = self.reasoning_content
        if self.tool_calls:
            message["tool_calls"] = read_calls("tool_calls", [call.function.model_dump() for call in self.tool_calls])
        return message


def _read_part(number: int, part: object) -> str:
    """The text of a part of a message: {"type": "text", "text": "hello"} -> "hello"."""
    if not isinstance(part, dict):
        raise ValueError(f"part {number} should be an object")
    given = {name: value for name, value in part.items() if value is not None}
    if given.get("type") != "text":
        raise ValueError(
            f"part {number} is {str(given.get('type'))[:40]!r}; this server reads parts of type 'text' alone"
        )
    text = given.get("text")
    if not isinstance(text, str):
        raise ValueError(f"part {number}: text should be a string")
    if more := sorted(given.keys() - {"type", "text"}):
        raise ValueError(f"part {number}: this server does not take {more[0][:40]!r}")
    return text


class StreamOptions(_Strict):
    """Fields of a stream besides the answer."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextFormat(_Strict):
    """The one response format there is."""

    type: Literal["text"]


class ChatRequest(_Strict):
    """A request for a chat completion. What this server cannot do is refused by name, not ignored.

    The last three fields are this server's own; OpenAI's client sends them with extra_body.
    """

    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = None
    stop: Annotated[list[str], Field(max_length=4)] | None = None
    n: int | None = Field(None, ge=1, le=1)
    frequency_penalty: float | None = Field(None, ge=0, le=0)
    presence_penalty: float | None = Field(None, ge=0, le=0)
    logprobs: Literal[False] | None = None
    top_logprobs: int | None = Field(None, ge=0, le=0)
    logit_bias: Annotated[dict[str, object], Field(max_length=0)] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    tools: list[dict[str, object]] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: Literal[True] | None = None
    response_format: TextFormat | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    repetition_penalty: float | None = Field(None, gt=0)
    no_repeat_ngram_size: int | None = Field(None, ge=0)
    category: list[str] | None = None  # task news: the labels to choose from

    @field_validator("messages", mode="before")
    @classmethod
    def _beside_their_calls(cls, messages: object) -> object:
        return order_results(messages) if isinstance(messages, list) else messages

    @field_validator("stop", mode="before")
    @classmethod
    def _listed(cls, stop: object) -> object:
        return [stop] if isinstance(stop, str) else stop

    @field_validator("tools")
    @classmethod
    def _check_tools(cls, tools: list[dict[str, object]] | None) -> list[dict[str, object]] | None:
        """Tools stay as they were sent, so that they are rendered as the client wrote them."""
        for number, tool in enumerate(tools or ()):
            try:
                OfferedTool.model_validate(tool)
            except ValidationError as error:
                raise ValueError(f"{number}: {_explain(error)}") from None
        return tools

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if None not in (old := self.max_tokens, new := self.max_completion_tokens) and old != new:
            raise ValueError(f"max_tokens {old:,} and max_completion_tokens {new:,} are one limit; send one of them")
        return self

    @property
    def offered(self) -> list[Tool]:
        """The tools in the prompt; none if tool_choice is "none"."""
        return [] if self.tool_choice == "none" else self.tools or []

    @property
    def stops(self) -> list[str]:
        """Texts that end an answer, without the empty ones."""
        return [text for text in self.stop or [] if text]

    @property
    def token_limit(self) -> int | None:
        """The requested maximum of tokens, under its new or its old name."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


def read_request(body: bytes) -> ChatRequest:
    """A request's body. Raises ApiError 400 that names the first field that is wrong."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"the body is not JSON ({error})", code="invalid_json") from None
    if not isinstance(content, dict):
        raise ApiError(400, "the body is no JSON object", code="invalid_json")
    try:
        return ChatRequest.model_validate(content)
    except ValidationError as error:
        raise _explain(error) from None


def describe_request(names: Iterable[str]) -> JSON:
    """JSON schemas of ChatRequest and of all it holds, as OpenAPI names them: {"ChatRequest": {...}, "Turn": {...}}."""
    schema = ChatRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema["properties"]["model"]["enum"] = [*names]
    return {**schema.pop("$defs"), "ChatRequest": schema}


def _explain(error: ValidationError) -> ApiError:
    finding = error.errors(include_url=False)[0]
    param = ".".join(str(part) for part in finding["loc"]) or None
    message = finding["msg"].removeprefix("Input ").removeprefix("Value error, ")
    if finding["type"] == "extra_forbidden":
        return ApiError(400, f"{param}: this server does not take it", code="unknown_parameter", param=param)
    return ApiError(400, f"{param}: {message}" if param else message, code="invalid_value", param=param)


def usage(num_prompt: int, num_written: int) -> JSON:
    """Tokens of prompt and answer."""
    return {"prompt_tokens": num_prompt, "completion_tokens": num_written, "total_tokens": num_prompt + num_written}


def completion(head: JSON, answered: Message, finish_reason: str, used: JSON, extra: JSON) -> JSON:
    """A whole answer; head: id, created and model. extra: the task's reading of it."""
    content: str | None = answered["content"]
    message: JSON = {"role": "assistant", "content": content, "refusal": None}
    if "reasoning_content" in answered:
        message["reasoning_content"] = answered["reasoning_content"]
    if calls := answered.get("tool_calls"):
        message |= {"content": content or None, "tool_calls": name_calls(calls)}
    message |= extra
    choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}
    return {**head, "object": "chat.completion", "choices": [choice], "usage": used}


def name_calls(calls: Sequence[ToolCall]) -> list[JSON]:
    """Calls as OpenAI writes them, each with an id of its own that its result may name."""
    return [{"id": f"call_{uuid.uuid4().hex[:24]}", **call} for call in write_openai_calls(calls)]


def call_deltas(calls: Sequence[ToolCall]) -> list[JSON]:
    """The pieces of a stream for calls: for each its name, then its arguments."""
    deltas: list[JSON] = []
    for index, call in enumerate(name_calls(calls)):
        function = call["function"]
        assert isinstance(function, dict)
        named = {**call, "index": index, "function": {**function, "arguments": ""}}
        told = {"index": index, "function": {"arguments": function["arguments"]}}
        deltas += [{"tool_calls": [named]}, {"tool_calls": [told]}]
    return deltas


def chunk(head: JSON, delta: JSON, finish_reason: str | None = None) -> JSON:
    """A piece of a streamed answer."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
    return {**head, "object": "chat.completion.chunk", "choices": [choice]}


def usage_chunk(head: JSON, used: JSON) -> JSON:
    """The last piece of a stream with include_usage."""
    return {**head, "object": "chat.completion.chunk", "choices": [], "usage": used}


def event(content: JSON) -> bytes:
    """A server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


DONE = b"data: [DONE]\n\n"
