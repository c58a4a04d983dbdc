"""Self-check of generation: rows in a batch and alone with our caches, compared with stock attention without a cache.

Keys and values of every token are what most layers keep; some keep a window or a state, and a few keep it elsewhere. So
three short rows are read as prompts, padded on the left, and continued. Where they differ by more than rounding, rows
are written one at a time, and where even that is wrong, by transformers' own generate.

    if find_caching(loaded) is Caching.TOGETHER: ...
"""

from enum import Enum, auto
from functools import partial

import torch

from prompts import Encoded
from sft.console import say
from sft.generation.cache import BatchCache
from sft.generation.prefix import compute_prefix, pad_behind, read_prompts, run_cached
from sft.models.loaded import LoadedModel
from sft.models.selfcheck import Stock, make_rows, undisturbed

CONTINUED = 3  # last tokens of each row, which are read from the cache: one, then two beside each other
ENOUGH = 2048  # tokens of a pass, more than the check's rows have


class Caching(Enum):
    """The caches with which answers can be generated correctly."""

    TOGETHER = auto()  # rows of a batch padded on the left
    ALONE = auto()  # one row at a time
    NOT = auto()  # by transformers' generate only, which knows each family's own cache


def find_caching(loaded: LoadedModel) -> Caching:
    """What generation with a model may use, proven on first use; one line says if anything is ruled out."""
    with loaded.proving:
        if loaded.caching is None:
            loaded.caching = _prove(loaded)
    return Caching[loaded.caching]


def _prove(loaded: LoadedModel) -> str:
    model, rows = loaded.causal_lm, make_rows(loaded.tokenizer)
    rows.sort(key=lambda row: -len(row.input_ids))
    with undisturbed(model, loaded.autocast):
        stock = Stock.of(model, rows, loaded.autocast)
        problem = stock.problem_of(partial(_continue, loaded, rows))
        if not problem:
            return Caching.TOGETHER.name
        alone = stock.problem_of(lambda: [_continue(loaded, [row])[0] for row in rows])
    way = "by transformers' generate, one by one" if alone else "one by one"
    say(f"WARNING self-check: answers written together: {problem}; they are written {way}")
    return Caching.NOT.name if alone else Caching.ALONE.name


def _continue(loaded: LoadedModel, rows: list[Encoded]) -> list[torch.Tensor]:
    """Hidden states of each row's last tokens (CONTINUED + 1, D), all but the first read after a cache."""
    prompts = [row.input_ids[:-CONTINUED] for row in rows]
    ends = torch.tensor([row.input_ids[-CONTINUED:] for row in rows])
    prefix = compute_prefix(loaded, prompts)
    ids, mask = pad_behind(prompts, prefix.get_seq_length(), prompts[0][0])
    cache, last = read_prompts(loaded, prefix, ids, mask, ids.shape[1] + CONTINUED, ENOUGH)
    found = [last[:, None]]
    given = BatchCache(loaded.causal_lm.config, 0, 0).keeps_all
    for tokens in (ends[:, :1], ends[:, 1:]) if given else ends.split(1, dim=1):
        num_before, number = mask.shape[1], tokens.shape[1]
        positions = mask.sum(1, keepdim=True) + torch.arange(number)
        mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
        seen = mask
        if number > 1:  # as labels are laid out: what each token sees is said token by token
            seen = mask.bool()[:, None, None].expand(-1, 1, number, -1).clone()
            seen[..., num_before:] &= torch.ones(number, number, dtype=torch.bool).tril()
        found.append(run_cached(loaded, tokens, seen, cache, positions=positions))
    return list(torch.cat(found, dim=1).float())
