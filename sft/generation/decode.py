"""Many answers at once, a token for each in turn; rows whose answer has ended leave the batch.

transformers' `generate`, which sft.generation.call calls for one answer, carries every row on until the longest answer
ends. Tokens are the same: tests compare them with those of each row alone.
"""

from collections.abc import Callable, Sequence

import torch

from sft.config.decoding import Decoding
from sft.generation.cache import BatchCache
from sft.generation.prefix import pad_behind, read_prompts, run_cached
from sft.generation.sampling import keep_rows, make_processors
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
