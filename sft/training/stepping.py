"""How a trainer computes the rows of a step: in micro-batches, as planned, in smaller ones when memory runs out."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from transformers import Trainer

from prompts import Encoded
from sft.backend import UNSLOTH
from sft.batching import Batch
from sft.console import say
from sft.errors import RunError
from sft.models.attention import has_varlen
from sft.models.fused_lora import keep_unpacked
from sft.models.loaded import LoadedModel
from sft.prefixes import Segment, count_tokens, find_segments, whole_rows
from sft.training.guard import FiniteGuard
from sft.training.memory import MemoryPlan, has_dropout, recompute_layers, trained_layers
from sft.training.microbatches import MicroBatches, is_out_of_memory
from sft.training.objective import Objective
from sft.training.order import StepOrder
from sft.training.processes import any_process, largest
from sft.training.replay import RecordingError, ReplayedPasses, Size


class ComputesSteps(Trainer):
    """Mixed into a trainer whose batches name rows: {"places": [17, 4, ...]}. What it needs of it is declared here."""

    loaded: LoadedModel
    objective: Objective[Any]
    train_rows: list[Encoded]
    guard: FiniteGuard
    order: StepOrder
    noise_alpha: float | None
    num_tokens_seen: int
    plan: MemoryPlan
    micro_batches: MicroBatches
    wants_replay: bool
    shares_prefixes: bool
    passes: ReplayedPasses | None = None

    @property
    def rows_per_step(self) -> int:
        """Rows of an optimiser step, over all processes."""
        return int(self.args.per_device_train_batch_size * self.args.world_size)

    @property
    def num_layers(self) -> int:
        """Decoder layers that the backward pass goes through."""
        return len(trained_layers(self.loaded.causal_lm))

    def follow(self, plan: MemoryPlan) -> None:
        """Spend memory as planned, from now on. (Unsloth has kernels of its own: only the micro-batches reach them.)"""
        self.plan = plan
        self.micro_batches.max_tokens = plan.micro_batch_tokens
        if self.loaded.backend != UNSLOTH:
            recompute_layers(self.loaded.causal_lm, plan.recomputed_layers)
            keep_unpacked(self.loaded.model, keep=plan.unpacks)
        self.passes = None
        if self.wants_replay and self.can_replay:
            self.passes = ReplayedPasses(
                self.loaded,
                max_rows=self.rows_per_step,
                max_tokens=plan.micro_batch_tokens,
                longest=max(len(row.input_ids) for row in self.train_rows),
                noise_alpha=self.noise_alpha,
            )

    @property
    def trains_in_one_type(self) -> bool:
        """Whether an adapter alone is trained, computed in its base's type without autocast, whose casts are cached."""
        return self.loaded.has_adapter and not self.args.bf16 and not self.args.fp16

    @property
    def can_replay(self) -> bool:
        """Whether passes can be recorded: an adapter in the type of its base on a GPU whose attention takes rows end to
        end, and nothing that draws random numbers while layers are computed again."""
        has_flat_kernel = self.loaded.layers.records and has_varlen(self.loaded.device, self.loaded.precision.dtype)
        draws_again = self.plan.recomputed_layers > 0 and has_dropout(self.loaded.causal_lm)
        return (
            has_flat_kernel
            and self.trains_in_one_type
            and not draws_again
            and not self.is_sharded
            and self.objective.takes_hidden_states
        )

    def record_ahead(self, num_steps: int, *others: Sequence[int]) -> None:
        """Record every size of micro-batch that the run will come to, so that no step waits for it.

        others: places of rows that will be a step, too. They are recorded with the rest: a size above the largest one
        would not find its memory in what those have left free.
        """
        if self.passes is None:
            return
        steps = list(others)
        for epoch in range(-(-num_steps // len(self.order))):
            self.order.set_epoch(epoch)
            steps += itertools.islice(self.order, num_steps - epoch * len(self.order))
        sizes = {
            self._size_of([places[index] for index in batch])
            for places in steps
            for batch in self.micro_batches.plan(self._lengths(places))
        }
        problem = None
        try:
            self.passes.record_sizes(sizes)
        except RecordingError as error:
            problem = error
        if any_process(problem is not None):  # all of them go the same way: they average in another one without
            self._give_up_replay(problem or RecordingError("another process could not record its passes"))

    def _size_of(self, places: Sequence[int]) -> Size:
        segments = self.segments_of(places)
        num_keys = sum(part.end for part in segments) if len(segments) > len(places) else 0
        return Size.of(count_tokens(segments), num_keys)

    def segments_of(self, places: Sequence[int]) -> list[Segment]:
        """What the rows of a micro-batch are computed as."""
        rows = self._rows(places)
        return find_segments(rows) if self.shares_prefixes else whole_rows(rows)

    def _give_up_replay(self, error: RecordingError) -> None:
        say(f"CUDA graphs: {error}; going on without them")
        assert self.passes is not None
        self.passes.forget()
        self.passes = None

    def training_step(
        self, model: torch.nn.Module, inputs: Mapping[str, list[int]], num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Forward and backward of a step's rows in micro-batches; out of memory, again in smaller ones.

        Returns the step's loss, detached.
        """
        places = inputs["places"]
        lengths = self._lengths(places)
        before = self.num_tokens_seen
        while True:
            try:
                return self._run_micro_batches(model, places, self.micro_batches.plan(lengths), num_items_in_batch)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if self.args.world_size > 1:  # the others wait in the middle of theirs
                    raise self.micro_batches.too_large() from None
            if self.passes is not None:
                self.passes.forget()
            self.guard.forget()  # outside of `except`: what it held of the failed attempt is free now
            self.num_tokens_seen = before
            model.zero_grad()
            if self.plan.unpacks:
                say("out of memory: from here on 4-bit weights are unpacked for each use")
                self.follow(replace(self.plan, unpacks=False, micro_batch_tokens=self.micro_batches.max_tokens))
            else:
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
        if self.passes is not None and divisor is not None:
            try:
                return self._replay_micro_batches(self.passes, places, batches, divisor)
            except RecordingError as error:
                if self.args.world_size > 1:  # the others wait for this one's gradients
                    raise RunError(f"CUDA graphs: {error}; go on with --no-cuda_graphs") from None
                self._give_up_replay(error)
                self.guard.forget()
                model.zero_grad()
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

    def _replay_micro_batches(
        self, passes: ReplayedPasses, places: Sequence[int], batches: Sequence[Sequence[int]], divisor: torch.Tensor
    ) -> torch.Tensor:
        total = torch.zeros((), device=self.args.device)
        passes.begin_step()
        before = self.num_tokens_seen
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
        return self.objective.loss_of_hidden(hidden, batch, divisor) * self.args.world_size  # processes are averaged

    def _count(self, loss: torch.Tensor, places: Sequence[int]) -> None:
        self.num_tokens_seen += sum(self._lengths(places))
        self.guard.note(loss, list(places))

    def _rows(self, places: Sequence[int]) -> list[Encoded]:
        return [self.train_rows[place] for place in places]

    def _lengths(self, places: Sequence[int]) -> list[int]:
        return [len(row.input_ids) for row in self._rows(places)]

    @property
    def is_sharded(self) -> bool:
        """Whether the weights lie in pieces over the processes (FSDP, ZeRO-3)."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    @property
    def _shortest(self) -> int:
        return min(range(len(self.train_rows)), key=lambda place: len(self.train_rows[place].input_ids))

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor | float | None:
        """The norm before clipping; looked up among what is trained, not in all modules, and noted for the guard.

        DeepSpeed clips by itself, and tells a float.
        """
        if self.is_sharded:
            norm = super()._clip_grad_norm(model)
        else:
            self.accelerator.unscale_gradients()
            trained = [weight for group in self.optimizer.param_groups for weight in group["params"]]
            norm = torch.nn.utils.clip_grad_norm_(trained, self.args.max_grad_norm)
        self.guard.norm = norm
        return norm
