"""The order of rows: a permutation an epoch, the same for any number of processes, each row once."""

from hypothesis import given
from hypothesis import strategies as st

from sft.training.processes import StepOrder, deal_rows

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=60)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
def test_processes_share_each_step_of_one_process_without_a_duplicate(lengths, rows_per_step, num_processes, epoch):
    def steps(rank: int, of: int) -> list[list[int]]:
        order = StepOrder(lengths, rows_per_step, seed=7, rank=rank, num_processes=of)
        order.set_epoch(epoch)
        assert len(order) == len(list(order))
        return list(order)

    alone = steps(0, 1)
    assert sorted(place for step in alone for place in step) == list(range(len(lengths)))
    assert {len(step) for step in alone[:-1]} <= {rows_per_step}
    parts = [steps(rank, num_processes) for rank in range(num_processes)]
    for number, step in enumerate(alone):
        assert sorted(place for part in parts for place in part[number]) == sorted(step)
        tokens = [sum(lengths[place] for place in part[number]) for part in parts]
        assert max(tokens) - min(tokens) <= max(lengths[place] for place in step)  # none has a row too many


def test_rows_are_dealt_so_that_processes_have_about_as_many_tokens_and_keep_their_order():
    lengths = {7: 2000, 3: 300, 5: 900, 1: 100, 8: 700, 2: 40}
    assert deal_rows(list(lengths), lengths, 2) == [[7, 2], [3, 5, 1, 8]]
    assert deal_rows(list(lengths), lengths, 1) == [list(lengths)]
    assert deal_rows([7], lengths, 3) == [[7], [], []]


def test_epochs_and_seeds_differ_and_repeat():
    def rows(seed: int, epoch: int) -> list[list[int]]:
        order = StepOrder([1] * 20, 4, seed=seed)
        order.set_epoch(epoch)
        return list(order)

    assert rows(1, 0) == rows(1, 0)
    assert rows(1, 0) != rows(1, 1)
    assert rows(1, 0) != rows(2, 0)
