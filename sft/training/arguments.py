"""Our settings as TRL's SFTConfig. Every value is set: TRL, transformers and Unsloth each have their own defaults."""

import os
from pathlib import Path

import torch
from transformers.training_args import OptimizerNames
from trl import SFTConfig

from sft.backend import TRANSFORMERS, UNSLOTH, is_launched_sharded
from sft.config.train import TrainSettings
from sft.console import say
from sft.errors import ConfigError, nearest_name
from sft.models.precision import Precision
from sft.training.epochs import USUAL_EPOCHS
from sft.training.stopping import is_greater_better
from sft.training.trackers import check_trackers

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def build_arguments(
    settings: TrainSettings, precision: Precision, checkpoints_dir: Path, *, num_steps: int, backend: str = TRANSFORMERS
) -> SFTConfig:
    """num_steps: optimiser steps of the whole run; evaluations and checkpoints fall on at least the last one."""
    on_cpu = precision.device == "cpu"
    trackers = check_trackers(settings.report_to)
    every = min(settings.eval_steps, num_steps)
    arguments = SFTConfig(
        output_dir=str(checkpoints_dir),
        # data: our rows are tokens already
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=not on_cpu,
        # recipe
        per_device_train_batch_size=settings.rows_per_step,  # a whole step; RowTrainer cuts it into micro-batches
        gradient_accumulation_steps=1,
        num_train_epochs=settings.num_train_epochs or USUAL_EPOCHS,
        max_steps=settings.max_steps or (-1 if settings.num_train_epochs else num_steps),
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        optim=choose_optimizer(settings, precision),
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        seed=settings.seed,
        data_seed=settings.seed,
        average_tokens_across_devices=True,
        ddp_find_unused_parameters=False,
        # hardware
        use_cpu=on_cpu,
        bf16=needs_autocast(settings, precision, backend) and precision.dtype is torch.bfloat16,
        fp16=not on_cpu and precision.dtype is torch.float16,  # its loss scaler comes with autocast
        # Unsloth needs it here; otherwise RowTrainer decides it layer by layer (sft.training.memory)
        gradient_checkpointing=backend == UNSLOTH and bool(settings.gradient_checkpointing),
        # validation and checkpoints
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=settings.save_total_limit,
        load_best_model_at_end=True,
        metric_for_best_model=settings.metric_for_best_model,
        greater_is_better=is_greater_better(settings.metric_for_best_model),
        # narration is ours
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would log 0.0 for a loss that is not finite
        disable_tqdm=True,
        report_to=trackers or "none",
        run_name=checkpoints_dir.parent.name,
        neftune_noise_alpha=None,  # sft.training.neftune instead
    )
    if arguments.n_gpu > 1:  # several cards and no launcher: one is used, not a wrapper that splits every batch
        say(f"{arguments.n_gpu} GPUs, one of them is used; all: torchrun --nproc_per_node={arguments.n_gpu} train.py")
        arguments._n_gpu = 1
    return arguments


def needs_autocast(settings: TrainSettings, precision: Precision, backend: str) -> bool:
    """Whether operations have to choose their type one at a time: on a GPU, where weights of several types meet.

    An adapter alone does not need it: sft.kernels.lora computes it in the base's type, and autocast would only check
    every operation and copy tensors of another type.
    """
    if precision.device == "cpu":
        return False
    one_type = settings.has_adapter and not settings.modules_to_save and not settings.use_dora
    return not one_type or backend == UNSLOTH or is_launched_sharded()


def choose_optimizer(settings: TrainSettings, precision: Precision) -> str:
    """`auto`: PyTorch's fused AdamW for an adapter on a GPU, AdamW in 8 bits where more is trained or memory is short.

    For the 40 million weights of an adapter 8 bits save 0.2 GB and cost 25 ms per step, a tenth of it: their kernel is
    launched tensor by tensor. On a CPU 8 bits bring nothing, and the fused kernel pays where whole weights are trained.
    """
    if settings.optim != "auto":
        known = [name.value for name in OptimizerNames]
        if settings.optim not in known:
            raise ConfigError(f"optim: {settings.optim!r} is no optimizer{nearest_name(settings.optim, known)}")
        return settings.optim
    if precision.device == "cpu":
        return "adamw_torch" if settings.has_adapter else "adamw_torch_fused"
    if settings.has_adapter and not settings.modules_to_save:
        return "adamw_8bit" if settings.gradient_checkpointing else "adamw_torch_fused"
    return "adamw_8bit"
