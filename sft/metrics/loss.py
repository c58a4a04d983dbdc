"""Loss of supervised tokens: sum of nll over sum of tokens, so it cannot depend on how rows were batched."""

import math
from collections.abc import Sequence
from typing import NotRequired, TypedDict

LARGEST_EXPONENT = 700.0  # exp(710) overflows a double; a loss beyond it is no language model any more


class LossFigures(TypedDict):
    """eval_loss in nats per token, perplexity = exp(eval_loss), bits_per_byte of the answers' UTF-8 text.

    If a class is chosen instead of generated, a row counts as one token and has no bits per byte.
    """

    eval_loss: float
    perplexity: float
    bits_per_byte: NotRequired[float]
    supervised_tokens: int
    num_rows: int


def summarise_loss(nll: Sequence[float], num_tokens: Sequence[int], num_bytes: Sequence[int] | None) -> LossFigures:
    """Token-weighted loss of rows.

    nll: summed negative log-probability of each row's supervised tokens, in nats. num_bytes: length in UTF-8 of the
    text those tokens spell; the end token costs nll but spells nothing, so bits per byte compares models with
    different tokenizers at the price of ending, too. None: they spell nothing.

    summarise_loss([2.0, 4.0], [1, 3], [3, 9]) -> eval_loss 1.5, perplexity 4.48, bits_per_byte 0.72

    Raises ValueError if the rows have no supervised token or their lengths differ.
    """
    counts = (num_tokens,) if num_bytes is None else (num_tokens, num_bytes)
    if not all(len(nll) == len(one) for one in counts):
        raise ValueError(f"one nll, token and byte count per row: {len(nll)}, {', '.join(str(len(c)) for c in counts)}")
    total_nll, total_tokens = math.fsum(nll), sum(num_tokens)
    if total_tokens == 0:
        raise ValueError("no supervised token in these rows, so they have no loss")
    loss = total_nll / total_tokens
    figures: LossFigures = {
        "eval_loss": loss,
        "perplexity": math.exp(min(loss, LARGEST_EXPONENT)),
        "supervised_tokens": total_tokens,
        "num_rows": len(nll),
    }
    if num_bytes is not None:
        total_bytes = sum(num_bytes)
        figures["bits_per_byte"] = total_nll / math.log(2) / total_bytes if total_bytes else 0.0
    return figures
