"""The objective of a chat model: predict the supervised tokens of each row.

The loss of a step is the sum over its supervised tokens divided by their number, independent of micro-batches; logits
are computed only at supervised positions. Validation is token-weighted (sft.scoring.loss).

LabelMeasure adds accuracy and macro F1 of the validation rows with labels, which can also choose the best checkpoint of
a model that writes its answers (--metric_for_best_model eval_macro_f1):

    measure = LabelMeasure(prepared.validation)
    measure(loaded)      # {"eval_accuracy": 0.91, "eval_macro_f1": 0.9}, as evaluate.py has them by label scoring
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy

from prompts import Encoded
from prompts.tasks import get_task
from sft.backend import UNSLOTH, is_launched_sharded
from sft.batches.layout import IGNORED, Batch, Predictors, tensor_of
from sft.config.decoding import choose_decoding
from sft.data.rows.canonical import Row
from sft.encoding import EncodedRows
from sft.generation import generate_batch
from sft.generation.prefix import shared_length
from sft.kernels.chunked_loss import chunked_nll, head_left_out, is_frozen_linear
from sft.metrics.classification import summarise_labels
from sft.models.loaded import LoadedModel
from sft.scoring.labels import score_labels
from sft.scoring.loss import RowScore, count_first_choices, score_rows, token_weighted_loss
from sft.training.objective import Sample
from sft.training.processes import gather_parts, rank, score_in_step, world_size


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
