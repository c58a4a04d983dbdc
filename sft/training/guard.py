"""Stops a run in the step whose loss or gradient is no number any more, before the weights take it up.

One infinite gradient makes every weight NaN, and the trainer would go on, save that, and call the run finished.
"""

import math
from collections.abc import Sequence

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sft.errors import UserError

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

    def note(self, loss: torch.Tensor, places: list[int]) -> None:
        """Remember a micro-batch: its loss and which rows it held. It is looked at once a step: each look waits."""
        self._losses.append(loss.detach())
        self._places.append(places)

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        *,
        model: torch.nn.Module,
        **_: object,
    ) -> None:
        """Raises DivergedError where the step's loss or gradients are not finite; the weights are still as before.

        In fp16 the loss scaler skips steps with infinite gradients itself, that is how it finds its scale.
        """
        losses, places = torch.stack(self._losses).tolist(), self._places
        self._losses, self._places = [], []
        bad = [index for index, loss in enumerate(losses) if not math.isfinite(loss)]
        step = state.global_step + 1
        if bad:
            rows = name_rows([self.row_names[place] for index in bad for place in places[index]])
            raise DivergedError(f"step {step}: the loss is {losses[bad[0]]} on {rows}; {ADVICE}")
        gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
        if not args.fp16 and not torch.nn.utils.get_total_norm(gradients).isfinite():
            rows = name_rows([self.row_names[place] for part in places for place in part])
            raise DivergedError(f"step {step}: a gradient is not finite, though the loss is, on {rows}; {ADVICE}")


def check_validation(losses: Sequence[float], row_names: Sequence[str], step: int) -> None:
    """Raises DivergedError where a validation row's loss is not finite: nothing is saved of such weights."""
    bad = [name for name, loss in zip(row_names, losses, strict=True) if not math.isfinite(loss)]
    if bad:
        raise DivergedError(f"validation after step {step}: the loss is not finite on {name_rows(bad)}; {ADVICE}")


def name_rows(names: Sequence[str]) -> str:
    """`row reviews-17`, `rows a, b, c and 12 more`."""
    named = ", ".join(names[:MAX_NAMED])
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"row{'s' if len(names) > 1 else ''} {named}{more}"
