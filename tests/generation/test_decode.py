import pytest

from sft.config.decoding import DECODING
from sft.generation import generate_batch
from sft.generation.selfcheck import find_caching
from sft.generation.streaming import call_generate

LONG = {name: preset.model_copy(update={"max_new_tokens": 24}) for name, preset in DECODING.items()}


@pytest.fixture
def brief(tiny):
    """The tiny model with so many end tokens that answers are of all lengths."""
    tiny.chat.end_ids = (*tiny.chat.end_ids, *range(100, 130))
    return tiny


def prompts_of(loaded, count: int) -> list[list[int]]:
    texts = [f"{'很好' * (number % 5)} question {number}" for number in range(count)]
    return [loaded.chat.encode_prompt([{"role": "user", "content": text}]) for text in texts]


@pytest.mark.parametrize("preset", ["precise", "chat"])
def test_rows_that_are_through_leave_the_batch_and_every_answer_is_that_of_generate_alone(brief, preset):
    prompts = prompts_of(brief, 40)
    sizes = []
    find_caching(brief)  # its passes are not counted
    brief.causal_lm.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    answers = generate_batch(brief, prompts, LONG[preset])
    rows = [num_rows for num_rows, num_tokens in sizes if num_tokens == 1]
    expected = [call_generate(brief, [prompt], LONG[preset], 24)[0] for prompt in prompts]
    ends = set(brief.chat.end_ids)
    assert [answer.token_ids for answer in answers] == [[id for id in ids if id not in ends] for ids in expected]
    lengths = {len(ids) for ids in expected}
    assert len(lengths) > 3
    assert rows == sorted(rows, reverse=True)
    assert len(set(rows)) > 1
    assert rows[-1] < 10 < rows[0]


def test_progress_tells_of_answers_in_the_making(brief, capsys):
    generate_batch(brief, prompts_of(brief, 10), LONG["chat"], progress="tuned: answers")
    lines = capsys.readouterr().err.splitlines()
    shares = [int(line.split("%")[0].rsplit(" ", 1)[1]) for line in lines]
    assert len(shares) > 3
    assert shares == sorted(shares)
    assert shares[-1] == 100
