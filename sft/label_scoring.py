"""How probable the model finds each allowed label as the whole answer.

A prompt is computed once for all its labels, and what all prompts begin with (system prompt, the task's own words) once
for all of them.

score_labels(loaded, prompts, [("正面", "负面")] * len(prompts))     # [[-0.1, -2.3], ...] log-probabilities
"""

from collections.abc import Sequence

import torch
from torch.nn.functional import cross_entropy
from transformers import DynamicCache

from sft.batching import IGNORED, plan_batches
from sft.console import progress
from sft.generation.prefix import compute_prefix, copy_prefix, pad_behind, run_cached
from sft.models.loaded import LoadedModel
from sft.scoring import TOKENS_PER_BATCH


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
    label that begins another. max_tokens: of the prompts of a batch, padding left out.
    """
    answers = [[loaded.chat.encode_answer(label) for label in options] for options in labels]
    scores: list[list[float]] = [[] for _ in prompts]
    bar = progress(total=len(prompts), description=description, shown=shown)
    was_training = loaded.model.training
    loaded.model.eval()
    with torch.inference_mode(), bar:
        limit = TOKENS_PER_BATCH[loaded.device.type]
        prefix = compute_prefix(loaded, prompts)
        for indices in plan_batches([len(prompt) for prompt in prompts], min(limit, max_tokens or limit)):
            batch = [prompts[index] for index in indices]
            found = _score_batch(loaded, prefix, batch, [answers[index] for index in indices])
            for index, row in zip(indices, found, strict=True):
                scores[index] = row
            bar.update(len(indices))
    loaded.model.train(was_training)
    return scores


def _score_batch(
    loaded: LoadedModel,
    prefix: DynamicCache,
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Sequence[int]]],
) -> list[list[float]]:
    """One batch: the prompts once into the cache, then the first label of every row, the second of every row, ..."""
    shared, width, pad_id = prefix.get_seq_length(), max(map(len, prompts)), loaded.chat.pad_id
    ids, mask = pad_behind(prompts, shared, pad_id)
    cache = copy_prefix(loaded, prefix, len(prompts))
    prompt_end = run_cached(loaded, ids[:, shared:], mask, cache)[
        :, -1:
    ]  # (B, 1, D): what predicts an answer's first token
    scores: list[list[float]] = [[] for _ in prompts]
    for option in range(max(map(len, answers))):
        rows = [row[option] if option < len(row) else row[0] for row in answers]  # a row with fewer labels repeats one
        targets = torch.full((len(rows), max(map(len, rows))), IGNORED)
        for line, row in enumerate(rows):
            targets[line, : len(row)] = torch.tensor(row)
        hidden = prompt_end
        if targets.shape[1] > 1:
            given = targets[:, :-1]
            is_given = (given != IGNORED).long()
            inputs = given.masked_fill(is_given == 0, pad_id)
            hidden = torch.cat([prompt_end, run_cached(loaded, inputs, torch.cat([mask, is_given], 1), cache)], dim=1)
            cache.crop(width)  # forget this label
        logits = loaded.causal_lm.get_output_embeddings()(hidden).float()  # (B, N, V)
        nll = cross_entropy(logits.transpose(1, 2), targets.to(logits.device), reduction="none").sum(1)  # (B,)
        for line, value in enumerate(nll.tolist()):
            if option < len(answers[line]):
                scores[line].append(-value)
    return scores
