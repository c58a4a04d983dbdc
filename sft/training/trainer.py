"""TRL's SFTTrainer on rows that are already tokens, from the first step to the best weights: RowTrainer.

transformers' loop calls, in this order: get_train_dataloader (one item per step, with its row indices),
_prepare_for_training (wraps the model and runs before_first_step), _run_epoch, get_batch_samples (counts the terms of a
step's loss), training_step (forward and backward in micro-batches), _clip_grad_norm, the optimizer's step, and at
intervals evaluate and _save_checkpoint. The objective (sft.training.objective) defines the loss of a row and the
figures of a validation. The loss of a step is the sum over its rows divided by the terms of the whole step, independent
of micro-batches; validation picks the best checkpoint.

The pin of transformers is load-bearing: these methods of its Trainer are private and overridden, and another version
may call them at another point or not at all.

    here                    _run_epoch, _prepare_for_training, _get_num_items_in_batch, _clip_grad_norm
    CheckpointedTrainer     _save_checkpoint, _load_best_model, _init_training_state, _load_optimizer_and_scheduler,
                            _finalize_training
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    default_data_collator,
)
from trl import SFTConfig

from prompts import Encoded
from sft.backend import UNSLOTH
from sft.batches import TOKENS_PER_BATCH, Batch, Segment, find_segments, whole_rows
from sft.console import say
from sft.errors import RunError
from sft.kernels.attention import has_varlen
from sft.kernels.lora import keep_unpacked
from sft.models.loaded import LoadedModel
from sft.runs.checkpoints import STATE_FILE, step_of
from sft.training.guard import FiniteGuard, StallGuard, check_validation
from sft.training.long_rows import LongRows
from sft.training.memory import (
    MemoryPlan,
    MicroBatches,
    has_dropout,
    is_out_of_memory,
    recompute_layers,
    trained_layers,
)
from sft.training.objective import LanguageModelling, Objective, Score
from sft.training.on_cores import can_compute_apart, compute_apart, share_out
from sft.training.processes import StepOrder, gather_parts, largest, step_loader
from sft.training.replay import RecordingError, ReplayedPasses, embedding_noise, length_of_each_token, records_weights
from sft.training.saving import CheckpointedTrainer

BeforeFirstStep = Callable[["RowTrainer", torch.nn.Module, bool], None]  # the wrapped model; whether it resumes
Measure = Callable[[LoadedModel], Mapping[str, float]]  # more figures of a validation: {"eval_macro_f1": 0.91}


def stand_in(num_rows: int) -> Dataset:
    """A placeholder data set for TRL: the right number of rows, one token each.

    TRL only reads its first row, its columns and its length; RowTrainer.collate uses the real rows. A copy of those
    would take about 100 bytes per token.
    """
    return Dataset.from_dict({"input_ids": [[0]] * num_rows, "labels": [[0]] * num_rows})


class RowTrainer(CheckpointedTrainer):
    """A trainer for encoded rows; counts the tokens it has seen in `num_tokens_seen`."""

    def __init__(
        self,
        loaded: LoadedModel,
        train_rows: Sequence[Encoded],
        validation_rows: Sequence[Encoded],
        args: SFTConfig,
        *,
        objective: Objective[Any] | None = None,
        packs: Sequence[Sequence[int]] | None = None,
        micro_batch_tokens: int | None = None,
        recomputes: bool | None = None,
        offloads: bool | None = None,
        replays: bool = False,
        train_names: Sequence[str] = (),
        validation_names: Sequence[str] = (),
        neftune_noise_alpha: float | None = None,
        measures: Sequence[Measure] = (),
        callbacks: Sequence[TrainerCallback] = (),
        before_first_step: BeforeFirstStep | None = None,
    ) -> None:
        """objective: None: that of a chat model. packs: indices of training rows that count as one row of a step
        (sft.training.processes.pack_rows); None: each row by itself. micro_batch_tokens: None plans them. recomputes:
        whether layers are recomputed to save memory; None: as many as necessary. offloads: whether layers are computed
        in pieces with their inputs in main memory; None: only if the longest row does not fit otherwise. replays:
        record passes as CUDA graphs, if possible. measures: further figures of every validation.

        before_first_step: called when model and optimizer exist; sft.training.rehearsal.rehearsing makes the plan.
        """
        self.loaded = loaded
        self.objective: Objective[Any] = objective or LanguageModelling(loaded)
        self.train_rows, self.validation_rows = list(train_rows), list(validation_rows)
        self.packs = [(place,) for place in range(len(train_rows))] if packs is None else packs
        self.validation_names = validation_names or [str(place) for place in range(len(validation_rows))]
        self.guard = FiniteGuard(train_names or [str(place) for place in range(len(train_rows))])
        self.noise_alpha = neftune_noise_alpha
        self.measures = list(measures)
        self.before_first_step = before_first_step
        self.num_tokens_seen = 0
        self.micro_batch_tokens, self.recomputes, self.offloads = micro_batch_tokens, recomputes, offloads
        self.long_rows = LongRows(loaded.causal_lm, draws=has_dropout(loaded.causal_lm))
        self.wants_replay = replays
        self.passes: ReplayedPasses | None = None
        # Shared prefixes are computed once, unless noise or dropout makes equal tokens differ between rows.
        is_same = not neftune_noise_alpha and not has_dropout(loaded.causal_lm)
        self.shares_prefixes = self.objective.shares_prefixes and loaded.layers.shares and is_same
        self.plan = MemoryPlan(micro_batch_tokens or TOKENS_PER_BATCH[loaded.device.type])
        self.micro_batches = MicroBatches(self.plan.micro_batch_tokens, padded=not loaded.takes_flat_rows)
        types = {name: weight.dtype for name, weight in loaded.model.named_parameters() if weight.requires_grad}
        super().__init__(
            model=loaded.model,
            args=args,
            processing_class=loaded.tokenizer,
            train_dataset=stand_in(len(train_rows)),
            eval_dataset=stand_in(len(validation_rows)),
            # Never called, because training_step makes the batches; TRL's own is for language models only.
            data_collator=None if loaded.head is None else default_data_collator,
            callbacks=[self.guard, StallGuard(), *callbacks],
        )
        for name, weight in loaded.model.named_parameters():
            if name in types:  # TRL turns an adapter beside 4-bit weights into bf16, where small updates are lost
                weight.data = weight.data.to(types[name])
        # peft would write a model card template with local paths beside each adapter.
        loaded.model.create_or_update_model_card = lambda folder: None
        for built_in in (PrinterCallback, ProgressCallback):  # the project's own callbacks narrate
            self.remove_callback(built_in)
        if len(self.train_dataset) != len(train_rows):
            raise RuntimeError(f"the trainer kept {len(self.train_dataset)} of {len(train_rows)} rows")

    # The run

    def train_from(self, checkpoint: Path | None, num_steps: int) -> None:
        """Train from a checkpoint or from step 0 to num_steps, then load the best weights.

        Whatever ends the run, its last checkpoint is on the disk; only KeyboardInterrupt does not wait for that.
        """
        try:
            self._train_or_take_best(checkpoint, num_steps)
        except Exception:
            self.finish_saving()
            raise
        self.finish_saving()

    def _train_or_take_best(self, checkpoint: Path | None, num_steps: int) -> None:
        """Train; if the checkpoint has all steps, only load the best weights, because train() would make one step
        more."""
        if checkpoint is None:
            self.train()
            return
        state = TrainerState.load_from_json(str(checkpoint / STATE_FILE))
        ends = [callback for callback in self.callback_handler.callbacks if hasattr(callback, "is_over")]
        if step_of(checkpoint) < num_steps and not any(end.is_over(state.log_history) for end in ends):
            self.train(resume_from_checkpoint=str(checkpoint))
            return
        self.state = state
        self.find_best()
        self._load_from_checkpoint(str(checkpoint))
        if self.state.best_model_checkpoint is not None:
            self._load_best_model()

    def get_train_dataloader(self) -> DataLoader[dict[str, list[int]]]:
        """One item per step: the indices of its rows. The trainer accumulates nothing itself."""
        self.order = StepOrder(
            [len(row.input_ids) for row in self.train_rows],
            self.rows_per_step,
            seed=self.args.data_seed,
            packs=self.packs,
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
        if self.offloads:
            self.long_rows.demand(self.loaded, is_sharded=self.is_sharded)
            self.follow(replace(self.plan, offloads=True))
        elif self.recomputes:
            self.follow(replace(self.plan, recomputed_layers=self.num_layers))
        if self.before_first_step is not None and not self.is_deepspeed_enabled:  # whose engine cannot take a step back
            self.before_first_step(self, model, resume_from_checkpoint is not None)
        return model, loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, list[int]]], num_batches: int, device: object
    ) -> tuple[list[dict[str, list[int]]], torch.Tensor]:
        """The steps that come next (one) and the terms of their loss. Unsloth replaces the stock method by its own."""
        steps = list(itertools.islice(epoch_iterator, num_batches))
        return steps, self._get_num_items_in_batch(steps, device)

    def _get_num_items_in_batch(self, batch_samples: Sequence[Mapping[str, list[int]]], device: object) -> torch.Tensor:
        return self.count_terms([place for step in batch_samples for place in step["places"]])

    def count_terms(self, places: Sequence[int]) -> torch.Tensor:
        """Number of loss terms of a step of these rows over all processes: the divisor of the loss."""
        count = torch.tensor(sum(map(self.objective.count_terms, self._rows(places))), device=self.args.device)
        return self.accelerator.gather(count).sum() if self.args.world_size > 1 else count

    def floating_point_ops(self, inputs: object) -> int:
        """Not counted: tokens per second say more."""
        return 0

    # The step

    def training_step(
        self, model: torch.nn.Module, inputs: Mapping[str, list[int]], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Forward and backward of a step's rows in micro-batches; after out-of-memory, again in smaller ones.

        Returns the step's loss, detached.
        """
        places = inputs["places"]
        lengths = self.lengths_of(places)
        before = self.num_tokens_seen
        while True:
            try:
                return self.run_micro_batches(model, places, self.micro_batches.plan(lengths), num_items_in_batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.args.world_size > 1:  # the others wait in the middle of theirs
                    raise self.micro_batches.too_large() from None
            if self.passes is not None:
                self.passes.forget()
            self.guard.forget()  # outside of `except`, which would keep tensors of the failed attempt alive
            self.num_tokens_seen = before
            model.zero_grad()
            if self.plan.unpacks:
                say("out of memory: from here on 4-bit weights are unpacked for each use")
                self.follow(replace(self.plan, unpacks=False, micro_batch_tokens=self.micro_batches.max_tokens))
            else:
                self.micro_batches.shrink(lengths)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def run_micro_batches(
        self,
        model: torch.nn.Module,
        places: Sequence[int],
        batches: Sequence[Sequence[int]],
        divisor: torch.Tensor | None,
    ) -> torch.Tensor:
        """The loss of the rows at `places` over the divisor, detached; the gradients of all micro-batches are added.

        batches: indices of places. Recorded passes are replayed if there are any.
        """
        if self.passes is not None and divisor is not None:
            try:
                return self._replay_micro_batches(self.passes, places, batches, divisor)
            except RecordingError as error:
                if self.args.world_size > 1:  # the others wait for this one's gradients
                    raise RunError(f"CUDA graphs: {error}; run it again with --no-cuda_graphs") from None
                self.give_up_replay(error)
                self.guard.forget()
                model.zero_grad()
        total = torch.zeros((), device=self.args.device)
        # All processes gather sharded weights together for every forward, so each has to run equally many.
        wanted = largest(len(batches)) if self.is_sharded else max(len(batches), 1)
        for number in range(wanted):
            is_last, is_idle = number == wanted - 1, number >= len(batches)
            # A process without rows left computes its shortest row and discards it, so that the others do not wait.
            chosen = [self._shortest] if is_idle else [places[index] for index in batches[number]]
            self.accelerator.gradient_state._set_sync_gradients(is_last)
            is_alone = is_last or self.is_deepspeed_enabled  # DeepSpeed reads the flag above
            with contextlib.nullcontext() if is_alone else self.accelerator.no_sync(model), self.loaded.flat_rows():
                batch = {**self.collate(chosen), "is_idle": is_idle}
                total += super().training_step(model, batch, divisor)
        return total

    def _replay_micro_batches(
        self, passes: ReplayedPasses, places: Sequence[int], batches: Sequence[Sequence[int]], divisor: torch.Tensor
    ) -> torch.Tensor:
        total, before = torch.zeros((), device=self.args.device), self.num_tokens_seen
        passes.begin_step()
        for indices in batches:
            chosen = [places[index] for index in indices]
            batch = self.objective.collate(self._rows(chosen), shares=self.shares_prefixes)
            try:
                loss = passes.run(batch, partial(self._loss_of_hidden, divisor=divisor))
            except RecordingError:
                self.num_tokens_seen = before
                raise
            self._count(loss, chosen)
            total += loss
        passes.end_step()
        return total

    def _loss_of_hidden(self, hidden: torch.Tensor, batch: Batch, divisor: torch.Tensor) -> torch.Tensor:
        with self.accelerator.autocast():  # processes are averaged
            return self.objective.loss_of_hidden(hidden, batch, divisor) * self.args.world_size

    def collate(self, places: Sequence[int]) -> dict[str, object]:
        """Rows -> one batch as the objective has it, and row_places."""
        batch = self.objective.collate(self._rows(places), shares=self.shares_prefixes)
        return {**batch, "row_places": list(places)}

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
        if self.shares_prefixes:
            of_token = None
        elif self.loaded.takes_flat_rows:
            of_token = length_of_each_token(lengths, inputs["input_ids"].shape[1])
        else:
            of_token = lengths[:, None]  # (B, 1)
        with embedding_noise(self.loaded.causal_lm, self.noise_alpha, of_token), self.loaded.flat_rows():
            parts = self._share_out(places) if model is self.loaded.model and not is_idle else []
            if parts and num_items_in_batch is not None:
                rows = self._rows(places)
                loss = compute_apart(
                    self.loaded, self.objective, rows, parts, num_items_in_batch, shares=self.shares_prefixes
                )
            else:
                loss = self.objective.compute_loss(model, inputs, num_items_in_batch)
        if is_idle:
            return loss * 0
        self._count(loss, places)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes  # counted over all processes, and DDP averages
        return loss

    def _share_out(self, places: Sequence[int]) -> list[list[int]]:
        """Indices of a micro-batch's rows in parts that cores compute apart; none if it is computed as a whole."""
        if not self.shares_cores or not torch.is_grad_enabled() or not self.loaded.model.training:
            return []
        return share_out(self.lengths_of(places), torch.get_num_threads())

    def _count(self, loss: torch.Tensor, places: Sequence[int]) -> None:
        self.num_tokens_seen += sum(self.lengths_of(places))
        self.guard.note(loss, list(places))

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor | float | None:
        """The norm before clipping, over the trained weights only; also noted for the guard.

        DeepSpeed clips by itself and returns a float.
        """
        if self.is_sharded:
            norm = super()._clip_grad_norm(model)
        else:
            self.accelerator.unscale_gradients()
            trained = [weight for group in self.optimizer.param_groups for weight in group["params"]]
            norm = torch.nn.utils.clip_grad_norm_(trained, self.args.max_grad_norm)
        self.guard.norm = norm
        return norm

    # What a step is computed with

    def follow(self, plan: MemoryPlan) -> None:
        """Spend memory as planned, from now on. (Unsloth has kernels of its own: only the micro-batches reach them.)"""
        self.plan = plan
        self.micro_batches.max_tokens = plan.micro_batch_tokens
        if self.loaded.backend != UNSLOTH:
            recompute_layers(self.loaded.causal_lm, 0 if plan.offloads else plan.recomputed_layers)
            most = max(plan.micro_batch_tokens, *(len(row.input_ids) for row in self.train_rows))
            self.long_rows.install(most) if plan.offloads else self.long_rows.remove()
            keep_unpacked(self.loaded.model, keep=plan.unpacks)
        self.passes = None
        if self.wants_replay and self.can_replay:
            self.passes = ReplayedPasses(
                self.loaded,
                max_rows=self.rows_per_step * max(map(len, self.packs)),
                max_tokens=plan.micro_batch_tokens,
                longest=max(len(row.input_ids) for row in self.train_rows),
                noise_alpha=self.noise_alpha,
                autocast=self.loaded.autocast,
            )

    def give_up_replay(self, error: RecordingError) -> None:
        """From here on every pass is launched."""
        say(f"CUDA graphs: {error}; continuing without them")
        assert self.passes is not None
        self.passes.forget()
        self.passes = None

    @property
    def trains_in_one_type(self) -> bool:
        """Whether an adapter alone is trained, computed in its base's type without autocast, whose casts are cached."""
        return self.loaded.has_adapter and not self.args.bf16 and not self.args.fp16

    @property
    def can_replay(self) -> bool:
        """Whether passes can be recorded: on a GPU whose attention takes flat rows, without anything that draws random
        numbers while layers are recomputed."""
        draws_again = self.plan.recomputed_layers > 0 and has_dropout(self.loaded.causal_lm)
        return (
            self.loaded.layers.records
            and has_varlen(self.loaded.device, self.loaded.precision.dtype)
            and (self.trains_in_one_type or (not self.args.fp16 and records_weights(self.loaded)))
            and not draws_again
            and not self.plan.offloads
            and not self.is_sharded
            and self.objective.takes_hidden_states
        )

    @cached_property
    def shares_cores(self) -> bool:
        """Whether rows may be computed apart on a CPU."""
        is_alone = self.args.world_size == 1 and not self.is_sharded and not self.offloads
        return is_alone and self.trains_in_one_type and can_compute_apart(self.loaded, self.objective)

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimiser step, over all processes."""
        return int(self.args.per_device_train_batch_size * self.args.world_size)

    @property
    def num_layers(self) -> int:
        """Decoder layers that the backward pass goes through."""
        return len(trained_layers(self.loaded.causal_lm))

    def segments_of(self, places: Sequence[int]) -> list[Segment]:
        """The segments of a micro-batch: whole rows, or shared prefixes and the rests of rows."""
        rows = self._rows(places)
        return find_segments(rows) if self.shares_prefixes else whole_rows(rows)

    def _rows(self, places: Sequence[int]) -> list[Encoded]:
        return [self.train_rows[place] for place in places]

    def lengths_of(self, places: Sequence[int]) -> list[int]:
        """Tokens of the rows at these indices."""
        return [len(row.input_ids) for row in self._rows(places)]

    @property
    def _shortest(self) -> int:
        return min(range(len(self.train_rows)), key=lambda place: len(self.train_rows[place].input_ids))

    def gather_weights(self) -> dict[str, torch.Tensor]:
        """The whole state dict, gathered from the shards; all processes have to call it, the first one gets it."""
        whole = self.deepspeed if self.is_deepspeed_enabled else self.model
        return dict(self.accelerator.get_state_dict(whole) or {})

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
        with self._as_scored():
            for measure in self.measures:
                metrics |= measure(self.loaded)
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _as_scored(self) -> AbstractContextManager[None]:
        """An adapter is scored as evaluate.py does it; weights of two types (freeze, full on a GPU) need autocast."""
        is_alone = self.loaded.has_adapter or self.is_sharded
        return contextlib.nullcontext() if is_alone else self.accelerator.autocast()

    def score_validation(self) -> list[Score]:
        """Score of every validation row, in order, gathered from the processes."""
        part = self.validation_rows[self.args.process_index :: self.args.world_size]
        if self.is_sharded:
            scores = self.objective.score(part or self.validation_rows[:1], sharded=self.model_wrapped)
            return gather_parts(scores[: len(part)])
        with self._as_scored():
            scores = self.objective.score(part)
        return gather_parts(scores)
