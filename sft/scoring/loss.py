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

from prompts import Encoded
from sft.batches.layout import FP32_BYTES, IGNORED, TOKENS_PER_BATCH, plan_batches, tensor_of, to_device
from sft.console import progress
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
