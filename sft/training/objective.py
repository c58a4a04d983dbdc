"""How rows become a loss: the interface between the trainer, which makes steps, and an objective.

The trainer handles order, micro-batches, processes, guards and checkpoints; an objective makes the tensors of rows,
their loss, and the figures of a validation. LanguageModelling and Classification are two.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from prompts import Encoded
from prompts.tasks import get_task
from sft.backend import UNSLOTH, is_launched_sharded
from sft.batches import FP32_BYTES, IGNORED, TOKENS_PER_BATCH, Batch, Predictors, plan_batches, tensor_of
from sft.config.decoding import choose_decoding
from sft.data.rows.canonical import Row
from sft.encoding import EncodedRows
from sft.generation import generate_batch
from sft.generation.prefix import shared_length
from sft.metrics.classification import summarise_labels
from sft.models.head import pool_flat, score_pooled
from sft.models.loaded import LoadedModel, in_eval_mode
from sft.scoring import (
    RowScore,
    classify_batch,
    collate_prompts,
    count_first_choices,
    score_classes,
    score_labels,
    score_rows,
    token_weighted_loss,
)
from sft.training.processes import as_often_as_others, gather_parts, rank, score_in_step, world_size


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


# Cross-entropy of a frozen output layer without ever holding all logits: a chunk of positions at a time.
# The gradient of the hidden states is formed in the same pass over a chunk, so nothing of vocabulary size is kept for
# the backward pass. (With 152k entries the logits of 4,000 positions and their gradient take 6 GB.) The idea is Liger's
# fused linear cross-entropy (2410.10989), here in plain PyTorch: it runs on CPUs, too, and is no slower than the
# products.

CHUNK_BYTES = {"cpu": 2**25, "cuda": 2**28}  # of logits, as if fp32: 441 positions of 152k entries; more are no faster


class _ChunkedNll(torch.autograd.Function):
    """Sum over positions of -log softmax(hidden Wᵀ)[target]."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """hidden (N, D), weight (V, D), targets (N,) -> (), fp32."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        size, in_fp32 = (max(1, limit[hidden.device.type] // (4 * len(weight))) for limit in (CHUNK_BYTES, FP32_BYTES))
        for start in range(0, len(hidden), size):
            logits = hidden[start : start + size] @ weight.t()  # (n, D) -> (n, V)
            wanted = targets[start : start + size, None].split(in_fp32)
            for part, tokens in zip(logits.split(in_fp32), wanted, strict=True):
                log_probabilities = part.log_softmax(1, dtype=torch.float32)
                found = log_probabilities.gather(1, tokens)  # (n, 1)
                total -= found.sum()
                if grad_hidden is not None:  # the logits' gradient overwrites them
                    part.copy_(log_probabilities.exp_().scatter_add_(1, tokens, torch.full_like(found, -1.0)))
            if grad_hidden is not None:
                torch.mm(logits, weight, out=grad_hidden[start : start + size])
        if grad_hidden is not None:
            ctx.save_for_backward(grad_hidden)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """grad () -> the gradient of hidden."""
        (grad_hidden,) = ctx.saved_tensors
        return grad_hidden * grad, None, None


def chunked_nll(hidden: torch.Tensor, head: torch.nn.Linear, targets: torch.Tensor) -> torch.Tensor:
    """Sum of the negative log-likelihoods (nats, fp32) of targets (N,) by an output layer that is not trained.

    hidden (N, D): fp32 beside a head in 16 bits where upper layers are fp32, or where autocast hands its outputs on.
    """
    return _ChunkedNll.apply(hidden.to(head.weight.dtype), head.weight, targets)


def is_frozen_linear(head: torch.nn.Module | None) -> bool:
    """Whether chunked_nll can take it: a plain linear output layer without bias whose weight is not trained."""
    if head is None or type(head) is not torch.nn.Linear:
        return False
    return head.bias is None and not head.weight.requires_grad


@contextmanager
def head_left_out(model: PreTrainedModel) -> Iterator[None]:
    """Inside this context the model returns hidden states instead of logits."""
    head = model.get_output_embeddings()
    model.set_output_embeddings(torch.nn.Identity())
    try:
        yield
    finally:
        model.set_output_embeddings(head)


# The objective of a chat model: predict the supervised tokens of each row.
# The loss of a step is the sum over its supervised tokens divided by their number, independent of micro-batches; logits
# are computed only at supervised positions. Validation is token-weighted (sft.scoring).


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
        if self.takes_hidden_states and self._has_frozen_head:
            with head_left_out(self.loaded.causal_lm):
                hidden = asked.pick(model(**forward).logits)  # (N, D)
            return chunked_nll(hidden, self._head, asked.targets) / divisor
        logits = asked.pick(model(**forward).logits)  # (N, V)
        return cross_entropy(logits.float(), asked.targets, reduction="sum") / divisor

    @property
    def takes_hidden_states(self) -> bool:
        """Whether the loss can be computed from the layers' output, without the model's own output layer."""
        is_known = self._has_frozen_head or (type(self._head) is torch.nn.Linear and not self.loaded.has_adapter)
        return is_known and not is_launched_sharded() and self.loaded.output_layer.is_plain

    @property
    def _head(self) -> torch.nn.Module:
        head: torch.nn.Module = self.loaded.causal_lm.get_output_embeddings()
        return head

    @property
    def _has_frozen_head(self) -> bool:
        return is_frozen_linear(self._head)

    def loss_of_hidden(self, hidden: torch.Tensor, batch: Batch, divisor: torch.Tensor | int) -> torch.Tensor:
        """compute_loss from the hidden states of all tokens of a flat batch, (T, D)."""
        kept = tensor_of(batch["logits_to_keep"])
        targets = tensor_of(batch["labels"])[0, kept + 1]
        if self._has_frozen_head:
            return chunked_nll(hidden[kept], self._head, targets) / divisor
        return cross_entropy(self._head(hidden[kept]).float(), targets, reduction="sum") / divisor

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


class TokenAccuracy:
    """A Measure (sft.training.trainer): the share of supervised validation tokens that are the likeliest ones.

    Over all tokens of all rows, the answer's form among them: of short answers in a fixed form it is high as soon as
    the form is learned.
    """

    figures: Sequence[str] = ("eval_token_accuracy",)

    def __init__(self, validation: EncodedRows) -> None:
        self.rows = validation.encoded

    def __call__(self, loaded: LoadedModel) -> dict[str, float]:
        """Each row counted in one of the processes; the figure is of all rows."""
        counts = gather_parts(count_first_choices(loaded, self.rows[rank() :: world_size()]))
        hits, tokens = (sum(column) for column in zip(*counts, strict=True))
        return {"eval_token_accuracy": hits / tokens}


class LabelMeasure:
    """A Measure (sft.training.trainer). With several label tasks, class names are prefixed by the task's name.

    most: number of rows to measure, spread evenly over the validation rows with labels; None: all of them.
    num_tokens: tokens computed by one measurement, the shared prompt prefix not counted.
    """

    figures: Sequence[str] = ("eval_accuracy", "eval_macro_f1")

    def __init__(self, validation: EncodedRows, most: int | None = None) -> None:
        asked = [pair for pair in zip(validation.rows, validation.encoded, strict=True) if _labels_of(pair[0])]
        if most is not None and len(asked) > most:
            asked = [asked[number * len(asked) // most] for number in range(most)]
        self.prompts: list[list[int]] = []
        self.labels: list[tuple[str, ...]] = []  # the answers each row allows
        self.classes: list[tuple[str, ...]] = []  # the class of each answer, in the same order
        self.right: list[str] = []
        for row, encoded in asked:
            task, labels = get_task(str(row["task"])), _labels_of(row)
            classes = tuple(f"{task.name}: {name}" for name in task.classes_of(labels, row))
            self.prompts.append(encoded.prompt_ids)
            self.labels.append(labels)
            self.classes.append(classes)
            self.right.append(classes[labels.index(task.answer_of(row))])
        shared = shared_length(self.prompts) if self.prompts else 0
        own = (len(found.prompt_ids) - shared + len(_labels_of(row)) * found.num_supervised for row, found in asked)
        self.num_tokens = sum(own)

    def __bool__(self) -> bool:
        """Whether there are such rows."""
        return bool(self.prompts)

    def __call__(self, loaded: LoadedModel) -> dict[str, float]:
        """Each row scored in one of the processes; the figures are of all rows, and the same in all processes."""
        mine = slice(rank(), None, world_size())
        scores = gather_parts(score_labels(loaded, self.prompts[mine], self.labels[mine], shown=False))
        said = [classes[row.index(max(row))] for classes, row in zip(self.classes, scores, strict=True)]
        known = list(dict.fromkeys(name for classes in self.classes for name in classes))
        found = summarise_labels(self.right, said, known)
        return {"eval_accuracy": found["accuracy"], "eval_macro_f1": found["macro_f1"]}


def _labels_of(row: Row) -> tuple[str, ...]:
    return get_task(str(row["task"])).allowed_labels(row)


# The objective of a classification head: predict each row's class.
# The loss is the mean cross-entropy over the rows of a step, independent of micro-batches. A validation reports the
# loss, accuracy and macro F1 of all its rows, from one pass over them.


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
