"""Several processes, one run: `torchrun --nproc_per_node=N train.py` or `accelerate launch`; usually it is one.

Every process reads the same data and computes its own rows; the first one narrates and writes. Ranks come from the
environment, which the launcher sets.

If weights are sharded over the processes (FSDP2, DeepSpeed ZeRO-3), the outermost module's forward gathers them in all
processes at once. So validation uses that forward, and every process runs it equally often.
"""

import os
import platform
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Sampler

from prompts import Encoded
from sft.backend import is_launched_sharded
from sft.batches import LOGITS_AT_ONCE, Predictors, plan_batches, tensor_of, to_device
from sft.config.train import TrainSettings
from sft.console import say
from sft.errors import ConfigError
from sft.models.loaded import LoadedModel, in_eval_mode
from sft.scoring import RowScore

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
    """The first process's result in all processes; its error is raised in all of them, too."""
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
    """The largest number over all processes."""
    if not are_joined():
        return number
    device = torch.device("cuda", torch.cuda.current_device()) if distributed.get_backend() == "nccl" else "cpu"
    tensor = torch.tensor(number, device=device)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
    return int(tensor.item())


def as_often_as_others(batches: Sequence[Value]) -> Iterator[Value]:
    """This process's batches, the last one again until every process has had equally many, so that none waits."""
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


def check_settings(settings: TrainSettings) -> None:
    """Raises ConfigError for what cannot be done with weights in pieces."""
    if not is_launched_sharded():
        return
    if settings.method == "qlora":
        raise ConfigError("method qlora: 4-bit weights cannot be sharded; use --method lora, or torchrun")
    if settings.num_sample_predictions:
        raise ConfigError("num_sample_predictions: one process cannot generate with weights in pieces; leave it out")
    if settings.metric_for_best_model != "eval_loss" and not settings.is_classifier:
        raise ConfigError("metric_for_best_model: labels are not scored with weights in pieces; take eval_loss")
    if settings.dry_run and os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        raise ConfigError("dry_run: DeepSpeed's engine cannot undo a step; use --max_steps 2 instead")


def tell_of_copies(*, is_sharded: bool) -> None:
    """Warn if the launcher requested sharding and accelerate silently makes copies instead."""
    if is_launched_sharded() and not is_sharded:
        say("WARNING weights are sharded over several GPUs only: here each process has all of them")


def score_in_step(model: torch.nn.Module, loaded: LoadedModel, rows: Sequence[Encoded]) -> list[RowScore]:
    """Score of every row, in order, as sft.scoring.score_rows, by the whole model's forward.

    Logits are formed at supervised positions only; a batch has at most LOGITS_AT_ONCE of them where its rows allow.
    """
    batches = plan_batches([row.num_supervised for row in rows], LOGITS_AT_ONCE)
    scores = [RowScore(0.0, 0)] * len(rows)
    with in_eval_mode(model), torch.no_grad(), loaded.flat_rows():
        for places in as_often_as_others(batches):
            batch = loaded.lay_out([rows[place] for place in places])
            asked, lengths = Predictors.of(batch), tensor_of(batch.pop("row_lengths"))
            del batch["labels"]
            given = to_device({**batch, "logits_to_keep": asked.columns}, loaded.device)
            logits = asked.pick(model(**given, use_cache=False).logits)  # (N, V)
            nll = cross_entropy(logits.float(), asked.targets.to(logits.device), reduction="none").double().cpu()
            row_of_token = asked.lines
            if loaded.takes_flat_rows:
                row_of_token = torch.arange(len(places)).repeat_interleave(lengths)[asked.columns + 1]
            sums = torch.zeros(len(places), dtype=torch.float64).index_add_(0, row_of_token, nll)
            counts = torch.bincount(row_of_token, minlength=len(places))
            for place, total, count in zip(places, sums.tolist(), counts.tolist(), strict=True):
                scores[place] = RowScore(total, count)
    return scores


def describe_hardware() -> str:
    """What the run is trained on: "2 x NVIDIA H200", or of a CPU "AMD EPYC 9B14, 2 threads"."""
    count = f"{world_size()} x " if world_size() > 1 else ""
    if torch.cuda.is_available():
        return f"{count}{torch.cuda.get_device_name()}"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    threads = "1 thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} threads"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{count}{names[0] if names else platform.processor() or platform.machine()}, {threads}"


# Which rows each optimiser step sees: the same for any number of processes, micro-batches, cuts and resumes


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
