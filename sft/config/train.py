"""Settings of train.py. The defaults are the reference recipe for Qwen2.5-7B-Instruct (recipes/ has it spelled out)."""

from typing import ClassVar, Literal

from pydantic import AliasChoices, Field

from prompts import EXPERT_SYSTEM_PROMPT
from sft.config.layers import ResultSettings, read_boolean
from sft.errors import ConfigError

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class TrainSettings(ResultSettings):
    """Fine-tune a chat model on a dataset folder or a file of rows. Writes outputs/<run>/."""

    prog: ClassVar[str] = "train.py"

    data: str = Field("data/mixed", description="dataset folder, or one file of rows in any accepted form")
    output_dir: str | None = Field(None, description="the run folder; default outputs/<date>-<recipe>")

    model: str = Field(
        "auto", description="embedded, a hub id, a folder, or auto (Qwen2.5-7B-Instruct if a GPU has room)"
    )
    revision: str | None = Field(None, description="hub revision (branch, tag or commit) of the model")
    backend: Literal["auto", "unsloth", "transformers"] = Field(
        "auto", description="auto: unsloth where CUDA is available"
    )
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field("auto", description="compute type; auto asks the hardware")
    trust_remote_code: bool = Field(False, description="run model code that comes with the weights")

    method: Literal["lora", "qlora"] = Field("qlora", description="qlora holds the frozen base in 4 bits (NF4)")
    use_qlora: bool | None = Field(None, description="short for --method qlora (or, negated, lora)")
    lora_r: int = Field(
        16, ge=1, description="rank of the adapter", validation_alias=AliasChoices("lora_r", "lora_rank")
    )
    lora_alpha: int = Field(32, ge=1, description="the adapter's output is scaled by lora_alpha / lora_r")
    lora_layers: int | None = Field(None, ge=1, description="adapt only the last so many layers; faster on a CPU")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="share of adapter inputs dropped in training")
    target_modules: tuple[str, ...] = Field(PROJECTIONS, min_length=1, description="names of the linear layers adapted")

    system_prompt: str | None = Field(
        EXPERT_SYSTEM_PROMPT, description="said before every row that has none of its own"
    )
    think: Literal["auto", "off", "keep"] = Field("auto", description="Qwen3's think block: see prompts/family.py")
    supervise: Literal["all", "last"] = Field("all", description="assistant turns that carry loss")
    max_seq_length: int = Field(
        2048, ge=16, description="tokens a row may have", validation_alias=AliasChoices("max_seq_length", "max_length")
    )
    on_too_long: Literal["shorten", "drop", "error"] = Field(
        "shorten", description="shorten cuts inside the document only"
    )
    head_share: float = Field(0.5, ge=0, le=1, description="share of a shortened document kept from its beginning")
    eval_ratio: float = Field(0.1, gt=0, lt=1, description="validation share, where --data is a single file")
    split_seed: int = Field(42, description="seed of that split")
    on_bad_row: Literal["error", "quarantine"] = Field(
        "error", description="a row of a single file that cannot be used ends the command, or is left out and named"
    )

    num_train_epochs: float = Field(3, gt=0, description="passes over the training rows")
    max_steps: int | None = Field(None, ge=1, description="optimiser steps; overrides num_train_epochs")
    per_device_train_batch_size: int = Field(
        2,
        ge=1,
        description="rows a device takes at once",
        validation_alias=AliasChoices("per_device_train_batch_size", "batch_size"),
    )
    gradient_accumulation_steps: int = Field(4, ge=1, description="batches an optimiser step adds up")
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field("linear", description="decay after warm-up")
    warmup_steps: float = Field(5, ge=0, description="warm-up in steps; below 1 it is a share of all steps")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    optim: str = Field(
        "auto", description="optimizer name as in transformers; auto: adamw_8bit on CUDA, adamw_torch else"
    )
    neftune_noise_alpha: float | None = Field(
        5.0, ge=0, description="NEFTune: noise on the input embeddings; 0 switches it off"
    )
    gradient_checkpointing: bool = Field(False, description="less memory, about a third more time")
    eval_steps: int = Field(50, ge=1, description="optimiser steps between validations (and saved checkpoints)")
    save_total_limit: int = Field(3, ge=1, description="checkpoints kept; the best one is always among them")
    seed: int = Field(3407, ge=0, lt=2**32, description="seed of weights, order and noise")
    resume_from_checkpoint: str = Field("none", description="auto (newest checkpoint of --output_dir), a path, or none")
    allow_mismatch: bool = Field(False, description="resume although base, tokenizer or prompt differ (printed loudly)")
    dry_run: bool = Field(
        False, description="do everything up to one longest batch, then report memory, steps and time"
    )

    @classmethod
    def spell_out(cls, values: dict[str, object]) -> dict[str, object]:
        """use_qlora becomes method, layer by layer: `--use_qlora` wins over a recipe's `method: lora`."""
        use_qlora = read_boolean(values.get("use_qlora"))
        if use_qlora is None:  # not given; or ill-typed, which the field's own type reports
            return values
        method = "qlora" if use_qlora else "lora"
        if values.get("method", method) != method:
            raise ConfigError(f"use_qlora: {use_qlora} contradicts method: {values['method']}; keep one of them")
        return {name: value for name, value in values.items() if name != "use_qlora"} | {"method": method}

    @property
    def rows_per_step(self) -> int:
        """Rows that one optimiser step of one process sees: 2 x 4 -> 8."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps
