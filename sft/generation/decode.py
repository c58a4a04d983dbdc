"""The one decoding loop: rows join and leave between two tokens, and every step writes one token of each row.

    batch = RunningBatch(loaded)
    batch.join([row, another])      # their prompts are read, their first tokens drawn
    batch.step()                    # one more token for every row
    decode(loaded, prompts, ...)    # many prompts from the first token to the last
    write_answer(loaded, row)       # one answer, each token handed on as it is drawn

In the server rows join and leave at any time (sft.serve.engine); in batch generation all start together
(sft.generation.batch), chat.py watches one (sft.generation.streaming). Each row has its own decoding settings and
random draws; tests compare its tokens with those of transformers' generate for the row alone (equal up to rounding).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import torch
from torch.nn.functional import pad

from sft.backend import UNSLOTH
from sft.batches import TOKENS_PER_BATCH
from sft.config.decoding import Decoding
from sft.console import say
from sft.errors import ModelError
from sft.generation.cache import BatchCache
from sft.generation.prefix import pad_behind, read_prompts, run_cached
from sft.generation.sampling import Sampler, weigh
from sft.generation.selfcheck import Caching, find_caching
from sft.generation.stock import call_generate
from sft.models.loaded import LoadedModel, in_eval_mode

LEAVING_SHARE = 0.25  # share of rows or columns that leaves at once, because the cache of the others is then copied
FEW_ROWS = 8  # below this many rows a step of a shrinking batch takes about as long as for one

Deliver = Callable[[int | Exception | None], None]


@dataclass(eq=False)
class Row:
    """One answer in the making. `deliver` gets each token id, and None at the end; it must not block."""

    prompt_ids: Sequence[int]
    decoding: Decoding
    max_new_tokens: int
    deliver: Deliver = lambda item: None
    is_cancelled: Callable[[], bool] = lambda: False
    token_ids: list[int] = field(default_factory=list)
    has_ended: bool = False

    def take(self, token_id: int, end_ids: Sequence[int]) -> None:
        """Append a token; the answer ends with an end token, or when its room is used up."""
        self.token_ids.append(token_id)
        self.deliver(token_id)
        if token_id in end_ids or len(self.token_ids) >= self.max_new_tokens:
            self.end()

    def end(self) -> None:
        """Say that no more tokens come."""
        self.has_ended = True
        self.deliver(None)


class RunningBatch:
    """The rows being generated and their key-value cache, in which all of them end in the same column.

    Rows that have ended leave when they are a good part of the batch, or when others join.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        prefix: BatchCache | None = None,
        max_tokens: int | None = None,
        reserve: int | None = None,
        few_rows: int = 0,
    ) -> None:
        """prefix: of all prompts (sft.generation.prefix). max_tokens: prompt tokens read in one pass.

        reserve: tokens of the answers that memory is taken for at once; None: as they come. few_rows: this many stay
        together to the end.
        """
        self.loaded = loaded
        self.prefix = prefix or BatchCache(loaded.causal_lm.config, 0, 0)
        self.max_tokens = max_tokens or TOKENS_PER_BATCH[loaded.device.type]
        self.reserve, self.few_rows = reserve, few_rows
        self._rows: list[Row] = []  # one per row of the cache
        self._samplers: list[Sampler] = []
        self._cache: BatchCache | None = None
        self._mask = torch.zeros((0, 0), dtype=torch.long, device=loaded.device)  # (B, T)

    @property
    def rows(self) -> list[Row]:
        """The answers being written."""
        return [row for row in self._rows if not row.has_ended]

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> None:
        """Read the prompts of new rows and draw their first tokens; they join unless that ended them all.

        Where that fails the other rows stay as they were, or the batch is empty. Rows join others only where the cache
        keeps_all.
        """
        prompts, loaded = [row.prompt_ids for row in rows], self.loaded
        ids, mask = pad_behind(prompts, self.prefix.get_seq_length(), loaded.chat.pad_id)
        num_columns = ids.shape[1] + (self.reserve or 0)
        cache, hidden = read_prompts(loaded, self.prefix, ids, mask, num_columns, self.max_tokens)
        samplers = [Sampler(row.decoding, row.prompt_ids, hidden.device) for row in rows]
        self._take(rows, samplers, hidden)
        if all(row.has_ended for row in rows):
            return
        try:
            self._join(list(rows), samplers, cache, mask.to(loaded.device))
        except Exception:
            self.clear()  # some layers have the rows and some have not: nobody can continue with this cache
            raise

    @torch.inference_mode()
    def step(self) -> None:
        """One token more for every row; finished and cancelled rows leave."""
        for row in self.rows:
            if row.is_cancelled():
                row.end()
        self._let_leave()
        if self._cache is None:
            return
        last = torch.tensor([row.token_ids[-1:] for row in self._rows], device=self.loaded.device)  # (B, 1)
        self._mask = pad(self._mask, (0, 1), value=1)
        hidden = run_cached(self.loaded, last, self._mask, self._cache)[:, -1]  # (B, D)
        self._take(self._rows, self._samplers, hidden)
        self._let_leave()

    def clear(self) -> list[Row]:
        """Drop everything, after an error of the model; the answers that were being written."""
        rows = self.rows
        self._rows, self._samplers, self._cache, self._mask = [], [], None, self._mask[:0, :0]
        return rows

    def _take(self, rows: Sequence[Row], samplers: Sequence[Sampler], hidden: torch.Tensor) -> None:
        """Sample the next token of each row from the hidden states (B, D), and pass it on."""
        logits = self.loaded.output_layer(hidden)  # (B, D) -> (B, V)
        tokens = weigh(samplers, [row.token_ids for row in rows], logits).argmax(-1)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            if not row.has_ended:
                row.take(token, self.loaded.chat.end_ids)

    def _join(self, rows: list[Row], samplers: list[Sampler], cache: BatchCache, mask: torch.Tensor) -> None:
        if not self.rows or self._cache is None:
            self._rows, self._samplers, self._cache, self._mask = rows, samplers, cache, mask
            return
        self._keep([index for index, row in enumerate(self._rows) if not row.has_ended])
        self._cache.join(cache)
        width = max(mask.shape[1], self._mask.shape[1])
        self._mask = torch.cat([pad(part, (width - part.shape[1], 0)) for part in (self._mask, mask)])
        self._rows, self._samplers = self._rows + rows, self._samplers + samplers

    def _let_leave(self) -> None:
        going = [index for index, row in enumerate(self._rows) if not row.has_ended]
        if not going:
            self.clear()
        elif len(self._rows) > self.few_rows and len(going) <= (1 - LEAVING_SHARE) * len(self._rows):
            self._keep(going)

    def _keep(self, indices: list[int]) -> None:
        """Keep only these rows; many columns that are padding for all of them are cut off."""
        if len(indices) == len(self._rows) or self._cache is None:
            return
        self._rows, self._samplers = [self._rows[i] for i in indices], [self._samplers[i] for i in indices]
        self._mask = self._mask[torch.tensor(indices, device=self._mask.device)]
        padding = int(self._mask.any(0).nonzero()[0, 0]) if self._cache.keeps_all else 0
        padding = padding if padding >= LEAVING_SHARE * self._mask.shape[1] else 0
        self._mask = self._mask[:, padding:]
        self._cache.keep(indices, padding)


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
    """New token ids of each prompt, up to and including its end token if it has one: [[5303, 2], [17, 4, 2]].

    prefix: shared by the prompts (sft.generation.prefix); the rest is read max_tokens at a time. on_step is called
    after each token with the finished share of the work, in rows.
    """
    rows = [Row(prompt, decoding, max_new_tokens) for prompt in prompts]
    batch = RunningBatch(loaded, prefix=prefix, max_tokens=max_tokens, reserve=max_new_tokens, few_rows=FEW_ROWS)
    with in_eval_mode(loaded.model):
        batch.join(rows)
        for num_written in count(1):
            on_step(len(rows) - len(batch.rows) * (1 - num_written / max_new_tokens))
            if not batch.rows:
                break
            batch.step()
    return [row.token_ids for row in rows]


def write_answer(loaded: LoadedModel, row: Row) -> None:
    """Write one answer to its end, or until it is cancelled."""
    if loaded.backend == UNSLOTH or find_caching(loaded) is Caching.NOT:
        call_generate(
            loaded,
            [row.prompt_ids],
            row.decoding,
            row.max_new_tokens,
            deliver=row.deliver,
            is_cancelled=row.is_cancelled,
        )
        return
    with in_eval_mode(loaded.model):
        batch = RunningBatch(loaded)
        batch.join([row])
        while batch.rows:
            batch.step()


def count_room(loaded: LoadedModel, prompt: Sequence[int], decoding: Decoding) -> int:
    """Tokens the answer to a prompt may have: decoding.max_new_tokens, fewer where the model's context ends.

    Raises ModelError if the prompt leaves no room at all.
    """
    room = loaded.max_context - len(prompt)
    if room < 1 or not prompt:
        raise ModelError(
            f"the prompt takes {len(prompt):,} tokens, the model reads {loaded.max_context:,}, question and answer "
            "together; shorten the text"
        )
    return min(decoding.max_new_tokens, room)


def can_batch(loaded: LoadedModel) -> bool:
    """Whether rows can join a running batch: every layer keeps keys and values of every token, and it is proven.

    Raises ModelError if not even one row at a time can be written so; says why rows are written one at a time.
    """
    if loaded.head is not None:  # it writes nothing
        return True
    caching = find_caching(loaded)
    if caching is Caching.NOT:
        name = type(loaded.causal_lm).__name__
        raise ModelError(f"{name} keeps its state in a cache of its own, which the server does not know; use chat.py")
    keeps_all = BatchCache(loaded.causal_lm.config, 0, 0).keeps_all
    if not keeps_all:
        say("layers keep a window or a state, not all keys and values: answers are written one at a time")
    return keeps_all and caching is Caching.TOGETHER
