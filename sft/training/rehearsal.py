"""Before step 1: how much fits on the device, and how long it will take, tried and not guessed.

The longest rows go forward and backward through the trainer's own training step and the optimizer, at a learning rate
of zero: checkpointing, noise and precision are those of the run. Nothing is left of it: weights, optimizer, random
states and counters are as before.

A row of more than LONGEST_TRIED tokens would take minutes. Of such rows every second, third, ... token is tried, at two
lengths: memory is a line through both. Time grows with the tokens, and with their square in attention, whose kernel is
timed by itself.
"""

import contextlib
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy
import torch

from prompts import Encoded
from sft.backend import UNSLOTH
from sft.batches import GIBIBYTE, count_tokens, num_tokens_at_once
from sft.console.narration import format_duration
from sft.errors import ModelError, one_line
from sft.kernels.attention import time_attention
from sft.kernels.lora import unpacked_bytes
from sft.models.precision import memory_of_machine
from sft.training.log import peak_memory_gb
from sft.training.memory import (
    ENOUGH_TOKENS,
    MemoryLine,
    MemoryPlan,
    choose_plan,
    free_bytes,
    recompute_layers,
)
from sft.training.processes import any_process, largest
from sft.training.replay import RecordingError, Size
from sft.training.trainer import BeforeFirstStep, RowTrainer

SHARE_OF_FREE_RAM = 0.5  # that unpacked weights may take on a CPU, where other programs need some, too
SHARE_FOR_RECORDINGS = 0.8  # of the room on a GPU: micro-batches of many sizes leave gaps in the memory they share
STEPS_LOOKED_AT = 50  # to measure how many tokens shared prefixes save
LONGEST_TRIED = 12_288  # tokens of the longest row that is tried whole; 7B takes a second or two for it
NEVER_KEPT = 32_768  # tokens of a row above which no card has room for all activations, so it is not tried
FORWARD_SHARE = 1 / 3  # of a step's time per token: validation has no backward pass


@dataclass(frozen=True)
class Rehearsal:
    """What the longest micro-batch and a usual step took, and what the rest of a run of num_steps will."""

    num_steps: int
    num_steps_done: int  # before a resume
    num_epochs: float  # 0 if max_steps is set
    num_rows: int
    rows_per_step: int
    micro_batch_tokens: int
    micro_batches_per_step: float
    longest_batch_tokens: int
    shared: float  # share of the tokens saved by shared prefixes, 0 to 1
    recomputed_layers: int
    unpacks: bool
    host_gb: float | None  # of layer inputs in main memory; None if layers are not computed in pieces
    tokens_per_second: float
    peak_gb: float
    is_foreseen: bool  # peak and time are extrapolated from shorter rows
    total_gb: float
    step_s: float
    num_validations: int
    validation_s: float
    estimated_duration_s: int

    def report(self) -> str:
        """`plan: 8 rows per step in micro-batches of at most 16,384 tokens (1.4 per step), longest 8,190; ...`"""
        return (
            f"plan: {self.rows_per_step} rows per step in micro-batches of at most {self.micro_batch_tokens:,} tokens "
            f"({self.micro_batches_per_step:.1f} per step), longest {self.longest_batch_tokens:,}; {self._savings()}"
            f"peak {'about ' if self.is_foreseen else ''}{self.peak_gb:.1f} of {self.total_gb:.1f} GB; "
            f"{self.step_s:.2f} s per step, {self._steps()} and {self._validations()} in "
            f"about {format_duration(self.estimated_duration_s)}"
        )

    def _steps(self) -> str:
        """`152 steps (20 epochs of 60 rows)`, without epochs if max_steps is set; resumed, `10 of 40 steps left`."""
        if self.num_steps_done:
            return f"{self.num_steps - self.num_steps_done:,} of {self.num_steps:,} steps left"
        epochs = f" ({self.num_epochs:g} epochs of {self.num_rows:,} rows)" if self.num_epochs else ""
        return f"{self.num_steps:,} steps{epochs}"

    def _validations(self) -> str:
        """`a validation (4 s)`, `7 validations (4 s each)`."""
        seconds = f"{self.validation_s:.0f} s" if self.validation_s >= 1 else "under 1 s"
        return (
            f"a validation ({seconds})"
            if self.num_validations == 1
            else (f"{self.num_validations:,} validations ({seconds} each)")
        )

    def _savings(self) -> str:
        """How computation is saved or repeated: `72% of the tokens in shared prefixes, computed once; `."""
        percent, recomputed = round(100 * self.shared), self.recomputed_layers
        return (
            (f"{percent}% of the tokens in shared prefixes, computed once; " if percent else "")
            + (f"{recomputed} layers computed twice to spare memory; " if recomputed else "")
            + (
                f"layers in pieces, their inputs in {self.host_gb:.1f} GB of main memory; "
                if self.host_gb is not None
                else ""
            )
            + ("frozen weights held unpacked as well; " if self.unpacks else "")
        )


def rehearsing(tell: Callable[[Rehearsal], None]) -> BeforeFirstStep:
    """Return the hook that a RowTrainer calls before step 1: it plans, tries the longest batch and reports the plan."""
    return lambda trainer, model, is_resumed: tell(rehearse(trainer, model, is_resumed=is_resumed))


def rehearse(trainer: RowTrainer, model: torch.nn.Module, *, is_resumed: bool) -> Rehearsal:
    """Plan the micro-batches unless they are given, try the longest one, time a usual step.

    is_resumed: the optimizer has the state of a checkpoint, which is not touched.
    Raises OutOfMemoryError if not even one row fits.
    """
    trials = _Trials(trainer, model, updates=not is_resumed)
    order = sorted(trainer.packs, key=lambda pack: -sum(trainer.lengths_of(pack)))
    per_process = max(1, trainer.rows_per_step // trainer.args.world_size)
    places = [order[int((i + 0.5) * len(order) / per_process)] for i in range(min(per_process, len(order)))]
    longest_step, usual = (_longest_first(trainer, packs) for packs in (order[:per_process], places))
    trainer.passes = None  # trials are launched, not replayed, because the plan is not decided yet
    with trials.undone():
        trainer.follow(trials.choose_plan(longest_step))
        batch = trainer.micro_batches.plan(trainer.lengths_of(longest_step))[0]
        longest = [longest_step[index] for index in batch]
        if torch.cuda.is_available() and trainer.lengths_of(longest)[0] > LONGEST_TRIED:
            usual_s, peak_gb = trials.foresee(longest, usual)
            return _extrapolate(trainer, usual, usual_s, longest, peak_gb, is_foreseen=True)
        record_ahead(trainer, _count_steps(trainer), longest, usual)
        trials.step(longest)
        began = time.monotonic()
        trials.step(usual)
        usual_s = time.monotonic() - began
        peak_gb = peak_memory_gb()
    return _extrapolate(trainer, usual, usual_s, longest, peak_gb)


def _longest_first(trainer: RowTrainer, packs: Sequence[Sequence[int]]) -> list[int]:
    """Indices of all rows of some packs, longest row first."""
    places = [place for pack in packs for place in pack]
    return [
        place for _, place in sorted(zip(trainer.lengths_of(places), places, strict=True), key=lambda pair: -pair[0])
    ]


def record_ahead(trainer: RowTrainer, num_steps: int, *others: Sequence[int]) -> None:
    """Record every size of micro-batch of the run, so that no step waits for it.

    others: row indices of further steps. They are recorded with the rest, because the first recording, the largest,
    makes the memory that all others use.
    """
    if trainer.passes is None:
        return
    steps = list(others)
    for epoch in range(-(-num_steps // len(trainer.order))):
        trainer.order.set_epoch(epoch)
        steps += itertools.islice(trainer.order, num_steps - epoch * len(trainer.order))
    sizes = {
        _size_of(trainer, [places[index] for index in batch])
        for places in steps
        for batch in trainer.micro_batches.plan(trainer.lengths_of(places))
    }
    problem = None
    try:
        trainer.passes.record_sizes(sizes)
    except RecordingError as error:
        problem = error
    if any_process(problem is not None):  # all of them go the same way: they average in another one without
        trainer.give_up_replay(problem or RecordingError("another process could not record its passes"))


def _size_of(trainer: RowTrainer, places: Sequence[int]) -> Size:
    segments = trainer.segments_of(places)
    num_keys = sum(part.end for part in segments) if len(segments) > len(places) else 0
    return Size.of(count_tokens(segments), num_keys)


class Trial(NamedTuple):
    """A pass forward and backward of this many tokens: bytes above the resting state, and seconds."""

    tokens: int
    taken: float
    seconds: float


def thin_out(row: Encoded, most: int) -> Encoded:
    """A row's every second, third, ... token, so that at most this many are left: [a, b, c, d, e], 2 -> [a, d].

    One at least is supervised, and not the first.
    """
    step = -(-len(row.input_ids) // most)
    mask = row.loss_mask[::step]
    return replace(row, input_ids=row.input_ids[::step], loss_mask=[*mask[:-1], mask[-1] if any(mask[1:]) else 1])


@dataclass
class _Trials:
    """Rows sent through a trainer's own step, from its first forward pass to the optimizer, without a trace."""

    trainer: RowTrainer
    model: torch.nn.Module  # as the trainer has wrapped it
    updates: bool  # whether the optimizer's state may be made and thrown away again
    trials: list[Trial] = field(default_factory=list)  # of the line that was tried last

    def choose_plan(self, rows: Sequence[int]) -> MemoryPlan:
        """How to spend the memory there is, from trials with the longest rows.

        A CPU has one budget, and room or none for unpacked weights.
        """
        trainer = self.trainer
        unpacked = 0 if trainer.recomputes else unpacked_bytes(trainer.loaded.model)
        if not torch.cuda.is_available():
            return replace(trainer.plan, unpacks=0 < unpacked < SHARE_OF_FREE_RAM * free_bytes())
        in_batch = trainer.lengths_of(rows)
        most = num_tokens_at_once(in_batch, trainer.micro_batches.padded)  # a step has no more
        most = min(most, trainer.micro_batch_tokens or most)
        chooses = trainer.recomputes is None and trainer.loaded.backend != UNSLOTH and not trainer.is_sharded
        kept = recomputed = offloaded = None
        if not trainer.offloads:
            if not trainer.recomputes and not (chooses and in_batch[0] > NEVER_KEPT):
                kept = self._try_line(rows[:4])
            is_short = kept is None or kept.tokens_in(free_bytes()) < min(most, ENOUGH_TOKENS)
            if trainer.recomputes or (chooses and is_short):
                recompute_layers(trainer.loaded.causal_lm, trainer.num_layers)
                few = [place for number, place in enumerate(rows) if sum(in_batch[: number + 1]) <= ENOUGH_TOKENS]
                recomputed = self._try_line(few or rows[:1])  # a plan has no more, either
        fits = [line for line in (kept, recomputed) if line and line.tokens_in(free_bytes()) >= in_batch[0]]
        may_offload = trainer.offloads is not False and trainer.recomputes is not False
        if not fits and may_offload and not trainer.long_rows.why_not(trainer.loaded, is_sharded=trainer.is_sharded):
            offloaded = self._try_offloaded(rows)
        if kept is None and recomputed is None and offloaded is None:
            raise trainer.micro_batches.no_row_fits(in_batch[0])
        plan = choose_plan(
            kept,
            recomputed,
            offloaded,
            room=free_bytes() * (SHARE_FOR_RECORDINGS if trainer.wants_replay and trainer.can_replay else 1),
            most_tokens=most,
            longest_tokens=in_batch[0],
            num_layers=trainer.num_layers,
            unpacked=unpacked,
            spares_memory=trainer.recomputes is True,
        )
        return replace(plan, micro_batch_tokens=-largest(-plan.micro_batch_tokens))  # the smallest of the processes

    def step(self, places: Sequence[int]) -> None:
        """An optimizer step of these rows, at a learning rate of zero."""
        count = self.trainer.count_terms(places)
        self.trainer.training_step(self.model, {"places": list(places)}, count)
        if self._can_update():
            self.trainer.optimizer.step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def _try_offloaded(self, rows: Sequence[int]) -> MemoryLine | None:
        """Bytes by tokens with layer inputs on the host; raises OutOfMemoryError where that has no room for them."""
        trainer = self.trainer
        trainer.long_rows.check_host(trainer.lengths_of(rows[:1])[0])
        recompute_layers(trainer.loaded.causal_lm, 0)
        trainer.long_rows.install()
        return self._try_line(rows[:1])

    def _try_line(self, rows: Sequence[int]) -> MemoryLine | None:
        """Bytes by tokens from two trials: the longest row alone, and several if they fit; None if none does.

        A long row is tried thinned out, at two lengths.
        """
        trainer = self.trainer
        trials: list[Trial] = []
        tries: list[tuple[Sequence[int], int | None]] = [
            (chosen, None) for chosen in (rows[:1], rows[: max(1, len(rows) // 2)], rows)
        ]
        first = tries[0]
        if is_long := trainer.lengths_of(rows[:1])[0] > LONGEST_TRIED:
            tries = [(rows[:1], LONGEST_TRIED // 2), (rows[:1], LONGEST_TRIED)]
            first = tries[1]  # the larger one makes the buffers of both
        shares, trainer.shares_prefixes = (
            trainer.shares_prefixes,
            False,
        )  # other rows with the same number of tokens may share less
        try:
            with self._thinned_out(*first):
                self._forward_and_backward(rows[:1])  # gradients and optimizer states are there from here on
            if self._can_update():
                trainer.optimizer.step()
            for chosen, most in tries:
                with self._thinned_out(chosen, most):
                    torch.cuda.synchronize()
                    torch.cuda.reset_peak_memory_stats()
                    resting, began = torch.cuda.memory_allocated(), time.monotonic()
                    self._forward_and_backward(chosen)
                    torch.cuda.synchronize()
                    tokens = num_tokens_at_once(trainer.lengths_of(chosen), trainer.micro_batches.padded)
                    taken = float(torch.cuda.max_memory_allocated() - resting)
                    trials.append(Trial(tokens, taken, time.monotonic() - began))
        except torch.OutOfMemoryError:
            pass
        finally:
            trainer.shares_prefixes = shares
        if len(trials) < len(tries):
            self.model.zero_grad()
            torch.cuda.empty_cache()
        trainer.guard.forget()
        self.trials = trials
        if not trials:
            return None
        if is_long and len(trials) == len(tries):
            return self._line_of(trials)
        return MemoryLine.through(trials[0][:2], trials[-1][:2])

    @contextmanager
    def _thinned_out(self, places: Sequence[int], most: int | None) -> Iterator[None]:
        """Inside, the rows at these indices have at most this many tokens, the supervised share kept; None: all."""
        trainer = self.trainer
        rows = trainer.train_rows
        if most is not None:
            trainer.train_rows = list(rows)
            for place in places:
                trainer.train_rows[place] = thin_out(rows[place], most)
        try:
            yield
        finally:
            trainer.train_rows = rows

    def _line_of(self, trials: Sequence[Trial]) -> MemoryLine:
        """The line through two trials, one twice as long; with layers in pieces at least as steep as token_bytes."""
        rows = self.trainer.long_rows
        (small, less, _), (large, more, _) = trials
        slope = max((more - less) / (large - small), rows.token_bytes if rows.is_installed else 1.0)
        return MemoryLine(more - slope * large, slope)

    def foresee(self, longest: Sequence[int], usual: Sequence[int]) -> tuple[float, float]:
        """Seconds of a usual step and the peak of the longest micro-batch, GB, from trials that were shorter."""
        trainer = self.trainer
        if not trainer.plan.offloads:  # which was tried last
            self._try_line(longest[:1])
        if len(self.trials) < 2:
            raise trainer.micro_batches.no_row_fits(trainer.lengths_of(longest)[0])
        large, squared = self.trials[-1], self._time_attention()
        linear = max(0.0, large.seconds / large.tokens - squared * large.tokens)
        step_s = sum(linear * length + squared * length**2 for length in trainer.lengths_of(usual))
        line = self._line_of(self.trials)
        tokens = num_tokens_at_once(trainer.lengths_of(longest), trainer.micro_batches.padded)
        return step_s, (torch.cuda.memory_allocated() + line.fixed + line.slope * tokens) / GIBIBYTE

    def _time_attention(self) -> float:
        """Seconds of attention in a step per squared token of a row, over all layers with full attention.

        The kernel is timed alone, because at LONGEST_TRIED tokens attention is too small a part of a step to measure.
        """
        loaded, plan = self.trainer.loaded, self.trainer.plan
        config = loaded.causal_lm.config.get_text_config(decoder=True)
        forward_s, backward_s = time_attention(config, LONGEST_TRIED, loaded.device, loaded.precision.dtype)
        is_twice = plan.recomputed_layers > 0 or (plan.offloads and not self.trainer.long_rows.keeps_attention)
        kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        num_layers = kinds[: config.num_hidden_layers].count("full_attention")
        return num_layers * (forward_s * (1 + is_twice) + backward_s) / LONGEST_TRIED**2

    def _forward_and_backward(self, places: Sequence[int]) -> None:
        """Run one micro-batch; processes do not wait for each other, because one may run out of memory alone."""
        trainer = self.trainer
        count = trainer.count_terms(places)
        try:
            with contextlib.nullcontext() if trainer.is_sharded else trainer.accelerator.no_sync(self.model):
                trainer.run_micro_batches(self.model, places, [list(range(len(places)))], count)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # third-party kernels refuse cards and versions on which they compute wrongly
            name = type(trainer.loaded.causal_lm).__name__
            raise ModelError(f"{name}: a pass forward and backward fails here: {one_line(error, 300)}") from error

    def _can_update(self) -> bool:
        """Whether the trial may update: the optimizer has no state to protect, and the gradients are finite."""
        gradients = [weight.grad for weight in self.model.parameters() if weight.grad is not None]
        may = self.updates and not self.trainer.is_sharded and bool(gradients)
        return may and bool(torch.nn.utils.get_total_norm(gradients).isfinite())

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Undo everything that trials inside change.

        At a learning rate of zero an update changes no weight; the optimizer's state, gradients, random states and
        counters are restored.
        """
        trainer, model, optimizer = self.trainer, self.model, self.trainer.optimizer
        assert optimizer is not None  # _prepare_for_training has made it
        rates = [group["lr"] for group in optimizer.param_groups]
        scaler = getattr(trainer.accelerator, "scaler", None)
        scale = scaler.state_dict() if scaler is not None else None
        states = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
        devices = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        num_tokens, was_training = trainer.num_tokens_seen, model.training
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        try:
            yield
        finally:
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            if self.updates:
                inner: torch.optim.Optimizer = getattr(optimizer, "optimizer", optimizer)
                inner.state.clear()
            if scaler is not None and scale is not None:
                scaler.load_state_dict(scale)
            model.zero_grad()
            trainer.guard.forget()
            trainer.num_tokens_seen = num_tokens
            model.train(was_training)
            random.setstate(states[0])
            numpy.random.set_state(states[1])
            torch.set_rng_state(states[2])
            if devices is not None:
                torch.cuda.set_rng_state(devices)


def _extrapolate(
    trainer: RowTrainer,
    usual: Sequence[int],
    usual_s: float,
    longest: Sequence[int],
    peak: float,
    *,
    is_foreseen: bool = False,
) -> Rehearsal:
    """From a usual step to the whole run: time follows the tokens."""
    args, planned, lengths = trainer.args, trainer.micro_batches, [len(row.input_ids) for row in trainer.train_rows]
    num_steps = _count_steps(trainer)
    packs = min(trainer.rows_per_step, len(trainer.packs)) / args.world_size
    usual_tokens = sum(trainer.lengths_of(usual))
    step_s = usual_s * (packs * sum(lengths) / len(trainer.packs)) / usual_tokens
    validation_tokens = sum(len(row.input_ids) for row in trainer.validation_rows)
    validation_tokens += sum(getattr(measure, "num_tokens", 0) for measure in trainer.measures)
    done = trainer.state.global_step
    num_validations = math.ceil(num_steps / args.eval_steps) - done // int(args.eval_steps)
    validation_s = validation_tokens / args.world_size * FORWARD_SHARE * usual_s / usual_tokens
    return Rehearsal(
        num_steps=num_steps,
        num_steps_done=done,
        num_epochs=0 if args.max_steps > 0 else args.num_train_epochs,
        num_rows=len(lengths),
        rows_per_step=trainer.rows_per_step,
        micro_batch_tokens=planned.max_tokens,
        micro_batches_per_step=len(planned.plan(trainer.lengths_of(usual))),
        recomputed_layers=trainer.plan.recomputed_layers,
        unpacks=trainer.plan.unpacks,
        shared=_measure_shared(trainer),
        longest_batch_tokens=num_tokens_at_once(trainer.lengths_of(longest), planned.padded),
        tokens_per_second=round(usual_tokens * args.world_size / usual_s, 1),
        host_gb=round(trainer.long_rows.host_bytes(sum(trainer.lengths_of(longest))) / GIBIBYTE, 1)
        if trainer.plan.offloads
        else None,
        peak_gb=round(peak, 2),
        is_foreseen=is_foreseen,
        total_gb=round(total_memory_gb(), 1),
        step_s=round(step_s, 3),
        num_validations=num_validations,
        validation_s=round(validation_s, 1),
        estimated_duration_s=round((num_steps - done) * step_s + num_validations * validation_s),
    )


def _measure_shared(trainer: RowTrainer) -> float:
    """Share of the tokens of the first steps that shared prefixes save."""
    tokens = computed = 0
    trainer.order.set_epoch(0)
    for places in itertools.islice(trainer.order, STEPS_LOOKED_AT):
        in_step = trainer.lengths_of(places)
        tokens += sum(in_step)
        for batch in trainer.micro_batches.plan(in_step):
            computed += count_tokens(trainer.segments_of([places[index] for index in batch]))
    return 1 - computed / tokens


def _count_steps(trainer: RowTrainer) -> int:
    """Optimiser steps of the whole run."""
    args = trainer.args
    return int(args.max_steps) if args.max_steps > 0 else math.ceil(len(trainer.order) * args.num_train_epochs)


def total_memory_gb() -> float:
    """Memory there is: of the GPU, up to the limit of this process, or of the machine, GB of 2**30 bytes."""
    if torch.cuda.is_available():
        return torch.cuda.get_per_process_memory_fraction() * float(torch.cuda.mem_get_info()[1]) / GIBIBYTE
    return memory_of_machine() / GIBIBYTE
