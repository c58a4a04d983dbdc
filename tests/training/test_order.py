"""The order of rows: a permutation an epoch, the same for any number of processes, each row once."""

from hypothesis import given
from hypothesis import strategies as st

from sft.training.order import StepOrder


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
def test_processes_share_each_step_of_one_process_without_a_duplicate(num_rows, rows_per_step, num_processes, epoch):
    def steps(rank: int, of: int) -> list[list[int]]:
        order = StepOrder(num_rows, rows_per_step, seed=7, rank=rank, num_processes=of)
        order.set_epoch(epoch)
        assert len(order) == len(list(order))
        return list(order)

    alone = steps(0, 1)
    assert sorted(place for step in alone for place in step) == list(range(num_rows))
    assert {len(step) for step in alone[:-1]} <= {rows_per_step}
    parts = [steps(rank, num_processes) for rank in range(num_processes)]
    for number, step in enumerate(alone):
        assert sorted(place for part in parts for place in part[number]) == sorted(step)
        sizes = [len(part[number]) for part in parts]
        assert max(sizes) - min(sizes) <= 1


def test_epochs_and_seeds_differ_and_repeat():
    def rows(seed: int, epoch: int) -> list[list[int]]:
        order = StepOrder(20, 4, seed=seed)
        order.set_epoch(epoch)
        return list(order)

    assert rows(1, 0) == rows(1, 0)
    assert rows(1, 0) != rows(1, 1)
    assert rows(1, 0) != rows(2, 0)
