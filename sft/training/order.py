"""Which rows each optimiser step sees: the same for any number of processes, micro-batches, cuts and resumes."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch.utils.data import DataLoader, Sampler


class StepOrder(Sampler[list[int]]):
    """Row indices of every step of an epoch for one process: a permutation by seed and epoch, cut into steps.

    10 rows, 4 per step, 2 processes: steps of 4, 4 and 2 rows, dealt so that both have about equally many tokens. A
    process may get no row of the last step; no row is repeated to fill it. Packed rows count as one.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        rows_per_step: int,
        *,
        seed: int,
        packs: Sequence[Sequence[int]] | None = None,
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        """lengths: tokens of every row. rows_per_step: over all processes. packs: see pack_rows."""
        self.lengths, self.rows_per_step, self.seed = lengths, rows_per_step, seed
        self.packs = [(place,) for place in range(len(lengths))] if packs is None else packs
        self.rank, self.num_processes = rank, num_processes
        self.epoch = 0

    @property
    def num_rows(self) -> int:
        """Rows of an epoch."""
        return len(self.lengths)

    def set_epoch(self, epoch: int) -> None:
        """Choose the permutation; the trainer calls it before every epoch, also a resumed one."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self.packs) // self.rows_per_step)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.packs), generator=generator).tolist()
        for start in range(0, len(order), self.rows_per_step):
            places = [place for pack in order[start : start + self.rows_per_step] for place in self.packs[pack]]
            yield deal_rows(places, self.lengths, self.num_processes)[self.rank]


def pack_rows(lengths: Sequence[int], is_packed: Sequence[bool], capacity: int) -> list[list[int]]:
    """Row indices in packs of at most `capacity` tokens, each counting as one row of a step.

    Best fit, longest first; rows that are not packed are alone. Packing only changes which rows share a step: layers
    never see one row from another. [5, 9, 3, 4], all packed, 10 -> [[0, 3], [1], [2]].
    """
    packs = [[place] for place, packed in enumerate(is_packed) if not packed]
    open_packs: list[tuple[int, int]] = []  # (room left, index in packs), sorted
    for place in sorted((place for place, packed in enumerate(is_packed) if packed), key=lambda place: -lengths[place]):
        found = bisect_left(open_packs, (lengths[place], -1))
        if found < len(open_packs):
            room, index = open_packs.pop(found)
            packs[index].append(place)
        else:
            room, index = max(capacity, lengths[place]), len(packs)
            packs.append([place])
        insort(open_packs, (room - lengths[place], index))
    return sorted(packs)


def deal_rows(places: Sequence[int], lengths: Sequence[int] | Mapping[int, int], num_processes: int) -> list[list[int]]:
    """A step's rows for each process: dealt longest first to the process with the fewest tokens, kept in order.

    All processes wait for the one with the most tokens: dealt round-robin, two processes with 8 rows each of usual
    lengths would reach 1.7 times the speed of one. Rows of 9, 1, 5 and 4 tokens for two: [[0, 1], [2, 3]].
    """
    dealt: list[list[int]] = [[] for _ in range(num_processes)]
    tokens = [0] * num_processes
    for index in sorted(range(len(places)), key=lambda index: (-lengths[places[index]], index)):
        process = min(range(num_processes), key=lambda process: (tokens[process], len(dealt[process]), process))
        dealt[process].append(index)
        tokens[process] += lengths[places[index]]
    return [[places[index] for index in sorted(part)] for part in dealt]


def step_loader(order: StepOrder) -> DataLoader[dict[str, list[int]]]:
    """One item per step: {"places": [17, 4, ...]}; the trainer makes tensors of them when it knows how many fit."""
    return DataLoader(range(order.num_rows), batch_sampler=order, collate_fn=_name_places)


def _name_places(places: list[int]) -> dict[str, list[int]]:
    return {"places": places}
