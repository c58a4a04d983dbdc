"""The tuned model of a command: a run, or only tuned weights, made here or elsewhere. All scripts share these flags.

--run outputs/demo                          a run folder, which knows its base and its prompt
--run saves/lora, --adapter saves/lora      an adapter by itself; --model names its base where its own files do not
--base /models/Qwen2.5-7B-Instruct          the run's base has moved
"""

from typing import ClassVar

from pydantic import Field, model_validator

from sft.config.layers import Settings


class TunedSettings(Settings):
    """What names a tuned model; every script that loads one takes these."""

    sections: ClassVar[dict[str, str]] = {"run": "Model"}
    texts: ClassVar[tuple[str, ...]] = ("system_prompt",)

    run: str | None = Field(
        None, description="run folder, or the folder of an adapter or of tuned weights alone; default: outputs/latest"
    )
    adapter: str | None = Field(
        None,
        description="instead of a run: an adapter of PEFT's (folder or hub id) on the base that --model names, or else "
        "on the one that its adapter_config.json does",
    )
    model: str | None = Field(
        None,
        description="the base of --adapter; alone: this model as it is instead of a run (embedded, a hub id, a folder)",
    )
    base: str | None = Field(
        None, description="where the base of the run is now (folder or hub id), if no longer where it was in training"
    )
    system_prompt: str | None = Field(None, description="system prompt of weights whose run.json is missing")
    allow_mismatch: bool = Field(False, description="continue even if model, tokenizer or prompt differ from training")
    trust_remote_code: bool = Field(
        False, description="run model code that comes with the weights; a run trained with it needs this flag again"
    )

    @property
    def is_untuned(self) -> bool:
        """Whether only --model is given: an untuned model."""
        return self.model is not None and self.adapter is None

    @model_validator(mode="after")
    def _one_model(self) -> "TunedSettings":
        if self.run is not None and self.adapter is not None:
            raise ValueError("run and adapter are both given; keep one: both name the tuned weights")
        if self.run is not None and self.model is not None:
            raise ValueError(
                "run and model are both given; keep --run (a tuned model; --base says where its base is) or --model "
                "(an untuned one)"
            )
        if self.base is not None and self.model is not None:
            raise ValueError("base and model are both given; keep one: both name the base")
        return self
