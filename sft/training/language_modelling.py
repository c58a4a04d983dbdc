"""The objective of a chat model: predict the supervised tokens of each row.

The loss of a step is the sum over its supervised tokens divided by their number, whatever the micro-batches; logits are
formed only at supervised positions. Validation is token-weighted (sft.scoring).
"""

from collections.abc import Sequence

import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy

from prompts import Encoded
from sft.backend import UNSLOTH
from sft.batching import IGNORED, Batch, Predictors, tensor_of
from sft.config.decoding import choose_decoding
from sft.generation import generate_batch
from sft.models.loaded import LoadedModel
from sft.models.precision import is_launched_sharded
from sft.scoring import RowScore, score_rows, token_weighted_loss
from sft.training.chunked_loss import chunked_nll, head_left_out, is_frozen_linear
from sft.training.objective import Sample
from sft.training.sharded import score_in_step


class LanguageModelling:
    """An Objective (sft.training.objective)."""

    figures: Sequence[str] = ("loss",)
    loss_unit = "nats per supervised token"
    shares_prefixes = True

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded

    def count_terms(self, row: Encoded) -> int:
        """Tokens of a row that carry loss in a batch: all supervised ones but the first, which nothing predicts."""
        return row.num_supervised - row.loss_mask[0]

    def as_dataset(self, rows: Sequence[Encoded]) -> Dataset:
        """Columns input_ids and labels (-100 where not supervised)."""
        return as_dataset(rows)

    def collate(self, rows: Sequence[Encoded], *, shares: bool = False) -> Batch:
        """Rows -> one batch in the layout the backend takes."""
        return self.loaded.lay_out(rows, shares=shares)

    def compute_loss(self, model: torch.nn.Module, batch: Batch, divisor: torch.Tensor | int | None) -> torch.Tensor:
        """Sum of the nll of the batch's supervised tokens / divisor."""
        if self.loaded.backend == UNSLOTH:
            labels = tensor_of(batch["labels"])
            divisor = (labels != IGNORED).sum() if divisor is None else divisor
            loss: torch.Tensor = model(**batch, num_items_in_batch=divisor, use_cache=False).loss
            return loss
        asked = Predictors.of(batch)
        if len(asked.targets) == 0:
            raise RuntimeError("a batch without a supervised token reached the trainer")
        divisor = len(asked.targets) if divisor is None else divisor
        forward = {name: value for name, value in batch.items() if name != "labels"}
        forward |= {"logits_to_keep": asked.columns, "use_cache": False}
        if self.takes_hidden_states:
            with head_left_out(self.loaded.causal_lm):
                hidden = asked.pick(model(**forward).logits)  # (N, D)
            return chunked_nll(hidden, self.loaded.causal_lm.get_output_embeddings(), asked.targets) / divisor
        logits = asked.pick(model(**forward).logits)  # (N, V)
        return cross_entropy(logits.float(), asked.targets, reduction="sum") / divisor

    @property
    def takes_hidden_states(self) -> bool:
        """Whether the loss can be had from what the layers return, without the model's own output layer."""
        head = self.loaded.causal_lm.get_output_embeddings()
        return is_frozen_linear(head) and not is_launched_sharded() and self.loaded.output_layer.is_plain

    def loss_of_hidden(self, hidden: torch.Tensor, batch: Batch, divisor: torch.Tensor | int) -> torch.Tensor:
        """As compute_loss, from the hidden states of all tokens (T, D), flat."""
        kept, head = tensor_of(batch["logits_to_keep"]), self.loaded.causal_lm.get_output_embeddings()
        return chunked_nll(hidden[kept], head, tensor_of(batch["labels"])[0, kept + 1]) / divisor

    def score(self, rows: Sequence[Encoded], *, sharded: torch.nn.Module | None = None) -> list[RowScore]:
        """Each row's nll over its supervised tokens."""
        if sharded is not None:
            return score_in_step(sharded, self.loaded, rows)
        return score_rows(self.loaded, rows, description="validation", shown=False)

    def summarise(self, scores: Sequence[RowScore]) -> dict[str, float]:
        """The token-weighted loss."""
        return {"loss": token_weighted_loss(scores)}

    def answer(self, rows: Sequence[Encoded]) -> list[Sample]:
        """Greedy answers, as long as the longest reference among the rows and a little more."""
        room = max(row.num_supervised for row in rows) + 8
        decoding = choose_decoding("precise", max_new_tokens=room)
        answers = generate_batch(self.loaded, [row.prompt_ids for row in rows], decoding)
        return [Sample(self._reference_of(row), found.text) for row, found in zip(rows, answers, strict=True)]

    def _reference_of(self, row: Encoded) -> str:
        ids = row.input_ids[len(row.prompt_ids) :]
        return self.loaded.chat.decode([token for token in ids if token not in self.loaded.chat.end_ids]).strip("\n")


def as_dataset(rows: Sequence[Encoded]) -> Dataset:
    """Columns input_ids and labels (-100 where not supervised), as TRL wants to see tokenised rows."""
    return Dataset.from_dict(
        {
            "input_ids": [row.input_ids for row in rows],
            "labels": [
                [token if flag else IGNORED for token, flag in zip(row.input_ids, row.loss_mask, strict=True)]
                for row in rows
            ],
        }
    )
