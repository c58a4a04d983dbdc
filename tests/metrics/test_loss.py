import math
import random

import pytest

from sft.metrics.loss import summarise_loss


def test_rows_weigh_by_their_tokens():
    assert summarise_loss([2.0, 4.0], [1, 3], [3, 9]) == {
        "eval_loss": 1.5,
        "perplexity": math.exp(1.5),
        "bits_per_byte": 6.0 / math.log(2) / 12,
        "supervised_tokens": 4,
        "num_rows": 2,
    }


def test_the_order_of_rows_does_not_matter_to_the_last_bit():
    rng = random.Random(1)
    rows = [(rng.uniform(0, 50), rng.randrange(1, 40), rng.randrange(1, 90)) for _ in range(500)]
    shuffled = rng.sample(rows, len(rows))
    assert summarise_loss(*zip(*rows, strict=True)) == summarise_loss(*zip(*shuffled, strict=True))


def test_a_loss_too_large_for_exp_still_gives_a_number():
    assert summarise_loss([1e6], [1], [1])["perplexity"] == math.exp(700.0)


def test_rows_without_a_supervised_token_have_no_loss():
    with pytest.raises(ValueError, match="no supervised token"):
        summarise_loss([], [], [])


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one nll, token and byte count per row: 2, 1, 1"):
        summarise_loss([1.0, 2.0], [1], [1])
    with pytest.raises(ValueError, match="one nll, token and byte count per row: 2, 2, 1"):
        summarise_loss([1.0, 2.0], [1, 1], [1])
    with pytest.raises(ValueError, match="one nll, token and byte count per row: 2, 1, 2"):
        summarise_loss([1.0, 2.0], [1], [1, 1])
    with pytest.raises(ValueError, match=r"one nll, token and byte count per row: 2, 1$"):
        summarise_loss([1.0, 2.0], [1], None)
