"""Beginnings that rows have in common: found once, none lost, and no supervised token among them."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prompts import Encoded
from sft import batches
from sft.batches import Segment, count_in_common, find_segments


@pytest.fixture(autouse=True)
def short_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "FEWEST_TOKENS", 2)


def answered(*ids: int, prompt: int) -> Encoded:
    """The tokens after the first `prompt` ones are the answer."""
    return Encoded(list(ids), [0] * prompt + [1] * (len(ids) - prompt))


@st.composite
def a_row(draw: st.DrawFn) -> Encoded:
    """Of three kinds of tokens, so that beginnings agree often."""
    ids = draw(st.lists(st.integers(1, 3), min_size=1, max_size=12))
    return Encoded(ids, draw(st.lists(st.integers(0, 1), min_size=len(ids), max_size=len(ids))))


@given(st.lists(a_row(), min_size=1, max_size=8))
def test_segments_make_up_every_row_and_what_is_in_common_is_never_supervised(rows):
    segments = find_segments(rows)
    shared, own = segments[: -len(rows)], segments[-len(rows) :]
    for number, (row, last) in enumerate(zip(rows, own, strict=True)):
        path = [*(segments[place] for place in last.above), last]
        assert last.row == number
        assert [token for cut in path for token in rows[cut.row].input_ids[cut.start : cut.end]] == row.input_ids
        assert [cut.start for cut in path] == [0, *(cut.end for cut in path[:-1])]
        assert not any(row.loss_mask[: last.start + 1]) or last.start == 0
        assert last.end > last.start
    for place, cut in enumerate(shared):
        assert cut.end - cut.start >= batches.FEWEST_TOKENS
        assert all(above < place for above in cut.above)
        assert sum(place in one.above for one in own) > 1


@given(st.lists(a_row(), min_size=2, max_size=6))
def test_nothing_is_left_in_common_that_is_long_enough(rows):
    own = find_segments(rows)[-len(rows) :]
    for one, other in combinations(own, 2):
        if one.above == other.above:
            left = [
                rows[cut.row].input_ids[cut.start : max(0, [*rows[cut.row].loss_mask, 1].index(1) - 1)]
                for cut in (one, other)
            ]
            assert count_in_common(*left) < batches.FEWEST_TOKENS


def test_two_tasks_behind_one_system_prompt_are_a_tree():
    system, first, second = [1, 2, 3], [4, 5], [6, 7]
    rows = [
        answered(*system, *first, 10, 11, 90, prompt=7),
        answered(*system, *second, 12, 91, prompt=6),
        answered(*system, *first, 13, 90, prompt=6),
        answered(*system, *second, 14, 92, prompt=6),
    ]
    shared, own = find_segments(rows)[:3], find_segments(rows)[3:]
    assert (shared[0].start, shared[0].end, shared[0].above) == (0, 3, ())
    assert rows[shared[0].row].input_ids[:3] == system
    assert sorted(rows[cut.row].input_ids[cut.start : cut.end] for cut in shared[1:]) == [first, second]
    assert {cut.above for cut in shared[1:]} == {(0,)}
    assert [(cut.start, cut.end) for cut in own] == [(5, 8), (5, 7), (5, 7), (5, 7)]
    assert own[0].above == own[2].above != own[1].above == own[3].above


def test_rows_of_one_prompt_share_all_of_it_but_the_token_that_predicts_the_answer():
    rows = [answered(1, 2, 3, 4, 5, prompt=4), answered(1, 2, 3, 4, 6, 7, prompt=4)]
    assert find_segments(rows) == [Segment(0, 0, 3, ()), Segment(0, 3, 5, (0,)), Segment(1, 3, 6, (0,))]


def test_rows_without_a_prefix_worth_sharing_stay_whole():
    rows = [answered(1, 2, 3, prompt=2), answered(1, 4, 5, prompt=2), answered(6, 7, 8, prompt=2)]
    assert find_segments(rows) == [Segment(row, 0, 3, ()) for row in range(3)]


def test_a_row_that_is_supervised_from_its_first_token_shares_nothing():
    rows = [Encoded([1, 2, 3, 4], [1, 1, 1, 1])] * 2
    assert find_segments(rows) == [Segment(0, 0, 4, ()), Segment(1, 0, 4, ())]
