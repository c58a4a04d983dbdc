"""Settings of train.py. The defaults are the reference recipe for Qwen2.5-7B-Instruct (recipes/ has it spelled out)."""

import re
from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from prompts import EXPERT_SYSTEM_PROMPT, Rules
from prompts.layout import Supervise
from prompts.shorten import ANSWER_ROOM
from sft.config.layers import ResultSettings, read_boolean, write_pairs
from sft.errors import ConfigError

EVERY_TARGET = ("auto", "all-linear")  # two words for the same: `all-linear` is PEFT's
SCALING = re.compile(r"(yarn|linear)(:[1-9]\d*(\.\d+)?(:[1-9]\d*)?)?")
VOCABULARY = ("lm_head", "embed_tokens")


class TrainSettings(ResultSettings):
    """Fine-tune a chat model on a dataset folder or a file of rows. Writes outputs/<run>/."""

    prog: ClassVar[str] = "train.py"
    texts: ClassVar[tuple[str, ...]] = ("system_prompt",)
    examples: ClassVar[tuple[str, ...]] = (
        "python train.py --config recipes/demo.yaml",
        "python train.py --config recipes/demo.yaml --data reviews.csv --labels bad,good",
        "python train.py --model Qwen/Qwen2.5-7B-Instruct --data chats.jsonl --dry_run",
    )
    common: ClassVar[tuple[str, ...]] = (
        "config", "data", "model", "method", "num_train_epochs", "learning_rate", "max_seq_length", "labels",
        "output_dir", "dry_run",
    )  # fmt: skip
    sections: ClassVar[dict[str, str]] = {
        "data": "Data", "model": "Model", "method": "Adapter", "num_train_epochs": "Schedule",
        "micro_batch_tokens": "Memory", "output_dir": "Output",
    }  # fmt: skip

    data: str = Field(
        "data/mixed",
        description="dataset folder, or rows in any accepted form: a file, a folder, a pattern, or several separated "
        "by commas",
    )
    validation_data: str | None = Field(
        None,
        description="rows to validate on, as files like --data; default: eval_ratio of the rows of --data",
    )
    test_data: str | None = Field(None, description="rows that evaluate.py will score, as files like --data")
    max_samples: int | None = Field(
        None, ge=1, description="at most this many training rows, and validation rows: drawn at random by split_seed"
    )
    eval_ratio: float = Field(0.1, gt=0, lt=1, description="share of a single file that is held out for validation")
    split_seed: int = Field(42, description="seed of that split")
    labels: tuple[str, ...] = Field(
        (),
        description="labels of text/label rows in the order of their class numbers: bad,good defines a task with "
        "these two",
    )
    label_map: tuple[str, ...] = Field(
        (), description="values of the label column and the labels they mean, e.g. 1=good,0=bad"
    )
    columns: tuple[str, ...] = Field(
        (), description="fields and the columns of a file they are read from, e.g. text=review,label=stars"
    )
    task: str | None = Field(
        None,
        description="task of rows that name none: sentiment, moderation, ..., or a YAML file that describes yours",
    )
    group_by: str | None = Field(
        None,
        description="column of a file; rows with the same value stay on one side of the split. Default: the column "
        "group, if there is one",
    )
    form: str | None = Field(
        None, description="format to read if rows match several: messages, instruction/output, ..."
    )
    encoding: str | None = Field(
        None,
        description="encoding of text files that are not UTF-8: gb18030, cp1252, ...; common Chinese ones are detected",
    )
    on_bad_row: Literal["error", "quarantine"] = Field(
        "error", description="what to do with a row of a single file that cannot be used: stop, or leave it out"
    )
    system_prompt: str | None = Field(
        EXPERT_SYSTEM_PROMPT, description="system prompt of every row that has none of its own"
    )
    think: Literal["auto", "off", "keep"] = Field("auto", description="Qwen3's think block: see prompts/family.py")
    supervise: Literal["all", "last"] = Field("all", description="assistant turns that are learned")
    max_seq_length: int = Field(
        2048,
        ge=16,
        description="most tokens of a row; longer documents are shortened",
    )
    on_too_long: Literal["shorten", "drop", "error"] = Field(
        "shorten", description="what to do with a row that is too long; shorten cuts inside the document only"
    )
    head_share: float = Field(0.5, ge=0, le=1, description="share of a shortened document that is kept from its start")
    answer_room: int = Field(
        ANSWER_ROOM,
        ge=1,
        description="tokens that a shortened prompt leaves for a free answer, at most half of what its fixed parts "
        "leave; a label gets as many as the longest one takes",
    )
    max_dropped: float = Field(
        0.1, ge=0, le=1, description="largest share of the training rows that may be dropped as too long"
    )

    model: str = Field(
        "auto", description="embedded, a hub id, a folder, or auto: Qwen2.5-7B-Instruct if a GPU has room"
    )
    revision: str | None = Field(None, description="hub revision (branch, tag or commit) of the model")
    backend: Literal["auto", "unsloth", "transformers"] = Field(
        "auto",
        description="auto: transformers with this project's kernels; unsloth on GPUs older than Ampere (T4, V100)",
    )
    dtype: Literal["auto", "bf16", "fp16", "fp32"] = Field("auto", description="compute type; auto: by the hardware")
    rope_scaling: str | None = Field(
        None,
        description="read more tokens than the model was built for: yarn:4 (or linear:4) for four times as many, "
        "yarn:4:32768 with the tokens of its pretraining, yarn for what max_seq_length takes",
    )
    trust_remote_code: bool = Field(False, description="run model code that comes with the weights")
    head: Literal["lm", "classification"] = Field(
        "lm",
        description="lm: the model writes its answers; classification: it picks one of the labels and writes nothing",
    )
    pooling: Literal["last", "mean"] = Field(
        "last", description="head classification: reads the last token of the prompt, or the mean of all"
    )
    head_init: Literal["default", "xavier"] = Field(
        "default", description="head classification: its first weights, as transformers draws them or Xavier uniform"
    )
    head_dropout: float = Field(
        0.1, ge=0, lt=1, description="head classification: share of its input that is dropped in training"
    )

    init_adapter: str | None = Field(
        None,
        description="continue from this adapter instead of a new one: a run, an adapter's folder or a hub id; base, "
        "shape and prompt come from it unless given",
    )
    method: Literal["lora", "qlora", "freeze", "full"] = Field(
        "qlora",
        description="lora: an adapter; qlora: an adapter on a base in 4 bits (NF4); freeze: the last layers; full: all "
        "weights",
    )
    base_dtype: Literal["auto", "fp8"] = Field(
        "auto",
        description="fp8: method lora multiplies the frozen layers in 8 bits (Ada, Hopper and Blackwell GPUs); the "
        "adapter and the loss stay as they are, and the finished adapter goes onto the base in 16 bits",
    )
    use_qlora: bool | None = Field(None, description="short for --method qlora, and --no-use_qlora for --method lora")
    lora_r: int = Field(16, ge=1, description="rank of the adapter")
    lora_alpha: int = Field(32, ge=1, description="the adapter's output is scaled by lora_alpha / lora_r")
    lora_layers: int | None = Field(None, ge=1, description="adapt only this many of the last layers; faster on a CPU")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="share of adapter inputs dropped in training")
    target_modules: tuple[str, ...] = Field(
        ("auto",),
        min_length=1,
        description="layers to adapt, by name (q_proj,v_proj); auto or all-linear: every linear layer of the decoder "
        "and all experts, no router",
    )
    use_dora: bool = Field(False, description="DoRA: magnitude and direction apart; slower, better at small ranks")
    use_rslora: bool = Field(False, description="rank-stabilised LoRA: scaled by lora_alpha / sqrt(lora_r)")
    modules_to_save: tuple[str, ...] = Field(
        (), description="modules trained in full next to the adapter, e.g. embed_tokens,lm_head"
    )
    freeze_trainable_layers: int = Field(
        2, ge=0, description="method freeze: how many of the last decoder layers are trained"
    )
    freeze_trainable_modules: tuple[str, ...] = Field(
        ("all",), min_length=1, description="method freeze: the parts of those layers, e.g. self_attn,down_proj"
    )
    freeze_extra_modules: tuple[str, ...] = Field(
        (), description="method freeze: modules outside the layers, by their exact name, e.g. embed_tokens,norm"
    )

    num_train_epochs: float | None = Field(
        None,
        gt=0,
        description="passes over the training rows; default: 3, or up to 20 for few rows (until there are 150 steps)",
    )
    max_steps: int | None = Field(None, ge=1, description="optimizer steps; overrides num_train_epochs")
    per_device_train_batch_size: int = Field(
        2,
        ge=1,
        description="rows per step of one device, before gradient_accumulation_steps multiplies them; how many are "
        "computed at once is planned",
    )
    gradient_accumulation_steps: int = Field(4, ge=1, description="multiplies the rows per step: 2 x 4 = 8")
    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate")
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field("linear", description="decay after warm-up")
    warmup_steps: float = Field(5, ge=0, description="warm-up in steps; below 1 it is a share of all steps")
    warmup_ratio: float | None = Field(None, ge=0, lt=1, description="short for warmup_steps below 1")
    weight_decay: float = Field(0.01, ge=0, description="decoupled weight decay of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    optim: str = Field(
        "auto",
        description="optimizer as transformers names it (adamw_torch_fused, adamw_8bit, paged_adamw_8bit, ...); "
        "auto: PyTorch's fused one for an adapter, 8-bit if more is trained or memory is short, "
        "PyTorch's own on a CPU",
    )
    neftune_noise_alpha: float | None = Field(
        5.0,
        ge=0,
        description="NEFTune: noise on the input embeddings; 0 turns it off, and the prefix shared by the rows of a "
        "step is then computed once",
    )
    eval_steps: int = Field(50, ge=1, description="optimizer steps between validations (and checkpoints)")
    metric_for_best_model: str = Field(
        "eval_loss",
        description="validation metric that chooses the best checkpoint; eval_loss is token-weighted",
    )
    compute_accuracy: bool = Field(
        False, description="also report the share of supervised tokens that the model predicts, at every validation"
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="stop after this many validations without improvement"
    )
    early_stopping_threshold: float = Field(0.0, ge=0, description="smallest change that counts as an improvement")
    seed: int = Field(3407, ge=0, lt=2**32, description="seed of weights, order and noise")
    resume_from_checkpoint: str = Field("none", description="auto (newest checkpoint of --output_dir), a path, or none")
    allow_mismatch: bool = Field(
        False, description="resume even if base, tokenizer or prompt differ; the differences are printed"
    )

    micro_batch_tokens: int | None = Field(
        None, ge=1, description="tokens a device computes at once; default: planned from the free memory"
    )
    gradient_checkpointing: bool | None = Field(
        None,
        description="compute layers twice instead of keeping their activations: less memory, six tenths of the speed; "
        "default: on a GPU for as many layers as needed, elsewhere for none",
    )
    activation_offloading: bool | None = Field(
        None,
        description="for very long rows: compute layers in pieces of tokens and let their inputs wait in main memory; "
        "default: on a GPU if the longest row does not fit otherwise",
    )
    cuda_graphs: bool | None = Field(
        None,
        description="record forward and backward passes and replay them, so that the GPU does not wait for Python; "
        "default: for adapters on one GPU, if possible, in runs of 200 steps or more",
    )
    max_memory_gb: float | None = Field(
        None, gt=0, description="GPU memory this run may use, in GB of 2**30 bytes; default: all that is free"
    )

    output_dir: str | None = Field(None, description="the run folder; default: outputs/<date>-<recipe>")
    dry_run: bool = Field(False, description="stop after the longest batch was tried, and print memory, steps and time")
    save_total_limit: int = Field(3, ge=1, description="checkpoints kept; the best one is always among them")
    report_to: tuple[Literal["none", "tensorboard", "wandb", "swanlab", "trackio"], ...] = Field(
        ("none",), min_length=1, description="experiment trackers, one or several; log.jsonl is always written"
    )
    num_sample_predictions: int = Field(
        0,
        ge=0,
        description="validation rows that are answered at every validation, for samples.jsonl and the trackers",
    )

    @classmethod
    def spell_out(cls, values: dict[str, object]) -> dict[str, object]:
        """Shorthands layer by layer, so that `--use_qlora` wins over a recipe's `method: lora`.

        use_qlora becomes method, warmup_ratio becomes warmup_steps.
        """
        values = dict(values)
        use_qlora = read_boolean(values.get("use_qlora"))
        if use_qlora is not None:  # None: not given; or ill-typed, which the field's own type reports
            method = "qlora" if use_qlora else "lora"
            if values.get("method", method) != method:
                raise ConfigError(f"use_qlora: {use_qlora} contradicts method: {values['method']}; keep one of them")
            values["method"] = method
            del values["use_qlora"]
        if values.get("warmup_ratio") is not None:
            if "warmup_steps" in values:
                raise ConfigError("warmup_ratio and warmup_steps are both given; keep one of them")
            values["warmup_steps"] = values.pop("warmup_ratio")
        return values

    @field_validator("rope_scaling", mode="before")
    @classmethod
    def _write_scaling(cls, value: object) -> object:
        """Accept the mapping of transformers and LLaMA-Factory, too: {rope_type: yarn, factor: 4} is yarn:4."""
        if isinstance(value, dict):
            original = value.get("original_max_position_embeddings")
            kind = value.get("rope_type", value.get("type"))
            value = ":".join(str(part) for part in (kind, value.get("factor"), original) if part is not None)
        if str(value).partition(":")[0] in ("dynamic", "longrope", "llama3"):
            raise ValueError(f"{value!r}: of these, yarn and linear are computed here")
        if value is not None and not SCALING.fullmatch(str(value)):
            raise ValueError(f"{value!r} is none; write yarn, yarn:4, yarn:4:32768 or linear:2")
        return value

    _write_pairs = field_validator("label_map", "columns", mode="before")(write_pairs)

    @model_validator(mode="after")
    def _targets_are_layers(self) -> "TrainSettings":
        if len(self.target_modules) > 1 and any(name in EVERY_TARGET for name in self.target_modules):
            raise ValueError(
                f"target_modules {','.join(self.target_modules)}: auto and all-linear cannot be combined with names"
            )
        if whole := [name for name in self.target_modules if name in VOCABULARY]:
            raise ValueError(
                f"target_modules {','.join(whole)}: adapters are for layers between embeddings and output; leave it "
                f"out, or train it in full: --modules_to_save {','.join(whole)}"
            )
        return self

    @model_validator(mode="after")
    def _fp8_is_for_lora(self) -> "TrainSettings":
        others = {"method": self.method != "lora", "use_dora": self.use_dora, "backend": self.backend == "unsloth"}
        others |= {"dtype": self.dtype not in ("auto", "bf16")}
        if self.base_dtype == "fp8" and (wrong := [name for name, is_other in others.items() if is_other]):
            raise ValueError(
                f"base_dtype fp8 is for method lora in bf16 on transformers, without DoRA; change {', '.join(wrong)}, "
                "or leave base_dtype out"
            )
        return self

    @model_validator(mode="after")
    def _labels_are_classes(self) -> "TrainSettings":
        if len(self.labels) == 1 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels {','.join(self.labels)}: give at least two, each once")
        return self

    def columns_by_field(self) -> dict[str, str]:
        """The columns that fields are read from: {"text": "review"}."""
        return dict(pair.split("=", 1) for pair in self.columns)

    def label_by_word(self) -> dict[str, str]:
        """What is in the label column, and the label it means: {"1": "good"}."""
        return dict(pair.split("=", 1) for pair in self.label_map)

    @property
    def rules(self) -> Rules:
        """How rows become tokens."""
        supervise: Supervise = "none" if self.is_classifier else self.supervise
        return Rules(supervise, self.max_seq_length, self.on_too_long, self.head_share, self.answer_room)

    @property
    def is_classifier(self) -> bool:
        """Whether the model classifies instead of writing."""
        return self.head == "classification"

    @property
    def rows_per_step(self) -> int:
        """Rows that one optimiser step of one process sees: 2 x 4 -> 8."""
        return self.per_device_train_batch_size * self.gradient_accumulation_steps

    @property
    def has_adapter(self) -> bool:
        """Whether the tuned weights are an adapter, not a full model."""
        return self.method in ("lora", "qlora")
