import random
from itertools import pairwise

import pytest

from sft.config.decoding import DECODING
from sft.generation import generate_batch, stream
from sft.generation.decode import Row, RunningBatch
from sft.generation.selfcheck import find_caching
from sft.generation.stock import call_generate

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


def test_progress_shows_answers_that_are_being_written(brief, capsys):
    generate_batch(brief, prompts_of(brief, 10), LONG["chat"], progress="tuned: answers")
    lines = capsys.readouterr().err.splitlines()
    shares = [int(line.split("%")[0].rsplit(" ", 1)[1]) for line in lines]
    assert len(shares) > 3
    assert shares == sorted(shares)
    assert shares[-1] == 100


@pytest.mark.parametrize("preset", ["precise", "chat"])
def test_rows_that_join_and_leave_between_two_tokens_write_what_each_writes_alone(brief, preset, monkeypatch):
    monkeypatch.setattr("sft.generation.cache.GROWTH", 8)
    rng = random.Random(3)
    texts = ["很长的问题" * (20 if number % 4 == 0 else 1) + str(number) for number in range(16)]
    prompts = [brief.chat.encode_prompt([{"role": "user", "content": text}]) for text in texts]
    waiting = [Row(prompt, LONG[preset], rng.randint(1, 24)) for prompt in prompts]
    batch, rows, widths = RunningBatch(brief), list(waiting), []
    while waiting or batch.rows:
        if waiting and len(batch.rows) < 4:
            batch.join([waiting.pop(0) for _ in range(min(len(waiting), rng.randint(1, 2)))])
        batch.step()
        widths.append(batch._mask.shape[1])
    for row in rows:
        assert row.token_ids == call_generate(brief, [row.prompt_ids], LONG[preset], row.max_new_tokens)[0]
    assert any(after < before / 2 for before, after in pairwise(widths) if after)  # padding goes


def test_a_cancelled_row_ends_and_the_others_continue(brief):
    first, second = prompts_of(brief, 2)
    told, is_cancelled = [], [False]
    batch = RunningBatch(brief)
    rows = [Row(first, LONG["chat"], 24, told.append, lambda: is_cancelled[0]), Row(second, LONG["chat"], 24)]
    batch.join(rows)
    is_cancelled[0] = True
    batch.step()
    assert told == [rows[0].token_ids[0], None]
    while batch.rows:
        batch.step()
    assert rows[1].token_ids == call_generate(brief, [second], LONG["chat"], 24)[0]


@pytest.mark.parametrize("preset", ["precise", "chat"])
def test_a_model_that_only_transformers_can_continue_streams_the_same_and_can_be_stopped(brief, preset):
    prompt, decoding = prompts_of(brief, 3)[2], LONG[preset]
    with stream(brief, prompt, decoding) as pieces:
        expected = "".join(pieces), pieces.token_ids, pieces.finished
    brief.caching = "NOT"
    with stream(brief, prompt, decoding) as pieces:
        assert ("".join(pieces), pieces.token_ids, pieces.finished) == expected
    brief.chat.end_ids = ()
    with stream(brief, prompt, decoding.model_copy(update={"max_new_tokens": 400})) as pieces:
        next(pieces)
        pieces.stop()
        list(pieces)
    assert len(pieces.token_ids) < 400
