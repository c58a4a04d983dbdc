"""Settings of serve.py. The API key is no setting: it comes from QWEN_SFT_API_KEY alone, so that no log shows it."""

import re
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from sft.config.decoding import Preset
from sft.config.talk import MAX_SEQ_LENGTH, TalkSettings


class ServeSettings(TalkSettings):
    """Serve a run over HTTP as OpenAI's API: chat completions, streamed or whole, models, health, metrics."""

    prog: ClassVar[str] = "serve.py"

    host: str = Field("127.0.0.1", description="address to listen on; another than this machine's needs an API key")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0: any free one, which is printed")
    backend: Literal["native", "vllm"] = Field(
        "native", description="native: this project's generation; vllm: hand over to `vllm serve`"
    )
    name: str | None = Field(None, description="what clients call the model; default: the run folder's name")
    max_seq_length: int | None = MAX_SEQ_LENGTH  # of tasks; a chat may grow to what the model reads
    decoding: Preset = Field(
        "precise",
        description="where a request does not say how to draw: precise (greedy, as evaluate.py measures) or chat "
        "(drawn, with chat.py's penalties)",
    )
    max_tokens_limit: int = Field(2048, ge=1, description="most tokens of an answer that a request may ask for")
    max_body_bytes: int = Field(1_000_000, ge=1, description="largest request body")
    max_batch: int = Field(16, ge=1, description="answers written at the same time; more requests wait")
    max_waiting: int = Field(64, ge=0, description="requests that may wait; the next one gets status 429")
    max_connections: int = Field(
        512, ge=1, description="open connections; beyond, the oldest without a whole request is closed"
    )
    client_timeout_s: float = Field(
        30, gt=0, description="seconds a client may take to send a request, or to go on reading its answer"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="names besides localhost that requests may be sent to without an API key, separated by commas"
    )
    cors_origins: tuple[str, ...] = Field(
        (), description="addresses of web pages that may ask, separated by commas: http://localhost:3000; *: every page"
    )
    timeout_s: float = Field(300, gt=0, description="seconds a request may take, waiting included; then status 504")
    shutdown_timeout_s: float = Field(60, gt=0, description="seconds running answers have to finish after SIGTERM")

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin not in ("*", "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s,]+", origin):
                raise ValueError(f"{origin!r} is no origin; write http://localhost:3000, without a path, or *")
        return origins

    @field_validator("allowed_hosts")
    @classmethod
    def _are_names(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        for host in hosts:
            if not re.fullmatch(r"[\w.-]+|[0-9a-f:]+", host, re.IGNORECASE):
                raise ValueError(f"{host!r} is no host name; write chat.example.org, without scheme, port or path")
        return hosts

    @model_validator(mode="after")
    def _limits_are_of_this_server(self) -> "ServeSettings":
        for name in ("cors_origins", "allowed_hosts"):
            if self.backend == "vllm" and getattr(self, name):
                raise ValueError(f"{name} is for --backend native; vLLM takes --allowed-origins, and no host names")
        return self
