"""The prefix shared by many prompts (system prompt, instruction), computed once for all of them.

A batch is laid out as [shared part, which is in the cache][padding][rest of each prompt], so that every row continues
from the last column; the mask leaves the padding out, and positions are counted without it.

    prefix = compute_prefix(loaded, prompts)                  # one forward pass over the shared tokens
    ids, mask = pad_behind(prompts[:16], prefix.get_seq_length(), pad_id)      # (B, width) each
    cache, last = read_prompts(loaded, prefix, ids, mask, num_columns=width + 8, max_tokens=2048)
    hidden = run_cached(loaded, next_ids, mask, cache)        # what follows
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sft.backend import UNSLOTH
from sft.batches import count_in_common
from sft.generation.cache import BatchCache

if TYPE_CHECKING:
    from sft.models.loaded import LoadedModel

MIN_SHARED = 4  # tokens; a shorter prefix is not worth a separate pass
ENOUGH_TOKENS = {"cpu": 512, "cuda": 8192}  # per pass: more are no faster, and more rows have more padding


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """Length of the shared prefix; at least one token is left of each: [[1, 2, 3], [1, 2, 4]] -> 2."""
    lists = [list(prompt) for prompt in prompts]
    in_common = count_in_common(min(lists), max(lists))  # in the order of lists these two differ earliest
    return min(in_common, min(map(len, lists)) - 1)


def compute_prefix(loaded: "LoadedModel", prompts: Sequence[Sequence[int]]) -> BatchCache:
    """Keys and values of the shared prefix, (1, H, P, D) per layer; empty if the prefix is too short.

    Empty, too, for models whose layers keep something else than keys and values of every position.
    """
    length = shared_length(prompts) if len(prompts) > 1 else 0
    cache = BatchCache(loaded.causal_lm.config, 1, length)
    if length < MIN_SHARED or loaded.backend == UNSLOTH or not cache.keeps_all:
        return BatchCache(loaded.causal_lm.config, 0, 0)
    ids = torch.tensor([list(prompts[0][:length])])
    run_cached(loaded, ids, torch.ones_like(ids), cache)
    return cache


def pad_behind(prompts: Sequence[Sequence[int]], shared: int, pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask, (B, T) each: the first `shared` tokens, padding, the rest of each prompt.

    [[1, 2, 3, 4], [1, 2, 5]], 2 -> [[1, 2, 3, 4], [1, 2, 0, 5]], [[1, 1, 1, 1], [1, 1, 0, 1]]
    """
    width = max(map(len, prompts))
    rows = [list(prompt) for prompt in prompts]
    ids = [[*row[:shared], *[pad_id] * (width - len(row)), *row[shared:]] for row in rows]
    mask = [[*[1] * shared, *[0] * (width - len(row)), *[1] * (len(row) - shared)] for row in rows]
    return torch.tensor(ids), torch.tensor(mask)


def read_prompts(
    loaded: "LoadedModel",
    prefix: BatchCache,
    ids: torch.Tensor,
    mask: torch.Tensor,
    num_columns: int,
    max_tokens: int,
) -> tuple[BatchCache, torch.Tensor]:
    """Prompts (B, T) as pad_behind lays them -> a cache with room for num_columns, and the last hidden states (B, D).

    At most max_tokens are read in one pass, and rows of like lengths together, where the model's layers allow to read
    some rows before others. Give prompts in the order of their lengths.
    """
    num_rows, width = ids.shape
    shared = prefix.get_seq_length()
    cache = BatchCache(loaded.causal_lm.config, num_rows, num_columns)
    if shared:
        for number, layer in enumerate(prefix.layers):
            cache.update(*(part.expand(num_rows, -1, -1, -1) for part in (layer.keys, layer.values)), number)
    if not cache.keeps_all:
        return cache, run_cached(loaded, ids, mask, cache)[:, -1]
    own = mask.sum(1) - shared  # (B,) tokens of each prompt that are its own
    at_once, last = min(max_tokens, ENOUGH_TOKENS[loaded.device.type]), []
    for rows in cut_rows(own.tolist(), at_once):
        start = width - int(own[rows].max())  # everything before is padding
        hidden = run_cached(loaded, ids[rows, start:], mask[rows], cache.rows(rows, start))
        last.append(hidden[:, -1].clone())  # the other columns are let go
    cache.mark_written(width)
    return cache, torch.cat(last)


def cut_rows(lengths: Sequence[int], max_tokens: int) -> list[slice]:
    """Batches of consecutive rows, at most max_tokens each after padding: [9, 8, 3, 2], 18 -> rows 0 to 2, rows 2 to
    4."""
    parts: list[slice] = []
    first, longest = 0, 0
    for row, length in enumerate(lengths):
        longest = max(longest, length)
        if row > first and (row + 1 - first) * longest > max_tokens:
            parts.append(slice(first, row))
            first, longest = row, length
    return [*parts, slice(first, len(lengths))]


def run_cached(
    loaded: "LoadedModel",
    ids: torch.Tensor,
    mask: torch.Tensor,
    cache: BatchCache,
    *,
    positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Hidden states (B, N, D) of ids (B, N) that follow the cached tokens.

    mask: of all columns so far, (B, T); or (B, 1, N, T), what each of the ids sees, with their positions (B, N).
    """
    if positions is None:
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    with torch.inference_mode():
        output = loaded.causal_lm.base_model(
            input_ids=ids.to(loaded.device),
            attention_mask=mask.to(loaded.device),
            position_ids=positions.to(loaded.device),
            past_key_values=cache,
            use_cache=True,
        )
    return output.last_hidden_state
