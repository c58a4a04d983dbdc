import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from sft.config.decoding import DECODING, Decoding
from sft.generation.sampling import Sampler, draw, repeating_tokens, row_seed, rule_out_repeated_ngrams, weigh

CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(0, 4), max_size=12)
KINDS = [Decoding(), DECODING["chat"], Decoding(temperature=1.0, seed=7), Decoding(repetition_penalty=0.7)]


def score(decoding: Decoding, prompts: list[list[int]], answers: list[list[int]], logits: torch.Tensor) -> torch.Tensor:
    """Scores of the token behind the answers so far."""
    return weigh([Sampler(decoding, prompt, CPU) for prompt in prompts], answers, logits.clone())


@given(answer=TOKENS.filter(len), prompt=TOKENS.filter(len), size=st.integers(1, 4))
def test_ngrams_are_ruled_out_as_transformers_does_but_within_the_answer_alone(answer, prompt, size):
    scores = torch.zeros(1, 5)
    expected = NoRepeatNGramLogitsProcessor(size)(torch.tensor([answer]), scores.clone())
    assert torch.equal(score(Decoding(no_repeat_ngram_size=size), [prompt], [answer], scores), expected)
    rule_out_repeated_ngrams(scores, [answer], size)
    assert torch.equal(scores, expected)


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
    logits = torch.randn(2, 5, dtype=torch.bfloat16)
    assert weigh([Sampler(DECODING["precise"], prompt, CPU) for prompt in ([1], [2])], [[1, 1], []], logits) is logits


def test_draws_follow_the_probabilities():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05])).repeat(20_000, 1)
    draws = draw([torch.Generator().manual_seed(seed) for seed in range(20_000)], logits).argmax(dim=-1)
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


@given(st.lists(st.tuples(st.sampled_from(KINDS), TOKENS), min_size=1, max_size=6))
def test_rows_of_any_settings_beside_each_other_are_weighed_as_each_alone(rows):
    logits = torch.randn(len(rows), 5, generator=torch.Generator().manual_seed(1))
    prompts = [[number] for number in range(len(rows))]
    together = weigh(
        [Sampler(kind, prompt, CPU) for (kind, _), prompt in zip(rows, prompts, strict=True)],
        [answer for _, answer in rows],
        logits.clone(),
    )
    for number, (kind, answer) in enumerate(rows):
        alone = score(kind, [prompts[number]], [answer], logits[number : number + 1])
        assert torch.equal(together[number : number + 1], alone)
