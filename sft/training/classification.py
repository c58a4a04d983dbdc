"""The objective of a classification head: predict each row's class.

The loss is the mean cross-entropy over the rows of a step, independent of micro-batches. A validation reports the loss,
accuracy and macro F1 of all its rows, from one pass over them.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy

from prompts import Encoded
from sft.backend import is_launched_sharded
from sft.batches.layout import TOKENS_PER_BATCH, Batch, plan_batches, tensor_of
from sft.metrics.classification import summarise_labels
from sft.models.head import pool_flat, score_pooled
from sft.models.loaded import LoadedModel, in_eval_mode
from sft.scoring.classes import classify_batch, collate_prompts, score_classes
from sft.training.objective import Sample
from sft.training.processes import as_often_as_others


class ClassScore(NamedTuple):
    """One row: negative log-probability of its class in nats, the class the head says, and the right one."""

    nll: float
    said: int
    right: int


class Classification:
    """An Objective (sft.training.objective)."""

    figures: Sequence[str] = ("loss", "accuracy", "macro_f1")
    loss_unit = "nats per row"
    shares_prefixes = False  # the head reads whole rows

    def __init__(self, loaded: LoadedModel) -> None:
        assert loaded.head is not None
        self.loaded, self.head = loaded, loaded.head

    def count_terms(self, row: Encoded) -> int:
        """A row is one term."""
        return 1

    def collate(self, rows: Sequence[Encoded], *, shares: bool = False) -> Batch:
        """Prompts in the layout the backend takes, and labels (B,)."""
        return {**collate_prompts(self.loaded, rows), "labels": torch.tensor([_class_of(row) for row in rows])}

    def compute_loss(self, model: torch.nn.Module, batch: Batch, divisor: torch.Tensor | int | None) -> torch.Tensor:
        """Sum of the rows' cross-entropies / divisor."""
        labels = tensor_of(batch["labels"])
        logits = model(**{name: value for name, value in batch.items() if name != "labels"}, use_cache=False).logits
        return cross_entropy(logits, labels, reduction="sum") / (len(labels) if divisor is None else divisor)

    @property
    def takes_hidden_states(self) -> bool:
        """True unless the head is sharded."""
        return not is_launched_sharded()

    def loss_of_hidden(self, hidden: torch.Tensor, batch: Batch, divisor: torch.Tensor | int) -> torch.Tensor:
        """compute_loss from the hidden states of all tokens of a flat batch, (T, D)."""
        bounds, labels = tensor_of(batch["cu_seq_lens_q"]), tensor_of(batch["labels"])
        logits = score_pooled(self.loaded.causal_lm, pool_flat(hidden, bounds, self.head.pooling))
        return cross_entropy(logits, labels, reduction="sum") / divisor

    def score(self, rows: Sequence[Encoded], *, sharded: torch.nn.Module | None = None) -> list[ClassScore]:
        """The head's prediction for each row."""
        prompts = [row.input_ids for row in rows]
        if sharded is None:
            table = score_classes(self.loaded, prompts, description="validation", shown=False)
        else:
            table = self._score_in_step(sharded, prompts)
        right = torch.tensor([_class_of(row) for row in rows])
        nll = -table.gather(1, right[:, None])[:, 0]
        return [
            ClassScore(*found) for found in zip(nll.tolist(), table.argmax(1).tolist(), right.tolist(), strict=True)
        ]

    def _score_in_step(self, model: torch.nn.Module, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Log-probabilities (N, C) by the whole model's forward, which all processes call equally often."""
        table = torch.empty(len(prompts), len(self.head.labels))
        batches = plan_batches([len(prompt) for prompt in prompts], TOKENS_PER_BATCH[self.loaded.device.type])
        with in_eval_mode(model), torch.no_grad():
            for places in as_often_as_others(batches):
                table[places] = classify_batch(self.loaded, [prompts[place] for place in places], model)
        return table

    def summarise(self, scores: Sequence[ClassScore]) -> dict[str, float]:
        """Mean nll of the rows, accuracy, and macro F1 over the classes that occur."""
        names = self.head.labels
        found = summarise_labels([names[one.right] for one in scores], [names[one.said] for one in scores], names)
        loss = math.fsum(one.nll for one in scores) / len(scores)
        return {"loss": loss, "accuracy": found["accuracy"], "macro_f1": found["macro_f1"]}

    def answer(self, rows: Sequence[Encoded]) -> list[Sample]:
        """The class of each row, and the one the head says."""
        return [Sample(self.head.labels[one.right], self.head.labels[one.said]) for one in self.score(rows)]


def _class_of(row: Encoded) -> int:
    assert row.label is not None, "a row without a class reached the objective of a classification head"
    return row.label
