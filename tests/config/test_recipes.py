"""The recipes load, and hold what the published ones say."""

from pathlib import Path

import pytest
import yaml

from sft.config.layers import load_settings
from sft.config.train import TrainSettings
from sft.errors import ConfigError

RECIPES = Path(__file__).parents[2] / "recipes"

PUBLISHED = {
    "qwen2.5-7b-instruct-qlora": {
        "model": "Qwen/Qwen2.5-7B-Instruct", "max_seq_length": 2048, "method": "qlora", "lora_r": 16, "lora_alpha": 32,
        "lora_dropout": 0, "num_train_epochs": 3, "rows_per_step": 8, "learning_rate": 2e-4, "warmup_steps": 5,
        "lr_scheduler_type": "linear", "weight_decay": 0.01, "optim": "adamw_8bit", "neftune_noise_alpha": 5,
        "eval_steps": 50, "seed": 3407, "eval_ratio": 0.1, "split_seed": 42,
    },
    "qwen2.5-coder-1.5b-freeze": {
        "model": "Qwen/Qwen2.5-Coder-1.5B-Instruct", "max_seq_length": 720, "method": "freeze",
        "freeze_trainable_layers": 6, "freeze_trainable_modules": ("all",), "num_train_epochs": 2, "rows_per_step": 8,
        "freeze_extra_modules": ("embed_tokens", "norm"), "learning_rate": 2e-5, "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1, "eval_ratio": 0.2, "eval_steps": 200,
    },
    "cards/freeze-t4": {
        "method": "freeze", "freeze_trainable_layers": 6, "per_device_train_batch_size": 1, "rows_per_step": 8,
        "dtype": "fp16",
    },
    "cards/freeze-a100": {
        "method": "freeze", "freeze_trainable_layers": 12, "per_device_train_batch_size": 4, "rows_per_step": 8,
        "dtype": "bf16",
    },
    "qwen2.5-1.5b-news-ner": {
        "model": "Qwen/Qwen2.5-1.5B-Instruct", "max_seq_length": 384, "method": "lora", "lora_r": 8, "lora_alpha": 32,
        "lora_dropout": 0.1, "num_train_epochs": 2, "rows_per_step": 16, "learning_rate": 1e-4, "eval_steps": 100,
    },
    "qwen2.5-1.5b-sentiment-lora": {
        "model": "Qwen/Qwen2.5-1.5B", "target_modules": ("q_proj", "k_proj", "v_proj", "o_proj"),
        "method": "lora", "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.05, "num_train_epochs": 3,
        "rows_per_step": 8, "learning_rate": 1e-4, "eval_steps": 100, "save_total_limit": 3,
        "early_stopping_patience": 3,
    },
    "qwen3-1.7b-moderation-head": {
        "model": "Qwen/Qwen3-1.7B", "head": "classification", "pooling": "last", "head_init": "xavier",
        "head_dropout": 0.1, "method": "lora",
        "labels": ("正常", "歧视", "违法违规", "政治安全", "暴恐", "色情低俗"), "lora_r": 8, "lora_alpha": 16,
        "lora_dropout": 0.1, "target_modules": ("q_proj", "k_proj", "v_proj", "o_proj"), "max_seq_length": 256,
        "gradient_accumulation_steps": 2, "per_device_train_batch_size": 18, "learning_rate": 5e-5,
        "lr_scheduler_type": "linear", "warmup_steps": 0.1, "max_grad_norm": 1.0, "eval_steps": 200, "dtype": "auto",
        "metric_for_best_model": "eval_macro_f1", "early_stopping_patience": 3, "num_train_epochs": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_holds_what_was_published(name):
    settings = load_settings(TrainSettings, ["--config", str(RECIPES / f"{name}.yaml")])
    assert {key: getattr(settings, key) for key in PUBLISHED[name]} == PUBLISHED[name]


def test_every_recipe_loads():
    for path in set(RECIPES.glob("*.yaml")) - {RECIPES / "datasets.yaml"}:  # names of data sets, no settings
        load_settings(TrainSettings, ["--config", str(path)])


@pytest.mark.parametrize(("name", "kind"), [("fsdp2", "FSDP"), ("zero3", "DEEPSPEED")])
def test_the_launch_files_are_of_their_kind_and_keep_whole_weights(name, kind):
    content = yaml.safe_load((RECIPES / "accelerate" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert content["distributed_type"] == kind
    if kind == "FSDP":
        assert content["fsdp_config"]["fsdp_version"] == 2
        assert content["fsdp_config"]["fsdp_state_dict_type"] == "FULL_STATE_DICT"
    else:
        assert content["deepspeed_config"]["zero_stage"] == 3
        assert content["deepspeed_config"]["zero3_save_16bit_model"] is True


def test_a_warm_up_ratio_is_short_for_warm_up_steps_below_one():
    assert load_settings(TrainSettings, ["--warmup_ratio", "0.1"]).warmup_steps == 0.1
    with pytest.raises(ConfigError, match="warmup_ratio and warmup_steps are both given; keep one of them"):
        load_settings(TrainSettings, ["--warmup_ratio", "0.1", "--warmup_steps", "5"])


def test_trackers_are_a_list_in_every_layer():
    assert load_settings(TrainSettings, ["--report_to", "tensorboard,swanlab"]).report_to == ("tensorboard", "swanlab")
    assert load_settings(TrainSettings, []).report_to == ("none",)
    with pytest.raises(ConfigError, match="report_to"):
        load_settings(TrainSettings, ["--report_to", "wandbb"])


def test_no_recipe_but_the_demos_trains_on_the_demos_mixture_and_each_names_the_preset_of_its_data():
    for path in [*RECIPES.glob("*.yaml"), *RECIPES.glob("cards/*.yaml")]:
        if path.stem in ("demo", "datasets", "small-data"):  # small-data is for rows of one's own
            continue
        folder = load_settings(TrainSettings, ["--config", str(path)]).data
        preset = folder.removeprefix("data/")
        assert (RECIPES / "data" / f"{preset}.yaml").is_file(), path
        assert f"--preset {preset} --name {preset}" in path.read_text(encoding="utf-8"), path
