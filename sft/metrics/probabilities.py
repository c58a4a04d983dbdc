"""Label scores -> probabilities over the labels a row allows, and the answer picked by them.

A score is the log-probability of a label as the whole answer (sft.label_scoring) or a logit of a classification head.
Either way the probabilities of a row's labels add up to 1, so what the model would give to other answers is left out.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.float32]


def softmax(scores: Sequence[float], temperature: float = 1.0) -> Probabilities:
    """Probabilities in fp32: softmax([-0.1, -2.3]) -> [0.9, 0.1]. temperature > 1 flattens, < 1 sharpens.

    Raises ValueError for no scores and for a score that is not finite.
    """
    logits = np.asarray(scores, np.float32) / np.float32(temperature)
    if logits.size == 0 or not np.isfinite(logits).all():
        raise ValueError(f"scores must be finite numbers, at least one, not {list(scores)}")
    exponents = np.exp(logits - logits.max())
    shares: Probabilities = exponents / exponents.sum()
    return shares


def spread_over(classes: Sequence[str], labels: Sequence[str], probabilities: Sequence[float]) -> NDArray[np.float64]:
    """A row's probabilities over all classes of its task; 0 for those the row does not allow.

    spread_over(["体育", "经济", "娱乐"], ["经济", "体育"], [0.2, 0.8]) -> [0.8, 0.2, 0.0]
    """
    row = np.zeros(len(classes))
    for label, probability in zip(labels, probabilities, strict=True):
        row[classes.index(label)] += probability
    return row
