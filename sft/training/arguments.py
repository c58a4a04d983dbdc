"""Our settings as TRL's SFTConfig. Every value is set: TRL, transformers and Unsloth each have their own defaults."""

import os
from pathlib import Path

import torch
from trl import SFTConfig

from sft.config.train import TrainSettings
from sft.models.precision import Precision

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def build_arguments(
    settings: TrainSettings, precision: Precision, checkpoints_dir: Path, *, num_steps: int
) -> SFTConfig:
    """num_steps: optimiser steps of the whole run; evaluations and checkpoints fall on at least the last one."""
    on_cpu = precision.device == "cpu"
    every = min(settings.eval_steps, num_steps)
    return SFTConfig(
        output_dir=str(checkpoints_dir),
        # data: our rows are tokens already
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=not on_cpu,
        # recipe
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        num_train_epochs=settings.num_train_epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=choose_optimizer(settings.optim, precision),
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        seed=settings.seed,
        data_seed=settings.seed,
        average_tokens_across_devices=True,
        # hardware
        use_cpu=on_cpu,
        bf16=not on_cpu and precision.dtype is torch.bfloat16,
        fp16=not on_cpu and precision.dtype is torch.float16,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        # validation and checkpoints
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=settings.save_total_limit,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        # narration is ours
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would log 0.0 for a loss that is not finite
        disable_tqdm=True,
        report_to="none",
        neftune_noise_alpha=None,  # sft.training.neftune instead
    )


def choose_optimizer(wanted: str, precision: Precision) -> str:
    """`auto`: 8-bit AdamW on a GPU (the reference recipe), PyTorch's AdamW on a CPU, where 8 bits bring nothing."""
    if wanted != "auto":
        return wanted
    return "adamw_torch" if precision.device == "cpu" else "adamw_8bit"
