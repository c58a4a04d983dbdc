"""What a run learns from its rows: the interface between the trainer, which makes steps, and the loss.

The trainer knows orders, micro-batches, processes, guards and checkpoints; an objective knows what a row's tensors are,
what the loss of some rows is, and what a validation reports. sft.training.language_modelling is one.
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
        """Negative log-likelihood of what the row wants, nats, fp32 or better."""


class Sample(NamedTuple):
    """What a validation row wants, and what the model says to it: Sample("正面", "负面")."""

    reference: str
    prediction: str


S = TypeVar("S", bound=Score)


class Objective(Protocol[S]):
    """How rows become a loss. One belongs to one run: it knows its model."""

    figures: Sequence[str]  # what summarise reports: ("loss", "macro_f1")
    loss_unit: str  # "nats per supervised token"
    shares_prefixes: bool  # whether collate can lay out beginnings that rows have in common once

    def count_terms(self, row: Encoded) -> int:
        """Number of a row's loss terms: the loss of a step is the sum of all terms divided by their number."""

    def collate(self, rows: Sequence[Encoded], *, shares: bool = False) -> Batch:
        """The rows of a micro-batch as tensors; `row_lengths` (B,) is among them.

        shares: with beginnings that rows have in common once, if that can be done.
        """

    def compute_loss(self, model: torch.nn.Module, batch: Batch, divisor: torch.Tensor | int | None) -> torch.Tensor:
        """Sum of the batch's terms / divisor, by the forward of `model`; None: divided by their number.

        batch is what collate made, without row_lengths, on the model's device. Called within loaded.flat_rows().
        """

    @property
    def takes_hidden_states(self) -> bool:
        """Whether loss_of_hidden can be asked."""

    def loss_of_hidden(self, hidden: torch.Tensor, batch: Batch, divisor: torch.Tensor | int) -> torch.Tensor:
        """Like compute_loss, from the layers' output for all tokens of a flat batch (T, D)."""

    def score(self, rows: Sequence[Encoded], *, sharded: torch.nn.Module | None = None) -> Sequence[S]:
        """Every row's score, in order, without gradients. sharded: the model whose forward all processes call at once,
        where its weights lie in pieces."""

    def summarise(self, scores: Sequence[S]) -> Mapping[str, float]:
        """The figures of a validation from the scores of all its rows: {"loss": 0.31, "macro_f1": 0.92}."""

    def answer(self, rows: Sequence[Encoded]) -> Sequence[Sample]:
        """What the model says to some rows, for people to look at."""
