import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from sft.config.decoding import DECODING, Decoding
from sft.generation.sampling import DrawPerRow, NoRepeatedNgrams, make_processors, repeating_tokens, row_seed

CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(0, 4), max_size=12)


def score(decoding: Decoding, prompts: list[list[int]], answers: list[list[int]], logits: torch.Tensor) -> torch.Tensor:
    """Scores after the prompts, padded with 0 on the left, and the answers so far."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + p + a for p, a in zip(prompts, answers, strict=True)])
    return make_processors(decoding, prompts, width, CPU)(ids, logits.clone())


@given(answer=TOKENS.filter(len), prompt=TOKENS.filter(len), size=st.integers(1, 4))
def test_ngrams_are_ruled_out_as_transformers_does_but_within_the_answer_alone(answer, prompt, size):
    scores = torch.zeros(1, 5)
    expected = NoRepeatNGramLogitsProcessor(size)(torch.tensor([answer]), scores.clone())
    assert torch.equal(NoRepeatedNgrams(size, len(prompt))(torch.tensor([prompt + answer]), scores.clone()), expected)


def test_the_token_that_would_complete_a_run_again_is_named():
    assert repeating_tokens([5, 7, 9, 5], 2) == [7]
    assert repeating_tokens([5, 7, 5, 9, 5], 2) == [7, 9]
    assert repeating_tokens([5, 7], 1) == [5, 7]
    assert repeating_tokens([], 3) == []


@given(answer=TOKENS.filter(len), prompt=TOKENS.filter(len))
def test_repetition_is_penalised_within_the_answer_alone(answer, prompt):
    logits = torch.tensor([[3.0, -2.0, 1.0, 0.5, -0.5]])
    expected = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([answer]), logits.clone())
    assert torch.equal(score(Decoding(repetition_penalty=1.3), [prompt], [answer], logits), expected)


def test_before_the_first_token_of_an_answer_no_penalty_holds():
    logits = torch.randn(2, 5)
    decoding = Decoding(repetition_penalty=1.3, no_repeat_ngram_size=1)
    assert torch.equal(score(decoding, [[1, 2, 3], [4]], [[], []], logits), logits)


def test_greedy_decoding_leaves_the_logits_alone():
    assert len(make_processors(DECODING["precise"], [[1]], 1, CPU)) == 0


def test_draws_follow_the_probabilities():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).repeat(20_000, 1)
    draws = DrawPerRow(range(20_000), CPU)(torch.empty(20_000, 0), logits).argmax(dim=-1)
    shares = torch.bincount(draws, minlength=4) / 20_000
    assert shares.tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.015)  # 4 standard errors


def test_top_p_and_temperature_narrow_the_draw():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).repeat(500, 1)
    prompts = [[number] for number in range(500)]

    def drawn(decoding: Decoding) -> set[int]:
        return set(score(decoding, prompts, [[] for _ in prompts], logits).argmax(dim=-1).tolist())

    assert drawn(Decoding(temperature=1.0)) == {0, 1, 2, 3}
    assert drawn(Decoding(temperature=1.0, top_p=0.75)) == {0, 1}
    assert drawn(Decoding(temperature=0.01)) == {0}


def test_a_rows_draws_depend_on_seed_and_prompt_alone():
    assert row_seed(42, [1, 2]) == row_seed(42, (1, 2))
    assert len({row_seed(42, [1, 2]), row_seed(43, [1, 2]), row_seed(42, [12]), row_seed(42, [1, 2, 3])}) == 4
