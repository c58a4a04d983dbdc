"""Settings of export.py. What the run folder knows (model, prompt, data and split) has no second default here."""

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from sft.config.layers import ResultSettings
from sft.config.tuned import TunedSettings

GgufType = Literal["f16", "q8_0", "q4_k_m"]


class ExportSettings(ResultSettings, TunedSettings):
    """Turn a run into weights others can load: merged, GGUF, or a repository on the hub; each checked first."""

    prog: ClassVar[str] = "export.py"
    examples: ClassVar[tuple[str, ...]] = (
        "python export.py --merge",
        "python export.py --gguf q8_0,q4_k_m --modelfile",
        "python export.py --push ada/reviews --dry_run",
    )
    common: ClassVar[tuple[str, ...]] = (
        "run", "adapter", "base", "output_dir", "merge", "gguf", "modelfile", "push", "dry_run", "data", "json_output",
    )  # fmt: skip
    sections: ClassVar[dict[str, str]] = {"output_dir": "Export"}

    output_dir: str | None = Field(None, description="where the files go; default: outputs/<run>/export")
    merge: bool = Field(
        False,
        description="write the base with the adapter merged into it to <output_dir>/merged, in the type of --dtype",
    )
    gguf: tuple[GgufType, ...] = Field(
        (), description="write GGUF files for llama.cpp and Ollama; several types are separated by commas"
    )
    modelfile: bool = Field(False, description="also write Ollama's Modelfile next to the GGUF file")
    push: str | None = Field(
        None,
        pattern=r"^[\w][\w.-]*/[\w][\w.-]*$",
        description="upload to this repository (owner/name): what --merge or --gguf wrote, or else the adapter",
    )
    private: bool = Field(True, description="create the repository as private (--no-private: public)")
    dry_run: bool = Field(False, description="with --push: list what would be uploaded, and upload nothing")
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto", description="number format of the merged weights; auto: that of the base"
    )
    num_prompts: int = Field(50, ge=1, description="held-out rows that the merged model is compared on")
    max_new_tokens: int = Field(24, ge=1, description="tokens of each greedy answer in that comparison")
    data: str | None = Field(None, description="rows to compare on; default: those the run held out")

    @model_validator(mode="after")
    def _something_to_do(self) -> "ExportSettings":
        if not (self.merge or self.gguf or self.push):
            raise ValueError("nothing to export: give --merge, --gguf q8_0 or --push owner/name")
        if self.modelfile and not self.gguf:
            raise ValueError("--modelfile describes a GGUF file: give --gguf q8_0 too")
        if self.dry_run and not self.push:
            raise ValueError("--dry_run lists what --push would send: give --push owner/name too")
        return self
