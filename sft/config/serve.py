"""Settings of serve.py. The API key is no setting: it comes from QWEN_SFT_API_KEY alone, so that no log shows it."""

from typing import ClassVar, Literal

from pydantic import Field

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
    timeout_s: float = Field(300, gt=0, description="seconds a request may take, waiting included; then status 504")
    shutdown_timeout_s: float = Field(60, gt=0, description="seconds running answers have to finish after SIGTERM")
