"""How rows become a loss: the interface between the trainer, which makes steps, and an objective.

The trainer handles order, micro-batches, processes, guards and checkpoints; an objective makes the tensors of rows,
their loss, and the figures of a validation. sft.training.language_modelling is one.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import torch

from prompts import Encoded
from sft.batches.layout import Batch


class Score(Protocol):
    """One validation row's score."""

    @property
    def nll(self) -> float:
        """Negative log-likelihood of the row's reference, nats, fp32 or better."""


class Sample(NamedTuple):
    """Reference and prediction of a validation row: Sample("正面", "负面")."""

    reference: str
    prediction: str


S = TypeVar("S", bound=Score)


class Objective(Protocol[S]):
    """How the rows of one run become a loss; it holds the model."""

    figures: Sequence[str]  # names of the figures that summarise returns: ("loss", "macro_f1")
    loss_unit: str  # "nats per supervised token"
    shares_prefixes: bool  # whether collate can store shared prefixes once

    def count_terms(self, row: Encoded) -> int:
        """Number of a row's loss terms: the loss of a step is the sum of all terms divided by their number."""

    def collate(self, rows: Sequence[Encoded], *, shares: bool = False) -> Batch:
        """The rows of a micro-batch as tensors, including `row_lengths` (B,).

        shares: store shared prefixes once, if possible.
        """

    def compute_loss(self, model: torch.nn.Module, batch: Batch, divisor: torch.Tensor | int | None) -> torch.Tensor:
        """Sum of the batch's loss terms / divisor, by the forward of `model`; None: divided by their number.

        batch: collate's, without row_lengths, on the model's device. Called within loaded.flat_rows().
        """

    @property
    def takes_hidden_states(self) -> bool:
        """Whether loss_of_hidden is available."""

    def loss_of_hidden(self, hidden: torch.Tensor, batch: Batch, divisor: torch.Tensor | int) -> torch.Tensor:
        """compute_loss from the layers' output for all tokens of a flat batch, (T, D)."""

    def score(self, rows: Sequence[Encoded], *, sharded: torch.nn.Module | None = None) -> Sequence[S]:
        """Every row's score, in order, without gradients. sharded: with sharded weights, the model whose forward all
        processes call at once."""

    def summarise(self, scores: Sequence[S]) -> Mapping[str, float]:
        """The figures of a validation from the scores of all its rows: {"loss": 0.31, "macro_f1": 0.92}."""

    def answer(self, rows: Sequence[Encoded]) -> Sequence[Sample]:
        """The model's predictions for some rows, for people to read."""
