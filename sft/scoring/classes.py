"""How probable a model finds each class: by its classification head, or of a language model by the labels it may write.

Both ways answer the same question of the same prompts, so everything that chooses among labels (evaluation, inference,
the server) comes here and need not know which of the two it has.

    labels = [("负面", "正面")] * len(prompts)
    score_choices(loaded, prompts, labels, labels)      # [[-0.1, -2.3], ...]
"""

from collections.abc import Sequence

import torch

from prompts import Encoded
from sft.batches.layout import TOKENS_PER_BATCH, Batch, plan_batches, to_device
from sft.console import progress
from sft.errors import ModelError
from sft.models.loaded import LoadedModel, in_eval_mode
from sft.scoring.labels import score_labels


def score_choices(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[str]],
    classes: Sequence[Sequence[str]],
    *,
    description: str = "score labels",
    shown: bool = True,
    max_tokens: int | None = None,
) -> list[list[float]]:
    """Log-probability (nats, fp32) of each answer a row allows, in the order given; classes[i] are their classes.

    For a language model: of writing the answer and ending. For a head: of the class among all its classes; raises
    ModelError for one it does not know. max_tokens: of the prompts of a batch.
    """
    if loaded.head is None:
        return score_labels(loaded, prompts, answers, description=description, shown=shown, max_tokens=max_tokens)
    numbers = {label: number for number, label in enumerate(loaded.head.labels)}
    if unknown := next((label for names in classes for label in names if label not in numbers), None):
        raise ModelError(f"the head does not know the label {unknown!r}; it knows {', '.join(numbers)}")
    table = score_classes(loaded, prompts, description=description, shown=shown, max_tokens=max_tokens).tolist()
    return [[row[numbers[label]] for label in names] for row, names in zip(table, classes, strict=True)]


def score_classes(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    *,
    description: str = "classify",
    shown: bool = True,
    max_tokens: int | None = None,
) -> torch.Tensor:
    """Log-probabilities (N, C) of a head's classes for N prompts, fp32, on the CPU, in the order given."""
    assert loaded.head is not None
    limit = TOKENS_PER_BATCH[loaded.device.type]
    table = torch.empty(len(prompts), len(loaded.head.labels))
    bar = progress(total=len(prompts), description=description, shown=shown)
    with in_eval_mode(loaded.model), torch.inference_mode(), bar:
        lengths, is_padded = [len(prompt) for prompt in prompts], not loaded.takes_flat_rows
        for indices in plan_batches(lengths, min(limit, max_tokens or limit), padded=is_padded):
            table[indices] = classify_batch(loaded, [prompts[index] for index in indices])
            bar.update(len(indices))
    return table


def classify_batch(
    loaded: LoadedModel, prompts: Sequence[Sequence[int]], model: torch.nn.Module | None = None
) -> torch.Tensor:
    """One batch: log-probabilities (B, C), fp32, on the CPU. model: the module to call, if it wraps the one of
    `loaded`."""
    batch = collate_prompts(loaded, [Encoded(list(prompt), [0] * len(prompt)) for prompt in prompts])
    batch.pop("row_lengths")
    with loaded.flat_rows():
        logits: torch.Tensor = (model or loaded.model)(**to_device(batch, loaded.device), use_cache=False).logits
    return logits.float().log_softmax(-1).cpu()


def collate_prompts(loaded: LoadedModel, rows: Sequence[Encoded]) -> Batch:
    """Prompts as one batch in the layout the backend takes, and their `row_lengths`; no token of it is predicted."""
    return {name: value for name, value in loaded.lay_out(rows).items() if name not in ("labels", "logits_to_keep")}
