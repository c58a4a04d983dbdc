"""TRL's SFTTrainer on rows that are already tokens: our steps, our loss, our validation, our checkpoints.

What the rows' loss is, and what a validation reports, is the objective's (sft.training.objective). The loss of a step
is the sum over its rows divided by the terms of the whole step, whatever the micro-batches; validation picks the best
checkpoint.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import PrinterCallback, ProgressCallback, TrainerCallback, TrainerControl, default_data_collator
from trl import SFTConfig, SFTTrainer

from prompts import Encoded
from sft.models.head import head_weight
from sft.models.loaded import LoadedModel
from sft.scoring import TOKENS_PER_BATCH
from sft.training.guard import FiniteGuard, StallGuard, check_validation
from sft.training.language_modelling import LanguageModelling
from sft.training.microbatches import MicroBatches
from sft.training.neftune import embedding_noise
from sft.training.objective import Objective, Score
from sft.training.order import StepOrder, step_loader
from sft.training.processes import gather_parts, largest
from sft.training.rehearsal import Rehearsal, rehearse
from sft.training.saving import SavesCheckpoints

Measure = Callable[[LoadedModel], Mapping[str, float]]  # more figures of a validation: {"eval_macro_f1": 0.91}


class RowTrainer(SavesCheckpoints, SFTTrainer):
    """SFTTrainer for encoded rows; counts the tokens it has seen in `num_tokens_seen`."""

    def __init__(
        self,
        loaded: LoadedModel,
        train_rows: Sequence[Encoded],
        validation_rows: Sequence[Encoded],
        args: SFTConfig,
        *,
        objective: Objective[Any] | None = None,
        micro_batch_tokens: int | None = None,
        train_names: Sequence[str] = (),
        validation_names: Sequence[str] = (),
        neftune_noise_alpha: float | None = None,
        measures: Sequence[Measure] = (),
        callbacks: Sequence[TrainerCallback] = (),
        on_rehearsed: Callable[[Rehearsal], None] | None = None,
    ) -> None:
        """objective: None is that of a chat model. micro_batch_tokens: None plans them. measures: more figures of every
        validation, beside the objective's.

        on_rehearsed: called before the first step with what the longest batch and a usual step took.
        """
        self.loaded = loaded
        self.objective: Objective[Any] = objective or LanguageModelling(loaded)
        self.train_rows, self.validation_rows = list(train_rows), list(validation_rows)
        self.validation_names = validation_names or [str(place) for place in range(len(validation_rows))]
        self.guard = FiniteGuard(train_names or [str(place) for place in range(len(train_rows))])
        self.noise_alpha = neftune_noise_alpha
        self.measures = list(measures)
        self.on_rehearsed = on_rehearsed
        self.num_tokens_seen = 0
        self.has_planned = micro_batch_tokens is None
        self.micro_batches = MicroBatches(
            micro_batch_tokens or TOKENS_PER_BATCH[loaded.device.type], padded=not loaded.takes_flat_rows
        )
        super().__init__(
            model=loaded.model,
            args=args,
            processing_class=loaded.tokenizer,
            train_dataset=self.objective.as_dataset(train_rows),
            eval_dataset=self.objective.as_dataset(validation_rows),
            # Neither is called, our batches are made in training_step; TRL's own is for language models alone.
            data_collator=None if loaded.head is None else default_data_collator,
            callbacks=[self.guard, StallGuard(), *callbacks],
        )
        if loaded.head is not None:  # beside weights in 4 bits TRL has rounded all that is trained to bf16
            head_weight(loaded.causal_lm).data = head_weight(loaded.causal_lm).data.float()
        # peft writes a card of its own beside each adapter: a form to fill in, with paths of this machine.
        loaded.model.create_or_update_model_card = lambda folder: None
        for built_in in (PrinterCallback, ProgressCallback):  # the project's own callbacks narrate
            self.remove_callback(built_in)
        if len(self.train_dataset) != len(train_rows):
            raise RuntimeError(f"the trainer kept {len(self.train_dataset)} of {len(train_rows)} rows")

    # Steps

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimiser step, over all processes."""
        return int(self.args.per_device_train_batch_size * self.args.world_size)

    def get_train_dataloader(self) -> DataLoader[dict[str, list[int]]]:
        """One item a step: the places of its rows. The trainer accumulates nothing itself."""
        self.order = StepOrder(
            len(self.train_rows),
            self.rows_per_step,
            seed=self.args.data_seed,
            rank=self.args.process_index,
            num_processes=self.args.world_size,
        )
        return step_loader(self.order)

    def _run_epoch(self, *, epoch: int, **more: object) -> None:
        self.order.set_epoch(epoch)
        super()._run_epoch(epoch=epoch, **more)

    def _prepare_for_training(
        self, max_steps: int, train_dataloader: DataLoader[object], resume_from_checkpoint: str | None
    ) -> tuple[torch.nn.Module, DataLoader[object]]:
        model, loader = super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        if self.on_rehearsed is not None and not self.is_deepspeed_enabled:  # whose engine cannot take a step back
            self.on_rehearsed(rehearse(self, model, is_resumed=resume_from_checkpoint is not None))
        return model, loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, list[int]]], num_batches: int, device: object
    ) -> tuple[list[dict[str, list[int]]], torch.Tensor]:
        """The steps that come next (one) and the terms of their loss. Unsloth replaces the stock method by its own."""
        steps = list(itertools.islice(epoch_iterator, num_batches))
        return steps, self._get_num_items_in_batch(steps, device)

    def _get_num_items_in_batch(self, batch_samples: Sequence[Mapping[str, list[int]]], device: object) -> torch.Tensor:
        """Terms of the step's loss over all processes: what it is divided by."""
        rows = [self.train_rows[place] for step in batch_samples for place in step["places"]]
        count = torch.tensor(sum(map(self.objective.count_terms, rows)), device=self.args.device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def floating_point_ops(self, inputs: object) -> int:
        """Not counted: tokens per second say more."""
        return 0

    def training_step(
        self, model: torch.nn.Module, inputs: Mapping[str, list[int]], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Forward and backward of a step's rows in micro-batches; out of memory, again in smaller ones.

        Returns the step's loss, detached.
        """
        places = inputs["places"]
        lengths = [len(self.train_rows[place].input_ids) for place in places]
        before = self.num_tokens_seen
        while True:
            try:
                return self._run_micro_batches(model, places, self.micro_batches.plan(lengths), num_items_in_batch)
            except torch.OutOfMemoryError:
                if self.args.world_size > 1:  # the others wait in the middle of theirs
                    raise self.micro_batches.too_large() from None
            self.guard.forget()  # outside of `except`: what it held of the failed attempt is free now
            self.num_tokens_seen = before
            model.zero_grad()
            self.micro_batches.shrink(lengths)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _run_micro_batches(
        self,
        model: torch.nn.Module,
        places: Sequence[int],
        batches: Sequence[Sequence[int]],
        divisor: torch.Tensor | None,
    ) -> torch.Tensor:
        total = torch.zeros((), device=self.args.device)
        # Weights in pieces are gathered for every forward by all processes at once: each has to run as many.
        wanted = largest(len(batches)) if self.is_sharded else max(len(batches), 1)
        for number in range(wanted):
            is_last, is_idle = number == wanted - 1, number >= len(batches)
            # A process without rows left computes its shortest row for nothing, so that the others need not wait.
            chosen = [self._shortest] if is_idle else [places[index] for index in batches[number]]
            self.accelerator.gradient_state._set_sync_gradients(is_last)
            is_alone = is_last or self.is_deepspeed_enabled  # DeepSpeed goes by the flag above
            with contextlib.nullcontext() if is_alone else self.accelerator.no_sync(model), self.loaded.flat_rows():
                batch = {**self.collate(chosen), "is_idle": is_idle}
                total += super().training_step(model, batch, divisor)
        return total

    @property
    def is_sharded(self) -> bool:
        """Whether the weights lie in pieces over the processes (FSDP, ZeRO-3)."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    @property
    def _shortest(self) -> int:
        return min(range(len(self.train_rows)), key=lambda place: len(self.train_rows[place].input_ids))

    def collate(self, places: Sequence[int]) -> dict[str, object]:
        """Rows -> one batch as the objective has it, and row_places."""
        return {**self.objective.collate([self.train_rows[place] for place in places]), "row_places": list(places)}

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The batch's part of the step's loss, which num_items_in_batch terms make up."""
        lengths, places = inputs.pop("row_lengths"), inputs.pop("row_places")
        is_idle = inputs.pop("is_idle", False)
        is_flat = self.loaded.takes_flat_rows
        of_token = lengths.repeat_interleave(lengths)[None] if is_flat else lengths[:, None]  # (1, T) or (B, 1)
        with embedding_noise(self.loaded.causal_lm, self.noise_alpha, of_token), self.loaded.flat_rows():
            loss = self.objective.compute_loss(model, inputs, num_items_in_batch)
        if is_idle:
            return loss * 0
        self.num_tokens_seen += int(lengths.sum())
        self.guard.note(loss, places)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # counted over all processes, and DDP averages
        return loss

    def gather_weights(self) -> dict[str, torch.Tensor]:
        """The whole state dict, put together from the pieces; all processes have to ask for it."""
        whole = self.deepspeed if self.is_deepspeed_enabled else self.model
        return dict(self.accelerator.get_state_dict(whole))

    # Validation

    def evaluate(
        self,
        eval_dataset: object = None,
        ignore_keys: object = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """{"eval_loss": ..., ...}: the objective's figures over the validation rows, each scored in one process."""
        scores = self.score_validation()
        check_validation([score.nll for score in scores], self.validation_names, self.state.global_step)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.objective.summarise(scores).items()}
        for measure in self.measures:
            metrics |= measure(self.loaded)
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def score_validation(self) -> list[Score]:
        """Score of every validation row, in order, gathered from the processes."""
        part = self.validation_rows[self.args.process_index :: self.args.world_size]
        if self.is_sharded:
            scores = self.objective.score(part or self.validation_rows[:1], sharded=self.model_wrapped)
            return gather_parts(scores[: len(part)])
        # Weights of two types (freeze and full on a GPU) need autocast; an adapter is scored as evaluate.py does it.
        with contextlib.nullcontext() if self.loaded.has_adapter else self.compute_loss_context_manager():
            scores = self.objective.score(part)
        return gather_parts(scores)
