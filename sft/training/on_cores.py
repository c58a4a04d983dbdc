"""A micro-batch on a CPU with its rows divided among the cores, each of which runs forward and backward alone.

Cores that share every operation wait for each other after each one, some hundred times per layer: with two cores and 4
rows of 240 tokens, 62 ms per layer together and 53 apart; with 4 rows of 75 tokens there is no difference. The
gradients of the parts are added in a fixed order, so runs with the same number of threads are bit-identical.

    parts = share_out([256, 250, 240, 214], cores=2)            # [[0, 3], [1, 2]]
    loss = compute_apart(loaded, objective, rows, parts, divisor)
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from prompts import Encoded
from sft.batches import flatten_rows, tensor_of
from sft.kernels.cpu import map_at_once
from sft.kernels.lora import cast_at_once
from sft.models.loaded import LoadedModel
from sft.training.memory import has_dropout
from sft.training.objective import Objective
from sft.training.processes import deal_rows

SLACK = 1.15  # tokens of the largest part / mean; above it the other cores wait too long
FEWEST_TOKENS = 320  # of a part on average; below it the overhead of each operation exceeds the gain
LAYOUT = ("position_ids", "cu_seq_lens_q", "max_length_q", "cu_seq_lens_k", "max_length_k", "key_places", "seq_idx")
Result = tuple[torch.Tensor, tuple[torch.Tensor | None, ...]]  # a part's loss and gradients


def can_compute_apart(loaded: LoadedModel, objective: Objective[Any]) -> bool:
    """Whether cores can compute rows apart: layers and head draw no random numbers (cores would draw them in no fixed
    order), the input embeddings are not trained, and the objective takes hidden states."""
    embeddings = loaded.causal_lm.get_input_embeddings()
    return (
        loaded.device.type == "cpu"
        and not any(weight.requires_grad for weight in embeddings.parameters())
        and loaded.layers.flat
        and loaded.layers.embeds
        and objective.takes_hidden_states
        and not has_dropout(loaded.causal_lm)
        and not getattr(loaded.causal_lm.config, "head_dropout", 0)
    )


def share_out(lengths: Sequence[int], cores: int) -> list[list[int]]:
    """Indices of rows in parts of about equally many tokens, at most one per core; fewer, or [], if few or uneven.

    [356, 350, 340, 314], 2 -> [[0, 3], [1, 2]]; [900, 20, 20], 2 -> [].
    """
    for number in range(min(cores, len(lengths), sum(lengths) // FEWEST_TOKENS), 1, -1):
        parts = deal_rows(range(len(lengths)), lengths, number)
        if max(sum(lengths[index] for index in part) for part in parts) * number <= SLACK * sum(lengths):
            return parts
    return []


def compute_apart(
    loaded: LoadedModel,
    objective: Objective[Any],
    rows: Sequence[Encoded],
    parts: Sequence[Sequence[int]],
    divisor: torch.Tensor | int,
    *,
    shares: bool = False,
) -> torch.Tensor:
    """objective.compute_loss of the rows, (). The gradients are computed here; its backward pass only hands them on.

    Requires can_compute_apart, within loaded.flat_rows(). Hooks of the embeddings run once for all rows or, if rows of
    a part share prefixes (shares), once per part.
    """
    model = loaded.causal_lm
    embed = model.get_input_embeddings()
    embedded = () if shares else _embed_rows(embed, rows)

    def compute(part: Sequence[int]) -> torch.Tensor:
        batch = objective.collate([rows[index] for index in part], shares=shares)
        layout = {name: value for name, value in batch.items() if name in LAYOUT}
        given = embed(batch["input_ids"]) if shares else torch.cat([embedded[index] for index in part], dim=1)
        hidden = model.base_model(inputs_embeds=given, **layout, use_cache=False).last_hidden_state
        return objective.loss_of_hidden(hidden.squeeze(0), batch, divisor)

    trained = [weight for weight in loaded.model.parameters() if weight.requires_grad]
    with cast_at_once(loaded.model):
        loss: torch.Tensor = _SumOfParts.apply(compute, parts, *trained)
    return loss


@torch.no_grad()
def _embed_rows(embed: torch.nn.Module, rows: Sequence[Encoded]) -> tuple[torch.Tensor, ...]:
    """All rows at once -> (1, T, D) each."""
    embedded: torch.Tensor = embed(tensor_of(flatten_rows(rows)["input_ids"]))
    return embedded.split([len(row.input_ids) for row in rows], dim=1)


class _SumOfParts(torch.autograd.Function):
    """The sum of the parts' losses. Both passes of all parts are in the forward pass."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        compute: Callable[[Sequence[int]], torch.Tensor],
        parts: Sequence[Sequence[int]],
        *weights: torch.Tensor,
    ) -> torch.Tensor:
        """weights: all that are trained. -> ()"""

        def work(part: Sequence[int]) -> Result:
            with torch.enable_grad():
                loss = compute(part)
                return loss.detach(), torch.autograd.grad(loss, weights, allow_unused=True)

        losses, gradients = zip(*map_at_once(work, parts), strict=True)
        ctx.save_for_backward(*(_add(found) for found in zip(*gradients, strict=True)))
        total: torch.Tensor = sum(losses[1:], start=losses[0])
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """grad () -> the gradients of the weights."""
        return None, None, *(None if found is None else found * grad for found in ctx.saved_tensors)


def _add(found: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The parts' gradients of one weight; None if it had no part in any."""
    there = [gradient for gradient in found if gradient is not None]
    return sum(there[1:], start=there[0]) if there else None
