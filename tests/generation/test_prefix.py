import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sft.config.decoding import DECODING
from sft.generation import generate_batch
from sft.generation.prefix import compute_prefix, cut_rows, pad_behind, read_prompts, shared_length
from sft.generation.selfcheck import find_caching

PROMPTS = st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=8), min_size=1, max_size=6)


@given(PROMPTS)
def test_the_shared_part_is_the_longest_common_prefix_and_leaves_a_token_of_each(prompts):
    length = shared_length(prompts)
    assert all(prompt[:length] == prompts[0][:length] and len(prompt) > length for prompt in prompts)
    longer = length + 1
    assert min(map(len, prompts)) == longer or len({tuple(prompt[:longer]) for prompt in prompts}) > 1


@given(PROMPTS)
def test_padding_follows_the_shared_part_and_the_mask_leaves_every_prompt_unchanged(prompts):
    ids, mask = pad_behind(prompts, shared_length(prompts), 0)
    assert [row[keep.bool()].tolist() for row, keep in zip(ids, mask, strict=True)] == prompts
    assert ids.shape == mask.shape == (len(prompts), max(map(len, prompts)))
    assert bool((mask[:, -1] == 1).all())


def prompts_of(loaded, texts: list[str]) -> list[list[int]]:
    return [
        loaded.chat.encode_prompt([{"role": "user", "content": f"The same long question: {text}"}]) for text in texts
    ]


def test_what_prompts_share_is_computed_once_and_not_again_in_any_batch(tiny, monkeypatch):
    prompts = prompts_of(tiny, ["a", "bbb", "cc", "dddd"])
    shared = shared_length(prompts)
    assert shared > 20
    monkeypatch.setattr("sft.generation.batch.MAX_BATCH_ROWS", 2)
    shapes = []
    find_caching(tiny)  # its passes are not counted
    tiny.causal_lm.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    generate_batch(tiny, prompts, DECODING["precise"].model_copy(update={"max_new_tokens": 2}))
    longest = [max(len(prompts[place]) for place in batch) for batch in ((3, 1), (2, 0))]
    passes = [shape for shape in shapes if shape[1] > 1]
    assert passes == [(1, shared), (2, longest[0] - shared), (2, longest[1] - shared)]


def test_padding_before_the_longest_of_a_part_is_not_read(tiny, monkeypatch):
    prompts = prompts_of(tiny, ["a" * 30, "b", "c"])
    prefix = compute_prefix(tiny, prompts)
    ids, mask = pad_behind(prompts, prefix.get_seq_length(), tiny.chat.pad_id)
    own = [len(prompt) - prefix.get_seq_length() for prompt in prompts]
    shapes = []
    tiny.causal_lm.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    read_prompts(tiny, prefix, ids, mask, ids.shape[1], 2 * own[1])
    assert shapes == [(1, own[0]), (2, own[1])]


@pytest.mark.parametrize("max_tokens", [1, 60, 10_000])  # a row at a time, two, all
def test_hidden_states_behind_the_shared_part_are_those_of_the_whole_prompt(tiny, max_tokens):
    prompts = prompts_of(tiny, ["a", "bbb", "cc"])
    prefix = compute_prefix(tiny, prompts)
    ids, mask = pad_behind(prompts, prefix.get_seq_length(), tiny.chat.pad_id)
    cache, last = read_prompts(tiny, prefix, ids, mask, ids.shape[1] + 4, max_tokens)
    assert cache.get_seq_length() == ids.shape[1]
    for row, prompt in enumerate(prompts):
        with torch.inference_mode():
            alone = tiny.causal_lm.model(input_ids=torch.tensor([prompt])).last_hidden_state[0, -1]
        torch.testing.assert_close(last[row], alone, rtol=1e-4, atol=1e-4)


def test_rows_are_read_with_neighbours_of_like_lengths():
    assert cut_rows([9, 8, 3, 2], 18) == [slice(0, 2), slice(2, 4)]
    assert cut_rows([2, 3, 9], 6) == [slice(0, 2), slice(2, 3)]
    assert cut_rows([50], 6) == [slice(0, 1)]


def test_one_prompt_or_prompts_with_nothing_in_common_have_no_prefix(tiny):
    assert compute_prefix(tiny, prompts_of(tiny, ["a"])).get_seq_length() == 0
    assert compute_prefix(tiny, [[5, 6, 7], [8, 6, 7]]).get_seq_length() == 0


def test_one_batch_leaves_the_prefix_as_the_next_one_needs_it(tiny):
    prompts = prompts_of(tiny, ["a", "bbb"])
    prefix = compute_prefix(tiny, prompts)
    before = [layer.keys.clone() for layer in prefix.layers]
    ids, mask = pad_behind(prompts, prefix.get_seq_length(), tiny.chat.pad_id)
    read_prompts(tiny, prefix, ids, mask, ids.shape[1], 10_000)
    assert all(torch.equal(old, layer.keys) for old, layer in zip(before, prefix.layers, strict=True))
