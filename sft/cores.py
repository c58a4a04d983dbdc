"""Independent batches on a CPU, one to a core: a core alone multiplies faster than cores that meet after every product.

for scores in map_batches(score, batches, device):      # in the order of the batches
    ...
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch

Batch = TypeVar("Batch")
Found = TypeVar("Found")


def share_of(limit: int, device: torch.device) -> int:
    """What a batch may have of a limit, so that those computed at the same time have no more than that together."""
    return max(1, limit // torch.get_num_threads()) if device.type == "cpu" else limit


def map_batches(work: Callable[[Batch], Found], batches: Sequence[Batch], device: torch.device) -> Iterator[Found]:
    """What work makes of each batch; on a CPU several at a time, where there are enough to keep every core busy."""
    cores = torch.get_num_threads()
    if device.type != "cpu" or cores == 1 or len(batches) < 2 * cores:
        yield from map(work, batches)
        return
    with ThreadPoolExecutor(cores, initializer=partial(torch.set_num_threads, 1)) as pool:
        try:
            yield from pool.map(work, batches)
        finally:
            torch.set_num_threads(cores)  # the 1 counts for every thread that begins later
