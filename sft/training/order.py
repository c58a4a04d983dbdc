"""Which rows each optimiser step sees: the same for any number of processes, micro-batches, cuts and resumes."""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Sampler


class StepOrder(Sampler[list[int]]):
    """Places of the rows of every step of an epoch, of one process: a permutation by seed and epoch, cut into steps.

    10 rows, 4 a step, 2 processes: steps of 4, 4 and 2 rows, of which each process takes every second. A process may
    get none of a last step; no row is seen twice to fill up.
    """

    def __init__(self, num_rows: int, rows_per_step: int, *, seed: int, rank: int = 0, num_processes: int = 1) -> None:
        """rows_per_step: of all processes together."""
        self.num_rows, self.rows_per_step, self.seed = num_rows, rows_per_step, seed
        self.rank, self.num_processes = rank, num_processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; the trainer calls it before every epoch, also one that is resumed half-way."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.num_rows // self.rows_per_step)

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.num_rows, generator=torch.Generator().manual_seed(self.seed + self.epoch)).tolist()
        for start in range(0, self.num_rows, self.rows_per_step):
            yield order[start : start + self.rows_per_step][self.rank :: self.num_processes]


def step_loader(order: StepOrder) -> DataLoader[dict[str, list[int]]]:
    """One item a step: {"places": [17, 4, ...]}; the trainer makes tensors of them when it knows how many fit."""
    return DataLoader(range(order.num_rows), batch_sampler=order, collate_fn=_name_places)


def _name_places(places: list[int]) -> dict[str, list[int]]:
    return {"places": places}
