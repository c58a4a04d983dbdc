"""What other tools call our settings: one table for flags and recipes (docs/from-other-tools.md shows it in use).

    translate("train.py", {"num_epochs": 3, "template": "qwen"})
    # {"num_train_epochs": 3}, ["num_epochs is num_train_epochs here", "template is not used: the tokenizer's own ..."]

The names are those of Hugging Face's Trainer and TRL, LLaMA-Factory, ms-swift, Axolotl, Unsloth's notebooks, and of the
scripts that this project replaces. A name that means the same is replaced; one that changes nothing here is named and
left out; one that would change what is learned and has no counterpart is refused with an alternative.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sft.errors import ConfigError

SKIP = object()  # a value that is what happens here anyway


@dataclass(frozen=True)
class Twin:
    """Our setting that corresponds to another tool's name.

    values: their value in small letters -> ours, or SKIP; a value that is not among them is refused where `strict`,
    else taken as it is. read: for values that are no plain words.
    """

    setting: str
    values: Mapping[str, object] = field(default_factory=dict)
    strict: bool = False
    read: Callable[[Any], object] | None = None

    @property
    def is_switch(self) -> bool:
        """Whether the bare flag means true."""
        return "true" in self.values


@dataclass(frozen=True)
class Unused:
    """A name that changes nothing here, and why; `unless`: values that would, and what to do then."""

    why: str
    unless: Mapping[str, str] = field(default_factory=dict)
    is_switch: bool = True  # the bare flag is allowed, and a value may follow


def _read_share(value: object) -> float:
    """`val_size: 0.2`; a number of rows has no twin."""
    share = float(str(value))
    if not 0 < share < 1:
        raise ConfigError(f"{value}: a share between 0 and 1 is taken here (eval_ratio), no number of rows")
    return share


def _read_paths(value: object) -> object:
    """Axolotl's `datasets: [{path: a, type: alpaca}]` -> "a"; the form of rows is recognised."""
    if not isinstance(value, list):
        return value
    paths = [part.get("path") if isinstance(part, dict) else part for part in value]
    if not paths or not all(isinstance(path, str) for path in paths):
        raise ConfigError(f"{value}: a list of files or of `path:` entries is expected")
    return ",".join(str(path) for path in paths)


def _only(setting: str, value: object) -> Twin:
    """A switch that sets one value: `--fp16` is dtype fp16, and `fp16: false` has no effect."""
    return Twin(setting, {"true": value, "auto": "auto", "false": SKIP}, strict=True)


DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "half": "fp16", "float": "fp32"}
NEVER_MATTERS = "nothing depends on it here"
IN_FP32 = "trained weights are in fp32"
PLANNED = "how many rows are computed at once is planned from the memory that is free"
WITH_VALIDATIONS = "a checkpoint comes with each validation, every eval_steps"
LAUNCH = "start with accelerate launch --config_file recipes/accelerate/zero3-offload.yaml (docs/several-gpus.md)"
ANSWERS = "answers alone are learned here"
SFT_ONLY = "supervised fine-tuning is all there is"
OTHER_STAGES = ("pt", "rm", "ppo", "dpo", "kto")
FLAT = "rows are concatenated without padding, and none is cut"
KERNELS = "attention and kernels are chosen by what the model and the card can do"

EVERYWHERE: dict[str, Twin | Unused] = {
    "max_length": Twin("max_seq_length"),
    "cutoff_len": Twin("max_seq_length"),
    "sequence_len": Twin("max_seq_length"),
    "max_model_len": Twin("max_seq_length"),
    "default_system": Twin("system_prompt"),
    "system": Twin("system_prompt"),
    "torch_dtype": Twin("dtype", DTYPES),
    "dtype": Twin("dtype", DTYPES),
    "random_state": Twin("seed"),
    "template": Unused("the tokenizer's own chat template counts"),
    "chat_template": Unused("the tokenizer's own chat template counts"),
    "model_type": Unused("the model's config.json says it"),
    "tokenizer_type": Unused("the model's files say it"),
    "use_fast": Unused(NEVER_MATTERS),
    "flash_attn": Unused(KERNELS),
    "flash_attention": Unused(KERNELS),
    "attn_implementation": Unused(KERNELS),
    "attn_impl": Unused(KERNELS),
    "use_cache": Unused(NEVER_MATTERS),
    "per_device_eval_batch_size": Unused(PLANNED),
    "model_author": Unused(NEVER_MATTERS),
    "model_name": Unused(NEVER_MATTERS),
}

TRAIN: dict[str, Twin | Unused] = {
    # the model
    "model_name_or_path": Twin("model"),
    "base_model": Twin("model"),
    "base_model_name": Twin("model"),
    "model_path": Twin("model"),
    "checkpoint": Twin("model"),
    "adapter_name_or_path": Twin("init_adapter"),
    "lora_model_dir": Twin("init_adapter"),
    # the data
    "train_data": Twin("data"),
    "train_file": Twin("data"),
    "train_dataset": Twin("data"),
    "dataset": Twin("data"),
    "datasets": Twin("data", read=_read_paths),
    "dataset_name": Twin("data"),
    "val_data": Twin("validation_data"),
    "val_file": Twin("validation_data"),
    "validation_file": Twin("validation_data"),
    "val_dataset": Twin("validation_data"),
    "eval_dataset": Twin("validation_data"),
    "test_file": Twin("test_data"),
    "val_size": Twin("eval_ratio", read=_read_share),
    "val_set_size": Twin("eval_ratio", read=_read_share),
    "split_dataset_ratio": Twin("eval_ratio", read=_read_share),
    "dataset_dir": Unused("names are looked up in datasets.yaml, dataset_info.json and data/dataset_info.json"),
    "dataset_text_field": Unused("the form of rows is recognised"),
    "overwrite_cache": Unused("there is no cache of tokens"),
    "dataset_prepared_path": Unused("there is no cache of tokens"),
    "preprocessing_num_workers": Unused(NEVER_MATTERS),
    "dataloader_num_workers": Unused(NEVER_MATTERS),
    "dataset_num_proc": Unused(NEVER_MATTERS),
    "packing": Unused(FLAT),
    "neat_packing": Unused(FLAT),
    "sample_packing": Unused(FLAT),
    "padding_free": Unused(FLAT),
    "pad_to_sequence_len": Unused(FLAT),
    "group_by_length": Unused(FLAT),
    "remove_unused_columns": Unused(NEVER_MATTERS),
    "special_tokens": Unused("end and padding tokens are those of the chat template"),
    "eos_token": Unused("end and padding tokens are those of the chat template"),
    # what is learned
    "stage": Unused(SFT_ONLY, unless=dict.fromkeys(OTHER_STAGES, SFT_ONLY)),
    "train_on_prompt": Unused(ANSWERS, unless={"true": ANSWERS}),
    "train_on_inputs": Unused(ANSWERS, unless={"true": ANSWERS}),
    "assistant_only_loss": Unused(ANSWERS, unless={"false": ANSWERS}),
    "completion_only_loss": Unused(ANSWERS, unless={"false": ANSWERS}),
    "mask_history": Twin("supervise", {"true": "last", "false": SKIP}, strict=True),
    # the method
    "finetuning_type": Twin("method"),
    "train_type": Twin("method"),
    "tuner_type": Twin("method"),
    "adapter": Twin("method"),
    "use_peft": _only("method", "lora"),
    "load_in_4bit": _only("use_qlora", "true"),
    "load_in_8bit": Unused("weights in 8 bits are not to be had", unless={"true": "take --use_qlora, 4 bits"}),
    "quantization_bit": Twin("use_qlora", {"4": "true", "none": SKIP}, strict=True),
    "quantization_method": Unused("4 bits are NF4, by bitsandbytes"),
    "quant_bits": Twin("use_qlora", {"4": "true", "none": SKIP}, strict=True),
    "lora_rank": Twin("lora_r"),
    "lora_target": Twin("target_modules", {"all": "all-linear"}),
    "lora_target_modules": Twin("target_modules", {"all": "all-linear"}),
    "lora_target_linear": _only("target_modules", "all-linear"),
    "additional_target": Twin("modules_to_save"),
    "lora_modules_to_save": Twin("modules_to_save"),
    "peft_use_dora": Twin("use_dora"),
    "use_unsloth": _only("backend", "unsloth"),
    # the steps
    "num_epochs": Twin("num_train_epochs"),
    "epochs": Twin("num_train_epochs"),
    "batch_size": Twin("per_device_train_batch_size"),
    "train_batch_size": Twin("per_device_train_batch_size"),
    "micro_batch_size": Twin("per_device_train_batch_size"),
    "lr": Twin("learning_rate"),
    "lr_scheduler": Twin("lr_scheduler_type"),
    "optimizer": Twin("optim"),
    "gradient_clipping": Twin("max_grad_norm"),
    "save_steps": Twin("eval_steps"),
    "fp16": _only("dtype", "fp16"),
    "bf16": _only("dtype", "bf16"),
    "use_gradient_checkpointing": Twin("gradient_checkpointing", {"unsloth": "true", "true": "true", "false": "false"}),
    "enable_activation_offloading": Twin("activation_offloading"),
    "tf32": Unused(NEVER_MATTERS),
    "pure_bf16": Unused(IN_FP32, unless={"true": f"{IN_FP32}: take bf16"}),
    "enable_liger_kernel": Unused(KERNELS),
    "use_liger_kernel": Unused(KERNELS),
    "deepspeed": Unused(LAUNCH),
    "fsdp": Unused("start with accelerate launch --config_file recipes/accelerate/fsdp2.yaml (docs/several-gpus.md)"),
    "ddp_timeout": Unused(NEVER_MATTERS),
    "ddp_find_unused_parameters": Unused(NEVER_MATTERS),
    # validation, checkpoints, logs
    "do_train": Unused(NEVER_MATTERS),
    "do_eval": Unused("every run is validated"),
    "eval_strategy": Unused("every run is validated, every eval_steps and at the end"),
    "evaluation_strategy": Unused("every run is validated, every eval_steps and at the end"),
    "evals_per_epoch": Unused("eval_steps counts optimizer steps"),
    "saves_per_epoch": Unused(WITH_VALIDATIONS),
    "save_strategy": Unused(WITH_VALIDATIONS),
    "save_only_model": Unused("checkpoints contain what resuming needs"),
    "load_best_model_at_end": Unused("the best checkpoint counts, always"),
    "greater_is_better": Unused("the name of the figure says it"),
    "logging_steps": Unused("log.jsonl has every step"),
    "logging_strategy": Unused("log.jsonl has every step"),
    "logging_dir": Unused("logs are in the run folder"),
    "logging_first_step": Unused("log.jsonl has every step"),
    "plot_loss": Unused("loss.png is always drawn"),
    "overwrite_output_dir": Unused("a folder with a run is never overwritten"),
    "run_name": Unused("the run is called as its folder"),
    "include_num_input_tokens_seen": Unused("tokens are always counted"),
    "wandb_project": Unused("WANDB_PROJECT in the environment sets it"),
    "push_to_hub": Unused("export.py --push sends a finished run"),
    "hub_model_id": Unused("export.py --push sends a finished run"),
}  # fmt: skip

TUNED: dict[str, Twin | Unused] = {
    "model_path": Twin("run"),
    "finetuned_model": Twin("run"),
    "ckpt_dir": Twin("run"),
    "lora_model": Twin("adapter"),
    "lora_path": Twin("adapter"),
    "adapters": Twin("adapter"),
    "adapter_name_or_path": Twin("adapter"),
    "model_name_or_path": Twin("model"),
    "base_model": Twin("base"),
    "base_model_name": Twin("base"),
    "checkpoint": Twin("base"),
    "finetuning_type": Unused("the weights say it"),
    "batch_size": Unused(PLANNED),
    "eval_batch_size": Unused(PLANNED),
    "stream": Unused("answers appear as they are written"),
}
ASKED: dict[str, Twin | Unused] = {
    "infer_backend": Unused("answers are written by this project's own loop (serve.py: --backend vllm)"),
    "do_sample": Unused("temperature 0 is greedy", unless={"true": "give a --temperature above 0"}),
    "query": Twin("text"),
    "prompt": Twin("text"),
}
EVALUATED: dict[str, Twin | Unused] = {
    "csv_path": Twin("data"),
    "test_data": Twin("data"),
    "test_file": Twin("data"),
    "dataset": Twin("data"),
    "eval_dataset": Twin("data"),
    "val_dataset": Twin("data"),
    "max_samples": Twin("num_samples"),
    "limit": Twin("num_samples"),
    "do_predict": Unused("answers are always written"),
    "predict_with_generate": Unused("answers are always written"),
}
EXPORTED: dict[str, Twin | Unused] = {
    "export_dir": Twin("output_dir"),
    "merge_lora": Twin("merge", {"true": "true", "false": "false"}),
    "quantization_method": Twin("gguf"),
    "export_hub_model_id": Twin("push"),
    "hub_model_id": Twin("push"),
    "export_size": Unused("shards have 5 GB"),
    "export_device": Unused("the merge runs where there is room"),
    "export_legacy_format": Unused("safetensors only"),
}
BY_SCRIPT: dict[str, dict[str, Twin | Unused]] = {
    "train.py": EVERYWHERE | TRAIN,
    "inspect_data.py": EVERYWHERE | TRAIN,
    "evaluate.py": EVERYWHERE | TUNED | EVALUATED,
    "inference.py": EVERYWHERE | TUNED | ASKED,
    "chat.py": EVERYWHERE | TUNED | ASKED,
    "serve.py": EVERYWHERE | TUNED | ASKED,
    "export.py": EVERYWHERE | TUNED | EXPORTED,
}


def other_names(script: str, own: Mapping[str, object]) -> dict[str, Twin | Unused]:
    """The other names that a script accepts; names of settings that it does not have are left out."""
    return {
        name: meant
        for name, meant in BY_SCRIPT.get(script, {}).items()
        if isinstance(meant, Unused) or meant.setting in own
        if name not in own or (isinstance(meant, Twin) and meant.setting == name)
    }


def translate(
    script: str, values: Mapping[str, object], own: Mapping[str, object]
) -> tuple[dict[str, object], list[str]]:
    """One layer's values under our names, and a clause for each name that was another tool's.

    own: the script's own settings. Raises ConfigError if two names of one setting disagree, and for what would
    change what is learned and has no counterpart.
    """
    known = other_names(script, own)
    found: dict[str, object] = {}
    origin: dict[str, str] = {}
    notes: list[str] = []
    for name, value in values.items():
        meant = known.get(name)
        if isinstance(meant, Unused):
            if (advice := meant.unless.get(str(value).lower())) is not None:
                raise ConfigError(f"{name} {value}: {advice}")
            notes.append(f"{name} is not used: {meant.why}")
            continue
        setting, ours = name, value
        if meant is not None:
            setting, ours = meant.setting, _read_value(name, meant, value)
            if setting != name:
                notes.append(f"{name} is {setting} here")
            if ours is SKIP:
                continue
        if setting in found and _differ(found[setting], ours):
            raise ConfigError(f"{origin[setting]} and {name} are two names of {setting}; keep one")
        found[setting], origin[setting] = ours, name
    if origin.get("use_qlora", "use_qlora") != "use_qlora" and str(found.get("method")) == "lora":
        found |= {"method": "qlora"}  # elsewhere 4 bits are a property of the base, and the adapter is called lora
        del found["use_qlora"]
    return found, notes


def _read_value(name: str, meant: Twin, value: object) -> object:
    if meant.read is not None:
        try:
            return meant.read(value)
        except (ValueError, ConfigError) as error:
            raise ConfigError(f"{name}: {error}") from None
    word = str(value).lower()
    if meant.strict and word not in meant.values:
        raise ConfigError(f"{name} {value}: should be {' or '.join(meant.values)}")
    return meant.values.get(word, value)


def _differ(one: object, other: object) -> bool:
    return str(one).lower() != str(other).lower()
