"""Stops a run in the step whose loss or gradient is no number any more, before the weights take it up.

One infinite gradient makes every weight NaN, and the trainer would continue, save that, and call the run finished.
A run that learns nothing at all (no gradient) is stopped, too, and a line reports one whose loss does not move.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sft.console import say
from sft.errors import DataError, UserError
from sft.training.processes import any_process

STILL_STEPS = 3  # steps in a row without any gradient: nothing is connected to the loss
WINDOW_STEPS = 50  # steps after the warm-up at which the loss is compared with that of the first ones
MOVED = 0.01  # share of the first loss that counts as movement
MAX_NAMED = 10  # rows that the error names
ADVICE = "lower --learning_rate, or look at these rows with inspect_data.py --row"


class DivergedError(UserError):
    """A loss or gradient that is not finite: `step 7: the loss is nan on row reviews-17; lower --learning_rate, ...`"""


class FiniteGuard(TrainerCallback):
    """Looks at every step between its gradients and its update. `row_names[i]` is the id of training row i."""

    def __init__(self, row_names: Sequence[str]) -> None:
        self.row_names = row_names
        self._losses: list[torch.Tensor] = []  # one for each micro-batch of the step; stays on the device
        self._places: list[list[int]] = []
        self.norm: torch.Tensor | float | None = None  # of the step's gradients, from whoever clipped them
        self._step: _Step | None = None  # between its gradients and its end

    def forget(self) -> None:
        """Discard the notes on a step that is repeated, or was only a trial."""
        self._losses, self._places = [], []

    def note(self, loss: torch.Tensor, places: list[int]) -> None:
        """Remember a micro-batch: its loss and which rows it held. Checked once per step: each check waits."""
        self._losses.append(loss.detach())
        self._places.append(places)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        **_: object,
    ) -> None:
        """Keep the update from a step whose loss or gradients are not finite.

        An optimizer that can skip an update on its device is told to, and the step is checked after it has ended,
        because checking now would make the GPU wait for Python. With other optimizers DivergedError is raised now. The
        weights are unchanged either way.
        """
        norm, self.norm = self.norm, None
        if norm is None:
            gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # FSDP2's is in pieces
        self._step = _Step(torch.stack(self._losses) if self._losses else torch.zeros(0), self._places, norm)
        self.forget()
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        if isinstance(norm, torch.Tensor) and not args.fp16 and getattr(inner, "_step_supports_amp_scaling", False):
            inner.found_inf = self._step.is_bad()
        else:
            self._look(self._step, state.global_step + 1, args)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        """Raises DivergedError after a step that was not looked at before its update, and was left out."""
        if self._step is not None:
            self._look(self._step, state.global_step, args)

    def _look(self, found: "_Step", step: int, args: TrainingArguments) -> None:
        """In fp16 the loss scaler skips steps with infinite gradients itself, that is how it finds its scale."""
        self._step = None
        losses = found.losses.tolist()
        bad = [index for index, loss in enumerate(losses) if not math.isfinite(loss)]
        if bad:
            rows = name_rows([self.row_names[place] for index in bad for place in found.places[index]])
            any_process(True)
            raise DivergedError(f"step {step}: the loss is {losses[bad[0]]} on {rows}; {ADVICE}")
        if any_process(False):
            raise DivergedError(f"step {step}: the loss is not finite in another process, which names the rows")
        if not args.fp16 and not math.isfinite(found.norm):  # DeepSpeed's is a float
            rows = name_rows([self.row_names[place] for part in found.places for place in part])
            raise DivergedError(f"step {step}: a gradient is not finite, though the loss is, on {rows}; {ADVICE}")


class _Step(NamedTuple):
    """Results of a step: the loss (M,) and the rows of each micro-batch, the norm of its gradients."""

    losses: torch.Tensor
    places: list[list[int]]
    norm: torch.Tensor | float

    def is_bad(self) -> torch.Tensor:
        """() fp32, on the device: 1 where a loss or the norm is not finite."""
        norm = torch.as_tensor(self.norm).reshape(1).to(self.losses)
        return 1 - torch.cat([self.losses, norm]).isfinite().all().float()


class StalledError(UserError):
    """Nothing is learned: `step 3: no gradient for 3 steps; ...`"""


class StallGuard(TrainerCallback):
    """Ends a run without gradients, and warns once if the loss has not moved after many steps."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._num_still = 0

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: object,
    ) -> None:
        """Look at a training step's line. Raises StalledError after STILL_STEPS steps whose gradient is zero."""
        if not logs or "grad_norm" not in logs:
            return
        self._num_still = self._num_still + 1 if logs["grad_norm"] == 0 else 0
        if self._num_still >= STILL_STEPS:
            raise StalledError(
                f"step {state.global_step}: no gradient for {STILL_STEPS} steps, so nothing is learned; look at the "
                "line `trains ...` above, and at the rows with inspect_data.py: is anything supervised?"
            )
        self._losses.append(logs["loss"])
        tenth = WINDOW_STEPS // 5
        if len(self._losses) != args.get_warmup_steps(state.max_steps) + WINDOW_STEPS:
            return
        first, last = (sum(part) / tenth for part in (self._losses[:tenth], self._losses[-tenth:]))
        if abs(last - first) < MOVED * abs(first):
            say(
                f"WARNING the loss has not moved in {len(self._losses)} steps: {first:.4f} at first, {last:.4f} now; "
                "raise --learning_rate, or look at the rows with inspect_data.py"
            )


def check_kept(num_kept: int, num_read: int, max_dropped: float, report: str) -> None:
    """Raises DataError if more rows were dropped than expected; `report` says which and why."""
    if num_read - num_kept > max_dropped * num_read:
        raise DataError(
            f"{num_read - num_kept:,} of {num_read:,} training rows were dropped, more than the share of {max_dropped} "
            f"that --max_dropped allows: {report}; raise --max_seq_length, or --max_dropped"
        )


def check_validation(losses: Sequence[float], row_names: Sequence[str], step: int) -> None:
    """Raises DivergedError if a validation row's loss is not finite: nothing is saved of such weights."""
    bad = [name for name, loss in zip(row_names, losses, strict=True) if not math.isfinite(loss)]
    if bad:
        raise DivergedError(f"validation after step {step}: the loss is not finite on {name_rows(bad)}; {ADVICE}")


def name_rows(names: Sequence[str]) -> str:
    """`row reviews-17`, `rows a, b, c and 12 more`."""
    named = ", ".join(names[:MAX_NAMED])
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"row{'s' if len(names) > 1 else ''} {named}{more}"
