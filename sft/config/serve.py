"""Settings of serve.py. The API key is not a setting: it comes only from QWEN_SFT_API_KEY, so that no log shows it."""

import re
from typing import ClassVar, Literal

from pydantic import AliasChoices, Field, field_validator, model_validator

from sft.config.decoding import Preset
from sft.config.talk import MAX_SEQ_LENGTH, TalkSettings
from sft.errors import ConfigError


class ServeSettings(TalkSettings):
    """Serve a run over HTTP as OpenAI's API: chat completions, streamed or whole, models, health, metrics."""

    prog: ClassVar[str] = "serve.py"
    examples: ClassVar[tuple[str, ...]] = (
        "python serve.py",
        "python serve.py --run outputs/demo --name demo --port 8080",
        "python serve.py --backend vllm",
    )
    common: ClassVar[tuple[str, ...]] = (
        "run", "model", "name", "host", "port", "backend", "decoding", "max_new_tokens", "max_batch", "allowed_hosts",
    )  # fmt: skip
    sections: ClassVar[dict[str, str]] = {"host": "Server", "max_tokens_limit": "Limits", "allowed_hosts": "Access",
                                          "timeout_s": "Limits"}  # fmt: skip

    host: str = Field("127.0.0.1", description="address to listen on; any but this machine's own needs an API key")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0: any free one, which is printed")
    backend: Literal["native", "vllm"] = Field(
        "native", description="native: this project's own generation; vllm: start `vllm serve` on the run"
    )
    name: str | None = Field(None, description="what clients call the model; default: the run folder's name")
    max_seq_length: int | None = MAX_SEQ_LENGTH  # for tasks; a chat may use the model's whole context
    decoding: Preset = Field(
        "precise",
        description="used if a request sets no sampling: precise (greedy, as evaluate.py measures) or chat (sampled, "
        "with chat.py's penalties)",
    )
    max_tokens_limit: int = Field(2048, ge=1, description="most tokens of an answer that a request may ask for")
    max_body_bytes: int = Field(1_000_000, ge=1, description="largest request body")
    max_batch: int = Field(16, ge=1, description="answers generated at the same time; further requests wait")
    max_waiting: int = Field(64, ge=0, description="requests that may wait; further ones get status 429")
    max_connections: int = Field(
        512, ge=1, description="open connections; beyond that the oldest one without a complete request is closed"
    )
    client_timeout_s: float = Field(
        30, gt=0, description="seconds a client may take to send a request or to read more of its answer"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="host names besides localhost that are served without an API key, separated by commas"
    )
    cors_origins: tuple[str, ...] = Field(
        (),
        validation_alias=AliasChoices("cors_origins", "cors"),
        description="origins of web pages that may send requests, separated by commas: http://localhost:3000; *: any",
    )
    timeout_s: float = Field(300, gt=0, description="seconds a request may take, including waiting; then status 504")
    shutdown_timeout_s: float = Field(60, gt=0, description="seconds running answers have to finish after SIGTERM")

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin not in ("*", "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s,]+", origin):
                raise ValueError(f"{origin!r} is no origin; write http://localhost:3000, without a path, or *")
        return origins

    @field_validator("host")
    @classmethod
    def _is_address(cls, host: str) -> str:
        if not re.fullmatch(r"[\w.-]+|[0-9a-f:.]+(%\w+)?", host, re.IGNORECASE):  # not repeated: it may hold a password
            raise ConfigError(
                "host: no address to listen on; write 127.0.0.1, 0.0.0.0 or a name, no scheme, user or port"
            )
        return host

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
