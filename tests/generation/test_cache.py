import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import pad
from transformers import DynamicCache, MistralConfig, Qwen2Config

from sft.generation.cache import BatchCache, bytes_per_token

HEADS, SIZE = 2, 8  # of the tiny model


def columns(num_rows: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(num_rows, HEADS, count, SIZE), torch.randn(num_rows, HEADS, count, SIZE)


def test_what_is_written_token_by_token_is_what_transformers_cache_holds(tiny):
    config = tiny.causal_lm.config
    ours, theirs = BatchCache(config, 3, 12), DynamicCache(config=config)
    for count in (7, 1, 1, 3):
        for layer in range(2):
            new = columns(3, count)
            found, expected = ours.update(*new, layer), theirs.update(*new, layer)
            assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert ours.get_seq_length() == theirs.get_seq_length() == 12


def test_a_new_token_moves_nothing_that_is_there(tiny):
    cache = BatchCache(tiny.causal_lm.config, 3, 9)
    places = {cache.update(*columns(3, 1), 0)[0].data_ptr() for _ in range(9)}
    assert len(places) == 1


def test_rows_written_part_by_part_are_one_cache_and_rows_that_leave_take_nothing_along(tiny):
    config = tiny.causal_lm.config
    cache, whole = BatchCache(config, 3, 6), columns(3, 4)
    for rows in (slice(0, 2), slice(2, 3)):
        for layer in range(2):
            cache.rows(rows, 0).update(*(part[rows] for part in whole), layer)
    cache.mark_written(4)
    cache.keep([0, 2])
    new = columns(2, 1)
    keys, values = cache.update(*new, 0)
    assert torch.equal(keys, torch.cat([whole[0][[0, 2]], new[0]], 2))
    assert torch.equal(values, torch.cat([whole[1][[0, 2]], new[1]], 2))


def test_a_cache_that_is_full_takes_more_columns_and_loses_none(tiny, monkeypatch):
    monkeypatch.setattr("sft.generation.cache.GROWTH", 4)
    config = tiny.causal_lm.config
    ours, theirs = BatchCache(config, 2, 0), DynamicCache(config=config)
    for count in (3, 1, 1, 7, 1):
        new = columns(2, count)
        found, expected = ours.update(*new, 0), theirs.update(*new, 0)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@given(first=st.integers(1, 9), second=st.integers(1, 9), padding=st.integers(0, 8))
def test_rows_of_two_caches_end_in_one_column_and_columns_that_are_cut_off_are_the_first(first, second, padding):
    config = Qwen2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2)
    cache, other = BatchCache(config, 2, first), BatchCache(config, 1, second + 3)
    ours, theirs = columns(2, first), columns(1, second)
    for layer in range(2):
        cache.update(*ours, layer)
        other.update(*theirs, layer)
    cache.join(other)
    length = max(first, second)
    assert cache.get_seq_length() == length
    padded = [
        torch.cat([pad(one, (0, 0, length - first, 0)), pad(another, (0, 0, length - second, 0))])
        for one, another in zip(ours, theirs, strict=True)
    ]
    cut = min(padding, length - 1)
    cache.keep([2, 0], cut)
    new = columns(2, 1)
    for layer in range(2):
        found = cache.update(*new, layer)
        for part, expected, added in zip(found, padded, new, strict=True):
            assert torch.equal(part, torch.cat([expected[[2, 0], :, cut:], added], 2))


def test_layers_with_a_sliding_window_stay_transformers_own_and_let_rows_go():
    config = MistralConfig(sliding_window=4, num_hidden_layers=1)
    cache = BatchCache(config, 3, 12)
    assert not cache.keeps_all
    whole = columns(3, 9)
    cache.update(*whole, 0)
    cache.keep([1])
    keys, _ = cache.update(*columns(1, 1), 0)
    assert torch.equal(keys[:, :, :-1], whole[0][1:2, :, -3:])


@pytest.mark.parametrize(
    ("sizes", "dtype", "expected"),
    [
        (
            {"hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4},
            "bf16",
            57_344,
        ),
        (
            {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4},
            "fp32",
            1_024,
        ),
    ],
)
def test_memory_of_a_token_is_that_of_its_keys_and_values(sizes, dtype, expected):
    dtypes = {"bf16": torch.bfloat16, "fp32": torch.float32}
    assert bytes_per_token(Qwen2Config(**sizes), dtypes[dtype]) == expected
