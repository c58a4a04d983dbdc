"""How probable the model finds each allowed label as the whole answer.

A prompt is computed once for all its labels, which then are beside each other after it, and what all prompts begin
with (system prompt, the task's own words) once for all of them.

score_labels(loaded, prompts, [("正面", "负面")] * len(prompts))     # [[-0.1, -2.3], ...] log-probabilities
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence

from prompts import Encoded
from sft.backend import UNSLOTH
from sft.batches.layout import TOKENS_PER_BATCH, plan_batches
from sft.console import progress
from sft.generation.cache import BatchCache
from sft.generation.prefix import compute_prefix, pad_behind, read_prompts, run_cached
from sft.generation.selfcheck import Caching, find_caching
from sft.kernels.cpu import map_batches, share_of
from sft.models.loaded import LoadedModel, in_eval_mode
from sft.scoring.loss import nll_of, score_rows


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
