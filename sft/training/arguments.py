"""Our settings as TRL's SFTConfig. Every value is set: TRL, transformers and Unsloth each have their own defaults."""

import math
import operator
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.training_args import OptimizerNames
from trl import SFTConfig

from sft.backend import TRANSFORMERS, UNSLOTH, is_launched_sharded
from sft.config.train import TrainSettings
from sft.console import say
from sft.errors import ConfigError, nearest_name
from sft.models.precision import Precision
from sft.training.log import check_trackers
from sft.training.processes import any_process

# Default number of epochs: three, and more for few rows.
# With fewer than about a hundred steps an adapter stays near its base at any learning rate: after three epochs of 54
# reviews, every answer was the same label (docs/choosing.md has the sweeps).

USUAL_EPOCHS = 3
ENOUGH_STEPS = 150
MOST_EPOCHS = 20  # with very few rows, more epochs taught the embedded model nothing more


def choose_epochs(num_rows: int, rows_per_step: int) -> int:
    """60 rows, 8 per step -> 19 epochs of 8 steps; 1,000 rows -> 3 of 125."""
    steps_per_epoch = math.ceil(num_rows / rows_per_step)
    return min(MOST_EPOCHS, max(USUAL_EPOCHS, math.ceil(ENOUGH_STEPS / steps_per_epoch)))


# Runs that end before their last step: on a signal, or because they no longer improve

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether a stop was requested. `is_saving` is False while there is nothing to save: then one is enough."""

    def __init__(self) -> None:
        self.asked = False
        self.is_urgent = False  # a second signal came
        self.is_saving = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        self.is_urgent = self.asked
        if self.asked or not self.is_saving:
            raise KeyboardInterrupt
        self.asked = True
        say(f"{signal.Signals(number).name}: finishing this step and saving it; once more leaves at once")


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Handle the signals inside this context; in a thread, where Python has no signals, nothing changes."""
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.handle) for number in SIGNALS}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopWhenAsked(TrainerCallback):
    """Saves after the step in which a stop was requested, then raises KeyboardInterrupt."""

    def __init__(self, stop: StopRequest) -> None:
        self.stop = stop
        self._is_ending = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object
    ) -> None:
        """From now on a signal saves before the run ends."""
        self.stop.is_saving = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """End all processes after the same step, whichever of them got the signal."""
        if any_process(self.stop.asked):
            self._is_ending = control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """End once the checkpoint is complete; a signal during validation or saving waits for the next step."""
        if self._is_ending:
            raise KeyboardInterrupt


class EarlyStopping(TrainerCallback):
    """Ends the run when `patience` validations in a row were not better than the best before them.

    It keeps no state: what it needs is in the trainer's log history, which every checkpoint holds.
    """

    def __init__(self, metric: str, patience: int, threshold: float, *, greater_is_better: bool) -> None:
        self.metric, self.patience, self.threshold = metric, patience, threshold
        self.greater_is_better = greater_is_better

    def is_over(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether the run should stop, by this history."""
        values = [float(line[self.metric]) for line in history if self.metric in line]
        return count_without_gain(values, self.threshold, self.greater_is_better) >= self.patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Stop if patience has run out; the step is saved, too, so that a resumed run ends at the same step."""
        if self.is_over(state.log_history):
            say(f"early stopping: {self.patience} validations without a better {self.metric}")
            control.should_training_stop = control.should_save = True


def count_without_gain(values: Sequence[float], threshold: float, greater_is_better: bool) -> int:
    """How many of the last values did not beat the best before them: [3, 2, 2.5, 2.2], 0, False -> 2."""
    beats = operator.gt if greater_is_better else operator.lt
    best, count = None, 0
    for value in values:
        if best is None or (beats(value, best) and abs(value - best) > threshold):
            best, count = value, 0
        else:
            count += 1
    return count


def is_greater_better(metric: str) -> bool:
    """Accuracy, F1 and the like should grow; losses, perplexity and error rates should fall."""
    return not any(part in metric for part in ("loss", "perplexity", "rate", "brier", "ece"))


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
        neftune_noise_alpha=None,  # sft.training.replay instead
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
