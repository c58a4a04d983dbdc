"""The decoding loop: many answers at once, one token per row and step; rows join and leave between two tokens.

    batch.add(row)      # its prompt is read, its first token drawn
    batch.step()        # one more token for every row

transformers' `generate`, which sft.generation.streaming calls for one answer, carries every row on until the longest
answer ends; here a finished row leaves the batch. Each row has its own decoding settings and random draws; tests
compare its tokens with those of the row alone (equal up to rounding).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.functional import pad
from transformers import DynamicCache, LogitsProcessorList

from sft.config.decoding import Decoding
from sft.console import say
from sft.errors import ModelError
from sft.generation.cache import BatchCache
from sft.generation.prefix import pad_behind, read_prompts, run_cached
from sft.generation.sampling import keep_rows, make_processors
from sft.generation.selfcheck import Caching, find_caching
from sft.models.loaded import LoadedModel, in_eval_mode

LEAVING_SHARE = 0.25  # so much of a batch leaves at once: what the others have in the cache is copied for it
FEW_ROWS = 8  # take about as long as one


def decode(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    max_new_tokens: int,
    *,
    prefix: BatchCache,
    max_tokens: int,
    on_step: Callable[[float], None] = lambda rows_done: None,
) -> list[list[int]]:
    """New token ids of each prompt, up to and with its end token where it wrote one: [[5303, 2], [17, 4, 2]].

    prefix: what the prompts share (sft.generation.prefix); the rest is read max_tokens at a time. on_step hears after
    each token how much of the work is done, in rows: at most what is left where answers end early.
    """
    width, end_ids = max(map(len, prompts)), loaded.chat.end_ids
    ids, mask = pad_behind(prompts, prefix.get_seq_length(), loaded.chat.pad_id)
    answers: list[list[int]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    rows = list(range(len(prompts)))  # which prompt each row of the batch answers
    with in_eval_mode(loaded.model), torch.inference_mode():
        cache, hidden = read_prompts(loaded, prefix, ids, mask, width + max_new_tokens, max_tokens)
        written, mask = ids.to(loaded.device), mask.to(loaded.device)  # (B, T), growing
        processors = make_processors(decoding, prompts, width, written.device)
        while True:
            scores = loaded.output_layer(hidden)  # (B, D) -> (B, V)
            tokens = (processors(written, scores.float()) if processors else scores).argmax(-1)
            for row, token in zip(rows, tokens.tolist(), strict=True):
                if not ended[row]:
                    answers[row].append(token)
                    ended[row] = token in end_ids or len(answers[row]) == max_new_tokens
            going = [place for place, row in enumerate(rows) if not ended[row]]
            num_written = written.shape[1] + 1 - width
            on_step(len(prompts) - len(going) * (1 - num_written / max_new_tokens))
            if not going:
                return answers
            written = torch.cat([written, tokens[:, None]], dim=1)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            if len(rows) > FEW_ROWS and len(going) <= (1 - LEAVING_SHARE) * len(rows):
                cache.keep(going)
                keep_rows(processors, going)
                rows = [rows[place] for place in going]
                written, mask = written[going], mask[going]
            hidden = run_cached(loaded, written[:, -1:], mask, cache)[:, -1]


@dataclass(eq=False)
class Row:
    """One answer in the making. `deliver` gets each token id, and None at the end; it must not block."""

    prompt_ids: Sequence[int]
    decoding: Decoding
    max_new_tokens: int
    deliver: Callable[[int | Exception | None], None]
    is_cancelled: Callable[[], bool]
    token_ids: list[int] = field(default_factory=list)
    processors: LogitsProcessorList | None = None


class RunningBatch:
    """The rows being written and their key-value cache, padded on the left to one width."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.rows: list[Row] = []
        self._cache: DynamicCache | None = None
        self._mask = torch.zeros((0, 0), dtype=torch.long, device=loaded.device)  # (B, T)

    @torch.inference_mode()
    def add(self, row: Row) -> None:
        """Read a row's prompt and draw its first token; the row joins unless that ended it.

        Where that fails the other rows stay as they were, or the batch is empty.
        """
        row.processors = make_processors(row.decoding, [row.prompt_ids], len(row.prompt_ids), self.loaded.device)
        ids = torch.tensor([list(row.prompt_ids)], device=self.loaded.device)  # (1, T)
        cache = DynamicCache(config=self.loaded.causal_lm.config)
        logits = self.loaded.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        if not self._take(row, logits[0, -1]):
            return
        try:
            self._join(row, cache, ids.shape[1])
        except Exception:
            self.clear()  # some layers have the row and some have not: no row can go on with this cache
            raise

    @torch.inference_mode()
    def step(self) -> None:
        """One token more for every row; finished and cancelled rows leave."""
        self._keep([index for index, row in enumerate(self.rows) if not row.is_cancelled()])
        if not self.rows:
            return
        last = torch.tensor([[row.token_ids[-1]] for row in self.rows], device=self.loaded.device)  # (B, 1)
        self._mask = pad(self._mask, (0, 1), value=1)
        logits = self.loaded.model(
            input_ids=last,
            attention_mask=self._mask,
            position_ids=self._mask.sum(1, keepdim=True) - 1,
            past_key_values=self._cache,
            use_cache=True,
        ).logits  # (B, 1, V)
        self._keep([index for index, row in enumerate(self.rows) if self._take(row, logits[index, -1])])

    def clear(self) -> list[Row]:
        """Drop everything, after an error of the model; the rows that were in it."""
        rows, self.rows, self._cache = self.rows, [], None
        self._mask = self._mask[:0, :0]
        return rows

    def _take(self, row: Row, logits: torch.Tensor) -> bool:
        """Draw a row's next token from logits (V,) and hand it on; False where the answer ends with it."""
        assert row.processors is not None
        so_far = torch.tensor([[*row.prompt_ids, *row.token_ids]], device=logits.device)
        token_id = int(row.processors(so_far, logits.float()[None].clone())[0].argmax())
        row.token_ids.append(token_id)
        row.deliver(token_id)
        if token_id in self.loaded.chat.end_ids or len(row.token_ids) >= row.max_new_tokens:
            row.deliver(None)
            return False
        return True

    def _join(self, row: Row, cache: DynamicCache, length: int) -> None:
        mask = torch.ones((1, length), dtype=torch.long, device=self.loaded.device)
        if self._cache is None or not self.rows:
            self.rows, self._cache, self._mask = [row], cache, mask
            return
        width = max(length, self._mask.shape[1])
        ours, theirs = width - self._mask.shape[1], width - length
        for layer, new in zip(self._cache.layers, cache.layers, strict=True):
            layer.keys = torch.cat([pad(layer.keys, (0, 0, ours, 0)), pad(new.keys, (0, 0, theirs, 0))])
            layer.values = torch.cat([pad(layer.values, (0, 0, ours, 0)), pad(new.values, (0, 0, theirs, 0))])
        self._mask = torch.cat([pad(self._mask, (ours, 0)), pad(mask, (theirs, 0))])
        self.rows.append(row)

    def _keep(self, places: list[int]) -> None:
        """Only these rows go on; columns that were padding for all of them are cut off."""
        if len(places) == len(self.rows):
            return
        for index, row in enumerate(self.rows):
            if index not in places and row.is_cancelled():
                row.deliver(None)
        self.rows = [self.rows[place] for place in places]
        if not self.rows or self._cache is None:
            self.clear()
            return
        indices = torch.tensor(places, device=self._mask.device)
        self._mask = self._mask[indices]
        first = int(self._mask.any(0).nonzero()[0, 0])
        self._mask = self._mask[:, first:]
        for layer in self._cache.layers:
            layer.keys = layer.keys[indices, :, first:]
            layer.values = layer.values[indices, :, first:]


def can_batch(loaded: LoadedModel) -> bool:
    """Whether rows can join a running batch: every layer keeps keys and values of every token, and it is proven.

    Raises ModelError where not even one row at a time can be written so; says why rows are written one by one.
    """
    if loaded.head is not None:  # it writes nothing
        return True
    caching = find_caching(loaded)
    if caching is Caching.NOT:
        name = type(loaded.causal_lm).__name__
        raise ModelError(f"{name} keeps its state in a cache of its own, which the server does not know; use chat.py")
    keeps_all = BatchCache(loaded.causal_lm.config, 0, 0).keeps_all
    if not keeps_all:
        say("layers keep a window or a state, not all keys and values: answers are written one by one")
    return keeps_all and caching is Caching.TOGETHER
