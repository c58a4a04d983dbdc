"""What many prompts begin with (system prompt, a task's own words), computed once for all of them.

A batch is laid out as [shared part, which is in the cache][padding][rest of each prompt], so that every row continues
from the last column; the mask leaves the padding out, and positions are counted without it.

    prefix = compute_prefix(loaded, prompts)                  # one forward pass over the shared tokens
    ids, mask = pad_behind(prompts[:16], prefix, pad_id)      # (B, width) each, the shared part included
    cache = copy_prefix(loaded, prefix, 16)                   # for one batch; generate appends to it
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from sft.backend import UNSLOTH

if TYPE_CHECKING:
    from sft.models.loaded import LoadedModel

MIN_SHARED = 4  # tokens from which a pass of its own pays


def shared_length(prompts: Sequence[Sequence[int]]) -> int:
    """How many tokens all prompts begin with; at least one is left of each: [[1, 2, 3], [1, 2, 4]] -> 2."""
    lists = [list(prompt) for prompt in prompts]
    first, last = min(lists), max(lists)  # in the order of lists these two differ earliest
    longest = min(map(len, lists)) - 1
    return next((place for place in range(longest) if first[place] != last[place]), longest)


def compute_prefix(loaded: "LoadedModel", prompts: Sequence[Sequence[int]]) -> DynamicCache:
    """Keys and values of what the prompts have in common, (1, H, P, D) a layer; empty where that is too little.

    Empty, too, for models whose layers keep something else than keys and values of every position.
    """
    length = shared_length(prompts) if len(prompts) > 1 else 0
    empty = DynamicCache(config=loaded.causal_lm.config)
    if length < MIN_SHARED or loaded.backend == UNSLOTH:
        return empty
    cache = DynamicCache(config=loaded.causal_lm.config)
    ids = torch.tensor([list(prompts[0][:length])])
    run_cached(loaded, ids, torch.ones_like(ids), cache)
    return cache if all(type(layer) is DynamicLayer for layer in cache.layers) else empty


def copy_prefix(loaded: "LoadedModel", prefix: DynamicCache, num_rows: int) -> DynamicCache:
    """The same for every row of a batch: (1, H, P, D) -> (B, H, P, D) a layer."""
    cache = DynamicCache(config=loaded.causal_lm.config)
    for number, layer in enumerate(prefix.layers):
        if layer.is_initialized:
            cache.update(*(part.expand(num_rows, -1, -1, -1) for part in (layer.keys, layer.values)), number)
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


def run_cached(loaded: "LoadedModel", ids: torch.Tensor, mask: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
    """Hidden states (B, N, D) of ids (B, N) behind what is in the cache; mask (B, all columns so far)."""
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
