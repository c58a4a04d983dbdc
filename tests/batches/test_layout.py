"""sft.batches: the two layouts, value by value."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from prompts import Encoded
from sft import batches
from sft.batches import flatten_rows, pad_rows, plan_batches

FIVE = Encoded([1, 11, 12, 13, 2], [0, 0, 0, 1, 1])
THREE = Encoded([1, 21, 2], [0, 1, 1])


def test_rows_laid_end_to_end_keep_their_positions_and_bounds():
    batch = flatten_rows([FIVE, THREE])
    assert batch["input_ids"].tolist() == [[1, 11, 12, 13, 2, 1, 21, 2]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 5, 8]
    assert batch["max_length_q"] == 5
    assert batch["labels"].tolist() == [[-100, -100, -100, 13, 2, -100, 21, 2]]
    assert batch["logits_to_keep"].tolist() == [2, 3, 5, 6]
    assert batch["row_lengths"].tolist() == [5, 3]


def test_a_supervised_first_token_is_not_predicted_from_the_row_before_it():
    batch = flatten_rows([THREE, Encoded([7, 8], [1, 1])])
    assert batch["labels"].tolist() == [[-100, 21, 2, -100, 8]]
    assert batch["logits_to_keep"].tolist() == [0, 1, 3]


def test_a_shared_prefix_is_stored_once_and_every_row_sees_it(monkeypatch):
    monkeypatch.setattr(batches, "FEWEST_TOKENS", 3)
    rows = [Encoded([1, 2, 3, 4, 5], [0, 0, 0, 0, 1]), Encoded([1, 2, 3, 6, 7, 8, 9], [0, 0, 0, 0, 0, 0, 1])]
    batch = flatten_rows(rows, shares=True)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 3, 4, 5, 6]]
    assert batch["cu_seq_lens_q"].tolist() == [0, 3, 5, 9]
    assert batch["cu_seq_lens_k"].tolist() == [0, 3, 8, 15]
    assert batch["cu_seq_lens_k"].dtype is torch.int32
    assert batch["key_places"].tolist() == [0, 1, 2, *range(5), 0, 1, 2, *range(5, 9)]
    assert (batch["max_length_q"], batch["max_length_k"]) == (4, 7)
    assert batch["logits_to_keep"].tolist() == [3, 7]
    assert batch["labels"].tolist() == [[-100, -100, -100, -100, 5, -100, -100, -100, 9]]
    assert batch["row_lengths"].tolist() == [5, 7]


def test_rows_with_nothing_in_common_are_laid_as_ever():
    plain, shared = flatten_rows([FIVE, THREE]), flatten_rows([FIVE, THREE], shares=True)
    assert list(plain) == list(shared)
    assert all(str(plain[name]) == str(shared[name]) for name in plain)


def test_padded_rows_end_in_padding_that_carries_no_loss():
    batch = pad_rows([FIVE, THREE], pad_id=0)
    assert batch["input_ids"].tolist() == [[1, 11, 12, 13, 2], [1, 21, 2, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 13, 2], [-100, 21, 2, -100, -100]]
    assert batch["row_lengths"].tolist() == [5, 3]


def test_a_padding_token_inside_an_answer_is_still_supervised():
    assert pad_rows([Encoded([1, 0, 2], [0, 1, 1])], pad_id=0)["labels"].tolist() == [[-100, 0, 2]]


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 120))
def test_batches_hold_every_row_once_and_keep_the_budget(lengths, max_tokens):
    batches = plan_batches(lengths, max_tokens)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        assert sum(lengths[index] for index in batch) <= max_tokens or len(batch) == 1


def test_batches_are_tensors_of_whole_numbers():
    assert flatten_rows([FIVE])["cu_seq_lens_q"].dtype is torch.int32


def test_batches_of_answers_hold_prompts_of_like_length_longest_first():
    assert plan_batches([3, 9, 8], 28, padded=True, growing_by=[5, 5, 5]) == [[1, 2], [0]]
    assert plan_batches([3, 9, 8], 1, padded=True, growing_by=[5, 5, 5]) == [[1], [2], [0]]


@given(
    rows=st.lists(st.tuples(st.integers(1, 300), st.sampled_from([1, 8, 64])), max_size=150),
    budget=st.integers(1, 5000),
)
def test_every_prompt_is_in_one_batch_within_the_budget(rows, budget):
    lengths, rooms = [length for length, _ in rows], [room for _, room in rows]
    batches = plan_batches(lengths, budget, 20, padded=True, growing_by=rooms)
    assert sorted(place for batch in batches for place in batch) == list(range(len(rows)))
    for batch in batches:
        assert len({rooms[place] for place in batch}) == 1
        size = len(batch) * (max(lengths[place] for place in batch) + rooms[batch[0]])
        assert len(batch) == 1 or (size <= budget and len(batch) <= 20)
