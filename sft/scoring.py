"""Teacher-forced scores: how probable the model finds given answers, row by row, in fp32.

loss = sum of nll / number of supervised tokens, so it does not depend on how rows fall into batches.

    scores = score_rows(loaded, encoded)        # [RowScore(nll=12.3, num_tokens=5), ...]
    token_weighted_loss(scores)                 # 2.46
"""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from prompts import Encoded
from sft.backend import UNSLOTH
from sft.batches import FP32_BYTES, IGNORED, TOKENS_PER_BATCH, Batch, plan_batches, tensor_of, to_device
from sft.console import progress
from sft.errors import ModelError
from sft.generation.cache import BatchCache
from sft.generation.prefix import compute_prefix, pad_behind, read_prompts, run_cached
from sft.generation.selfcheck import Caching, find_caching
from sft.kernels.cpu import map_batches, share_of
from sft.models.loaded import LoadedModel, in_eval_mode

LOGITS_BYTES = {"cpu": 2**24, "cuda": 2**27}  # the same in scoring: 170 positions of 49k entries in bf16 on a CPU


class RowScore(NamedTuple):
    """One row's negative log-likelihood in nats, over its supervised tokens."""

    nll: float
    num_tokens: int


def score_rows(
    loaded: LoadedModel,
    encoded: Sequence[Encoded],
    *,
    description: str = "score",
    shown: bool = True,
    max_tokens: int | None = None,
    max_rows: int | None = None,
) -> list[RowScore]:
    """Score of every row, in the order given. Batches are formed by length, of at most max_tokens tokens and max_rows.

    With the max_tokens of a training micro-batch no more memory is taken than training took: nothing is kept for a
    backward pass, and logits are formed for a few positions at a time.
    """
    scores: list[RowScore] = [RowScore(0.0, 0)] * len(encoded)
    limit = TOKENS_PER_BATCH[loaded.device.type]
    lengths = [len(row.input_ids) for row in encoded]
    batches = plan_batches(lengths, min(limit, max_tokens or limit), max_rows, padded=not loaded.takes_flat_rows)
    bar = progress(total=len(encoded), description=description, shown=shown)
    with in_eval_mode(loaded.model), torch.inference_mode(), loaded.flat_rows(), bar:
        for indices in batches:
            nll, counts = score_batch(loaded, [encoded[index] for index in indices])
            for index, row_nll, count in zip(indices, nll.tolist(), counts.tolist(), strict=True):
                scores[index] = RowScore(row_nll, count)
            bar.update(len(indices))
    return scores


def score_batch(loaded: LoadedModel, rows: Sequence[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows -> nll of each (B,), float64, and its number of supervised tokens (B,). Call within loaded.flat_rows()."""
    found = _find_supervised(loaded, rows)
    nll = nll_of(loaded, found.hidden, found.positions, found.targets).double()
    sums = torch.zeros(len(rows), dtype=torch.float64)
    sums.index_add_(0, found.rows, nll)
    return sums, torch.bincount(found.rows, minlength=len(rows))


class _Supervised(NamedTuple):
    """Hidden states (T, D) of a batch, the positions (N,) that predict its supervised tokens, these, and whose row."""

    hidden: torch.Tensor
    positions: torch.Tensor
    targets: torch.Tensor
    rows: torch.Tensor


def _find_supervised(loaded: LoadedModel, rows: Sequence[Encoded]) -> _Supervised:
    batch = loaded.lay_out(rows, shares=True)
    batch.pop("logits_to_keep", None)
    batch.pop("row_lengths")
    labels = tensor_of(batch.pop("labels"))  # (1, T) flat or (B, T) padded
    model = loaded.causal_lm
    hidden = model.base_model(**to_device(batch, loaded.device), use_cache=False).last_hidden_state.flatten(0, 1)
    if loaded.takes_flat_rows:
        bounds = tensor_of(batch["cu_seq_lens_q"])[-len(rows) - 1 :]  # of each row's part after the shared prefix
        row_of_token = torch.bucketize(torch.arange(labels.numel()), bounds, right=True) - 1
    else:
        row_of_token = torch.arange(len(rows)).repeat_interleave(labels.shape[1])
    targets = labels.flatten()
    positions = (targets != IGNORED).nonzero()[:, 0] - 1  # the positions that predict the supervised tokens
    return _Supervised(hidden, positions, targets[positions + 1], row_of_token[positions])


def count_first_choices(loaded: LoadedModel, encoded: Sequence[Encoded]) -> list[tuple[int, int]]:
    """Number of supervised tokens per row that the model predicts, and their total: (3, 5)."""
    counts: list[tuple[int, int]] = [(0, 0)] * len(encoded)
    lengths = [len(row.input_ids) for row in encoded]
    batches = plan_batches(lengths, TOKENS_PER_BATCH[loaded.device.type], None, padded=not loaded.takes_flat_rows)
    vocabulary = loaded.causal_lm.config.get_text_config().vocab_size
    at_once = max(1, FP32_BYTES[loaded.device.type] // (torch.float32.itemsize * vocabulary))
    with in_eval_mode(loaded.model), torch.inference_mode(), loaded.flat_rows():
        for indices in batches:
            found = _find_supervised(loaded, [encoded[index] for index in indices])
            hidden = found.hidden.to(loaded.causal_lm.get_output_embeddings().weight.dtype)
            parts = found.positions.to(hidden.device).split(at_once)
            first = torch.cat([loaded.output_layer(hidden[part]).argmax(1).cpu() for part in parts])  # (N,)
            hits = torch.bincount(found.rows[first == found.targets], minlength=len(indices))
            totals = torch.bincount(found.rows, minlength=len(indices))
            for index, num_hits, total in zip(indices, hits.tolist(), totals.tolist(), strict=True):
                counts[index] = (num_hits, total)
    return counts


def nll_of(loaded: LoadedModel, hidden: torch.Tensor, positions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Negative log-probability of targets (N,) by the hidden states (T, D) at these positions (N,): (N,), fp32, CPU.

    Logits are computed only where needed, at most LOGITS_BYTES at a time, FP32_BYTES in fp32.
    """
    head, vocabulary = loaded.causal_lm.get_output_embeddings(), loaded.causal_lm.config.get_text_config().vocab_size
    hidden = hidden.to(head.weight.dtype)  # fp32 where only the upper layers are
    at_once = max(1, LOGITS_BYTES[hidden.device.type] // (hidden.dtype.itemsize * vocabulary))
    in_fp32 = max(1, FP32_BYTES[hidden.device.type] // (torch.float32.itemsize * vocabulary))
    nll = [torch.zeros(0)]
    for chunk, wanted in zip(positions.split(at_once), targets.split(at_once), strict=True):
        logits = loaded.output_layer(hidden[chunk.to(hidden.device)])  # (N, D) -> (N, V)
        parts = zip(logits.split(in_fp32), wanted.to(logits.device).split(in_fp32), strict=True)
        nll += [cross_entropy(part.float(), tokens, reduction="none") for part, tokens in parts]
    return torch.cat([part.cpu() for part in nll])


def token_weighted_loss(scores: Iterable[RowScore]) -> float:
    """Sum of nll / sum of tokens, in nats: the loss of a split. nan if nothing is supervised."""
    nll, tokens = map(math.fsum, zip(*scores, strict=True))
    return nll / tokens if tokens else math.nan


# How probable the model finds each allowed label as the whole answer


def score_labels(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    labels: Sequence[Sequence[str]],
    *,
    description: str = "score labels",
    shown: bool = True,
    max_tokens: int | None = None,
) -> list[list[float]]:
    """Log-probability (nats, fp32) of each row's labels as the whole answer, end token included, in the order given.

    prompts[i] are the ids of encode_prompt; labels[i] the label texts the row allows. Sums over the answer's
    tokens, not normalised by length: the probabilities of all possible answers add up to 1, and the end token settles a
    label that is a prefix of another. max_tokens: of prompts and labels in a batch, without the shared prefix; a CPU
    computes as many batches at once as it has threads.
    """
    answers = [[loaded.chat.encode_answer(label) for label in options] for options in labels]
    keeps_all = loaded.backend != UNSLOTH and BatchCache(loaded.causal_lm.config, 0, 0).keeps_all
    if not keeps_all or find_caching(loaded) is not Caching.TOGETHER:
        return _score_apart(loaded, prompts, answers, description=description, shown=shown, max_tokens=max_tokens)
    scores: list[list[float]] = [[] for _ in prompts]
    bar = progress(total=len(prompts), description=description, shown=shown)
    usual = TOKENS_PER_BATCH[loaded.device.type]
    limit = share_of(min(usual, max_tokens or usual), loaded.device)
    with in_eval_mode(loaded.model), torch.inference_mode(), bar:
        prefix = compute_prefix(loaded, prompts)
        own = [len(prompt) - prefix.get_seq_length() for prompt in prompts]
        lengths = [length + sum(map(len, row)) for length, row in zip(own, answers, strict=True)]
        batches = plan_batches(lengths, limit, padded=True)

        def score(indices: list[int]) -> list[list[float]]:
            return _score_batch(loaded, prefix, [prompts[i] for i in indices], [answers[i] for i in indices])

        for indices, found in zip(batches, map_batches(score, batches, loaded.device), strict=True):
            for index, row in zip(indices, found, strict=True):
                scores[index] = row
            bar.update(len(indices))
    return scores


@torch.inference_mode()
def _score_batch(
    loaded: LoadedModel,
    prefix: BatchCache,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
) -> list[list[float]]:
    """One batch: the prompts into the cache, then all labels of a row side by side, without seeing each other."""
    ids, mask = pad_behind(prompts, prefix.get_seq_length(), loaded.chat.pad_id)  # (B, T) each
    laid = [lay_out(row) for row in answers]
    given, option, depth = (pad_sequence([getattr(row, name) for row in laid], True, -1) for name in Laid._fields)
    num_given = given.shape[1]  # S
    cache, last = read_prompts(loaded, prefix, ids, mask, ids.shape[1] + num_given, ids.numel())
    hidden = last[:, None]  # (B, 1, D): what predicts the first token of every label
    if num_given:
        is_before = (option[:, :, None] == option[:, None]) & (depth[:, :, None] >= depth[:, None])  # (B, S, S)
        seen = torch.cat([mask.bool()[:, None].expand(-1, num_given, -1), is_before], dim=2)  # (B, S, T + S)
        positions = mask.sum(1, keepdim=True) + depth.clamp(min=0)
        given = given.masked_fill(option < 0, loaded.chat.pad_id)
        behind = run_cached(loaded, given, seen[:, None], cache, positions=positions)
        hidden = torch.cat([hidden, behind], dim=1)  # (B, 1 + S, D)
    predictors: list[int] = []
    targets: list[int] = []
    owners: list[tuple[int, int]] = []  # row of the batch and tokens of each label
    for line, row in enumerate(answers):
        start = line * hidden.shape[1]
        place = start + 1
        for label in row:
            predictors += [start, *range(place, place + len(label) - 1)]
            targets += label
            owners.append((line, len(label)))
            place += len(label) - 1
    nll = nll_of(loaded, hidden.flatten(0, 1), torch.tensor(predictors), torch.tensor(targets)).double()
    scores: list[list[float]] = [[] for _ in prompts]
    for (line, _), part in zip(owners, nll.split([length for _, length in owners]), strict=True):
        scores[line].append(-float(part.sum()))
    return scores


class Laid(NamedTuple):
    """The labels of a row one after the other, without their last tokens: (S,) each."""

    given: torch.Tensor  # token ids
    option: torch.Tensor  # which label a token belongs to
    depth: torch.Tensor  # its index in the label


def lay_out(labels: Sequence[Sequence[int]]) -> Laid:
    """[[5, 6, 2], [7, 2]] -> given [5, 6, 7], option [0, 0, 1], depth [0, 1, 0]; ends need not be read."""
    given = [token for label in labels for token in label[:-1]]
    option = [number for number, label in enumerate(labels) for _ in label[:-1]]
    depth = [place for label in labels for place in range(len(label) - 1)]
    return Laid(*(torch.tensor(part, dtype=torch.long) for part in (given, option, depth)))


def _score_apart(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
    *,
    description: str,
    shown: bool,
    max_tokens: int | None,
) -> list[list[float]]:
    """Score every label as a separate row after its prompt: for models without a cache of all positions."""
    rows = [
        Encoded([*prompt, *label], [0] * len(prompt) + [1] * len(label))
        for prompt, row in zip(prompts, answers, strict=True)
        for label in row
    ]
    found = iter(score_rows(loaded, rows, description=description, shown=shown, max_tokens=max_tokens))
    return [[-next(found).nll for _ in row] for row in answers]


# How probable a model finds each class: by its classification head, or of a language model by the labels it may write.
# Both ways answer the same question of the same prompts, so everything that chooses among labels (evaluation,
# inference, the server) comes here and need not know which of the two it has.


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
