"""Several processes, one run: `torchrun --nproc_per_node=N train.py` or `accelerate launch`; usually it is one.

Every process reads the same data and computes its own rows; the first one narrates and writes. Ranks come from the
environment, which the launcher sets.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import distributed

Value = TypeVar("Value")


def world_size() -> int:
    """Processes of this run, as the launcher says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Number of this process among them, from 0."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    """Whether this is the process that writes."""
    return rank() == 0


def join(on_cpu: bool) -> None:
    """Meet the other processes (gloo on CPUs, NCCL on GPUs); they can talk to each other from here on."""
    if world_size() > 1 and not distributed.is_initialized():
        if not on_cpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("gloo" if on_cpu else "cuda:nccl,cpu:gloo")  # objects travel by gloo


def from_first(compute: Callable[[], Value]) -> Value:
    """What the first process computes, in all of them; its error is raised in all of them, too."""
    if not are_joined():
        return compute()
    shared: list[object] = [None, None]
    if is_first():
        try:
            shared[0] = compute()
        except Exception as error:
            shared[1] = error
    distributed.broadcast_object_list(shared, src=0)
    if isinstance(shared[1], Exception):
        raise shared[1]
    return shared[0]  # type: ignore[return-value]


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; all of them get the same answer."""
    return largest(int(flag)) > 0


def largest(number: int) -> int:
    """The largest of the numbers that the processes bring."""
    if not are_joined():
        return number
    device = torch.device("cuda", torch.cuda.current_device()) if distributed.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(number, device=device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return int(tensor.item())


def as_often_as_others(batches: Sequence[Value]) -> Iterator[Value]:
    """This process's batches, the last one again until every process has had as many, so that nobody waits."""
    for number in range(largest(len(batches))):
        yield batches[min(number, len(batches) - 1)]


def gather_parts(part: Sequence[Value]) -> list[Value]:
    """Every process's part of a list in which process k took the items k, k + n, k + 2n, ...; put together again."""
    if not are_joined():
        return list(part)
    parts: list[Sequence[Value]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, list(part))
    whole: list[Value | None] = [None] * sum(map(len, parts))
    for rank, items in enumerate(parts):
        whole[rank :: len(parts)] = items
    return whole  # type: ignore[return-value]


def wait_for_all() -> None:
    """Until every process is here."""
    if are_joined():
        distributed.barrier()


def are_joined() -> bool:
    """Whether there are several, and they have met."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
