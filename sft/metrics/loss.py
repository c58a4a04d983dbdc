"""Loss of supervised tokens: sum of nll over sum of tokens, so it cannot depend on how rows were batched."""

import math
from collections.abc import Sequence
from typing import TypedDict

LARGEST_EXPONENT = 700.0  # exp(710) overflows a double; a loss beyond it is no language model any more


class LossFigures(TypedDict):
    """eval_loss in nats per token, perplexity = exp(eval_loss), bits_per_byte of the answers' UTF-8 text."""

    eval_loss: float
    perplexity: float
    bits_per_byte: float
    supervised_tokens: int
    num_rows: int


def summarise_loss(nll: Sequence[float], num_tokens: Sequence[int], num_bytes: Sequence[int]) -> LossFigures:
    """Token-weighted loss of rows.

    nll: summed negative log-probability of each row's supervised tokens, in nats. num_bytes: length in UTF-8 of the
    text those tokens spell; the end token costs nll but spells nothing, so bits per byte compares models with
    different tokenizers at the price of ending, too.

    summarise_loss([2.0, 4.0], [1, 3], [3, 9]) -> eval_loss 1.5, perplexity 4.48, bits_per_byte 0.72

    Raises ValueError where the rows hold no supervised token or their lengths differ.
    """
    if not len(nll) == len(num_tokens) == len(num_bytes):
        raise ValueError(f"one nll, token and byte count per row: {len(nll)}, {len(num_tokens)}, {len(num_bytes)}")
    total_nll, total_tokens, total_bytes = math.fsum(nll), sum(num_tokens), sum(num_bytes)
    if total_tokens == 0:
        raise ValueError("no supervised token in these rows, so they have no loss")
    loss = total_nll / total_tokens
    return {
        "eval_loss": loss,
        "perplexity": math.exp(min(loss, LARGEST_EXPONENT)),
        "bits_per_byte": total_nll / math.log(2) / total_bytes if total_bytes else 0.0,
        "supervised_tokens": total_tokens,
        "num_rows": len(nll),
    }
