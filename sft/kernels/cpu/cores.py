"""Independent batches on a CPU, one per core: faster than cores that synchronise after every product.

for scores in map_batches(score, batches, device):      # in the order of the batches
    ...
first, second = map_at_once(work, [[0, 3], [1, 2]])     # both at the same time
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
Found = TypeVar("Found")


def share_of(limit: int, device: torch.device) -> int:
    """A batch's part of a limit, so that all batches computed at the same time stay within it."""
    return max(1, limit // torch.get_num_threads()) if device.type == "cpu" else limit


def map_batches(work: Callable[[Batch], Found], batches: Sequence[Batch], device: torch.device) -> Iterator[Found]:
    """The result of `work` for each batch; on a CPU several at a time, if there are enough to keep every core busy."""
    cores = torch.get_num_threads()
    if device.type != "cpu" or cores == 1 or len(batches) < 2 * cores:
        yield from map(work, batches)
        return
    with _workers(cores) as pool:
        yield from pool.map(work, batches)


def map_at_once(work: Callable[[Batch], Found], parts: Sequence[Batch]) -> list[Found]:
    """The results of `work` for all parts, computed at the same time on separate cores."""
    with _workers(len(parts)) as pool:
        return list(pool.map(work, parts))


@contextmanager
def _workers(number: int) -> Iterator[ThreadPoolExecutor]:
    """`number` threads, each computing on its share of the cores."""
    cores = torch.get_num_threads()
    share = max(1, cores // number)
    with ThreadPoolExecutor(number, initializer=partial(torch.set_num_threads, share)) as pool:
        try:
            yield pool
        finally:
            torch.set_num_threads(cores)  # applies to every thread that starts later
