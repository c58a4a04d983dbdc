"""Checkpoints: complete or absent, however the run ends; the best and the newest are kept and found again.

These replace the stock trainer's, which writes into the final folder and may resume from one that was cut off. Training
waits until a checkpoint is written and sealed, which is enough against a kill; flushing it to the disk is left to a
thread (Background), since work that only waits for the disk need not hold up the steps.

The private methods of transformers' Trainer that are overridden here are at the head of sft/training/trainer.py.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path

import torch
from peft import PeftModel
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_callback import ExportableState
from trl import SFTTrainer

from sft.console import say
from sft.files import find_damage, publish, staged
from sft.runs.checkpoints import STATE_FILE, list_checkpoints, prune_checkpoints, step_of
from sft.training.processes import from_first, is_first, wait_for_all


class Background:
    """One background job during the steps; its errors are raised where it is awaited."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin, after the work before. A process that ends does not wait for it."""
        self.wait()
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until it is done. Raises its error, once."""
        if self._thread is not None:
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._error = error


class CheckpointedTrainer(SFTTrainer):
    """TRL's trainer with checkpoints by sft.files; present settings win over those in a checkpoint."""

    @cached_property
    def _publishing(self) -> Background:
        return Background()

    @property
    def checkpoints_dir(self) -> Path:
        """Folder of the checkpoint-N folders."""
        return Path(self.args.output_dir)

    @property
    def is_sharded(self) -> bool:
        """Whether the weights are sharded over the processes (FSDP, ZeRO-3)."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    @property
    def best_checkpoint(self) -> Path | None:
        """The one with the best figure so far, where one was validated."""
        return Path(self.state.best_model_checkpoint) if self.state.best_model_checkpoint else None

    def _save_checkpoint(self, model: torch.nn.Module, trial: object) -> None:
        """Weights, optimizer, scheduler, random states, trainer state: what _load_from_checkpoint and others read."""
        folder = self.checkpoints_dir / f"checkpoint-{self.state.global_step}"
        if self.state.best_global_step:
            self.state.best_model_checkpoint = str(self.checkpoints_dir / f"checkpoint-{self.state.best_global_step}")
        self.finish_saving()  # the checkpoint before
        num_bytes = self.count_bytes()
        with contextlib.ExitStack() as open_stage:
            stage = from_first(lambda: open_stage.enter_context(staged(folder, num_bytes=num_bytes)))
            with _without_crc32():
                self.save_model(str(stage), _internal_call=True)
                self._save_optimizer_and_scheduler(str(stage))
                self._save_scaler(str(stage))
                self._save_rng_state(str(stage))
            if self.args.should_save:
                for callback in [*self.callback_handler.callbacks, self.control]:
                    if isinstance(callback, ExportableState):
                        self.state.stateful_callbacks[type(callback).__name__] = callback.state()
                self.state.save_to_json(str(stage / STATE_FILE))
            wait_for_all()
        wait_for_all()
        if is_first():
            prune = partial(prune_checkpoints, limit=self.args.save_total_limit, best=self.best_checkpoint)
            self._publishing.start(lambda: _publish(folder, num_bytes, prune))
        if os.environ.get("WANDB_LOG_MODEL") == "checkpoint":  # its callback uploads the folder, under its name
            self.finish_saving()

    def _finalize_training(self, *arguments: object) -> object:
        limit, self.args.save_total_limit = self.args.save_total_limit, None  # 1 would delete the newest, too early
        try:
            return super()._finalize_training(*arguments)
        finally:
            self.args.save_total_limit = limit

    def finish_saving(self) -> None:
        """Until the last checkpoint is on the disk. Raises DiskFullError if it does not fit."""
        self._publishing.wait()

    def _load_best_model(self) -> None:
        self.finish_saving()
        wait_for_all()
        super()._load_best_model()

    def count_bytes(self) -> int:
        """Bytes of a checkpoint's tensors: adapter or whole model, and the optimizer's state."""
        weights = self.model.parameters()
        if isinstance(self.model, PeftModel):
            weights = (weight for weight in self.model.parameters() if weight.requires_grad)
        state = self.optimizer.state_dict()["state"] if self.optimizer is not None and not self.is_sharded else {}
        tensors = [value for slots in state.values() for value in slots.values() if isinstance(value, torch.Tensor)]
        return sum(tensor.numel() * tensor.element_size() for tensor in [*weights, *tensors])

    def _init_training_state(
        self, max_steps: int, num_update_steps_per_epoch: int, num_train_epochs: int, *more: object
    ) -> tuple[int, int]:
        started = super()._init_training_state(max_steps, num_update_steps_per_epoch, num_train_epochs, *more)
        self.state.compute_steps(self.args, max_steps)  # eval_steps as they are now, not as they were
        self.find_best()
        return started

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None or not isinstance(self.lr_scheduler, LambdaLR):
            return
        # The rate by the schedule as it is now: a run that is given more steps would make the next at its last rate, 0.
        place, schedules = self.lr_scheduler.last_epoch, self.lr_scheduler.lr_lambdas
        rates = [base * share(place) for base, share in zip(self.lr_scheduler.base_lrs, schedules, strict=True)]
        self.lr_scheduler._last_lr = rates
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate

    def find_best(self) -> None:
        """Point the state at its best checkpoint in the run's current folder; a missing or damaged one is reported."""
        self.state.best_model_checkpoint = None
        if not self.state.best_global_step:
            return
        best = self.checkpoints_dir / f"checkpoint-{self.state.best_global_step}"
        if damage := find_damage(best):
            say(f"WARNING the best checkpoint so far, {best}, cannot be used ({damage}); the best of the others counts")
            self.state.best_global_step, self.state.best_metric = None, None
            for path in list_checkpoints(self.checkpoints_dir):
                self._take_if_better(path)
        else:
            self.state.best_model_checkpoint = str(best)

    def _take_if_better(self, checkpoint: Path) -> None:
        """Let a checkpoint that is left be the best, if it is: its figure is in the log history."""
        name = self.args.metric_for_best_model
        values = [
            line[name] for line in self.state.log_history if line.get("step") == step_of(checkpoint) and name in line
        ]
        if not values or find_damage(checkpoint):
            return
        best = self.state.best_metric
        sign = 1 if self.args.greater_is_better else -1
        if best is None or sign * values[-1] > sign * best:
            self.state.best_metric, self.state.best_global_step = values[-1], step_of(checkpoint)
            self.state.best_model_checkpoint = str(checkpoint)


def _publish(folder: Path, num_bytes: int, prune: Callable[[Path], None]) -> None:
    """Older checkpoints go when this one is on the disk, not before."""
    publish(folder, num_bytes=num_bytes)
    prune(folder.parent)


@contextlib.contextmanager
def _without_crc32() -> Iterator[None]:
    """torch.save without a checksum of its own, a third of its time: the manifest has a better one."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)
