"""The memory plan: micro-batches, how many layers are recomputed, whether 4-bit weights are kept unpacked, and whether
layer inputs wait in main memory (sft.training.long_rows).

All of them change time and memory, not what is learned. A step takes `fixed + slope * tokens` bytes of device memory
above the resting state; two trials with all activations kept, and two with none, give a line each.

    choose_plan(kept, recomputed, room=60e9, most_tokens=9_000, num_layers=28, unpacked=13e9)
    # MemoryPlan(micro_batch_tokens=9000, recomputed_layers=0, unpacks=True)

MicroBatches splits the rows of an optimizer step by a budget of tokens, which is lowered when memory runs out. The
budget does not change which rows a step has, nor its loss, a sum divided by the tokens of the whole step.
"""

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import PreTrainedModel

from sft.batches import GIBIBYTE, num_tokens_at_once, plan_batches
from sft.console import say
from sft.errors import UserError
from sft.models.methods import decoder_layers

ENOUGH_TOKENS = 4096  # from here on a larger micro-batch is hardly faster: its products fill the card
FEWEST_TOKENS = 1024  # below this, recomputing layers to have larger micro-batches is faster
FEWEST_TOKENS_PACKED = 2048  # the same if each micro-batch unpacks 4-bit weights, which costs as much as 800 tokens
SHARE_OF_MEMORY = 0.9  # the rest is left to fragmentation and other programs
ADVICE = "--use_qlora, --gradient_checkpointing or a smaller --max_seq_length take less"


@dataclass(frozen=True)
class MemoryLine:
    """Bytes of a training step above the resting state, by the tokens of its micro-batch."""

    fixed: float
    slope: float

    @classmethod
    def through(cls, small: tuple[int, float], large: tuple[int, float]) -> "MemoryLine":
        """The line through two trials (tokens, bytes): (1000, 1.5e9), (4000, 4.5e9) -> 0.5e9 + 1e6 per token.

        If both have about equally many tokens, the slope is at least half of bytes / tokens; if they are the same trial
        (there was no room for more), it is all of it: a plan that is too large loses half of its tokens later.
        """
        if small == large:
            return cls(0.0, small[1] / small[0])
        slope = max((large[1] - small[1]) / max(large[0] - small[0], 1), large[1] / large[0] * 0.5, 1.0)
        return cls(large[1] - slope * large[0], slope)

    def tokens_in(self, room: float) -> int:
        """Tokens that fit into this many bytes; 0 if not even the fixed part does."""
        return max(0, int((room - self.fixed) / self.slope))

    def between(self, other: "MemoryLine", share: float) -> "MemoryLine":
        """The line if a share of the layers behaves as in `other`."""
        return MemoryLine(
            self.fixed + share * (other.fixed - self.fixed), self.slope + share * (other.slope - self.slope)
        )


@dataclass(frozen=True)
class MemoryPlan:
    """Tokens a micro-batch may have, decoder layers that are computed again in the backward pass, whether 4-bit weights
    are held unpacked as well, and whether all layers are computed in pieces with their inputs on the host."""

    micro_batch_tokens: int
    recomputed_layers: int = 0
    unpacks: bool = False
    offloads: bool = False


def choose_plan(
    kept: MemoryLine | None,
    recomputed: MemoryLine | None,
    offloaded: MemoryLine | None = None,
    *,
    room: float,
    most_tokens: int,
    longest_tokens: int,
    num_layers: int,
    unpacked: float = 0,
    spares_memory: bool = False,
) -> MemoryPlan:
    """The fastest way that fits into `room` bytes above the resting state.

    kept: all activations kept (None: not wanted, or the longest row does not fit). recomputed: every layer recomputed
    (None: not wanted, or not tried because everything fits). offloaded: layer inputs in main memory (None: not wanted,
    or the longest row fits without). most_tokens: tokens of the largest step. longest_tokens: tokens of the longest
    row, which cannot be split. unpacked: bytes of the unpacked 4-bit weights, 0 if there are none. spares_memory: the
    user wants less memory, so none is spent on unpacked weights.
    """
    enough = min(most_tokens, max(ENOUGH_TOKENS, longest_tokens))
    if kept is not None and unpacked and not spares_memory and kept.tokens_in(room - unpacked) >= enough:
        return MemoryPlan(min(most_tokens, kept.tokens_in(room - unpacked)), unpacks=True)
    fewest = min(most_tokens, max(longest_tokens, FEWEST_TOKENS_PACKED if unpacked else FEWEST_TOKENS))
    if kept is not None and (recomputed is None or kept.tokens_in(room) >= fewest):
        return MemoryPlan(max(1, min(most_tokens, kept.tokens_in(room))))
    if offloaded is not None:
        return MemoryPlan(max(1, min(enough, offloaded.tokens_in(room))), offloads=True)
    assert recomputed is not None
    lines = [
        (layers, (kept or recomputed).between(recomputed, layers / num_layers)) for layers in range(num_layers + 1)
    ]
    fitting = [(layers, line) for layers, line in lines if line.tokens_in(room) >= fewest]
    layers, line = fitting[0] if kept is not None and fitting else lines[-1]
    return MemoryPlan(max(1, min(enough, line.tokens_in(room))), recomputed_layers=layers)


def recompute_layers(model: PreTrainedModel, number: int) -> None:
    """Recompute the first `number` trained decoder layers in the backward pass instead of keeping activations.

    This is transformers' gradient checkpointing (1604.06174). The first layers, because the activations of the others
    have been freed by the time these are recomputed.
    """
    if not number:
        model.gradient_checkpointing_disable()
        return
    # Random states are kept only if layers draw: reading them is impossible while a CUDA graph is recorded.
    model.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": has_dropout(model)})
    model.disable_input_require_grads()  # only reentrant checkpointing needs it, and the backward pass gets longer
    for layer in trained_layers(model)[number:]:
        layer.gradient_checkpointing = False


def has_dropout(model: PreTrainedModel) -> bool:
    """Whether the layers draw random numbers in training."""
    attention = getattr(model.config, "attention_dropout", 0) or 0
    return attention > 0 or any(getattr(module, "p", 0) > 0 for module in model.modules() if _is_dropout(module))


def _is_dropout(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.modules.dropout._DropoutNd)


def trained_layers(model: PreTrainedModel) -> list[torch.nn.Module]:
    """The decoder layers that the backward pass goes through: from the lowest one with a trained weight up."""
    layers = list(decoder_layers(model))
    if model.get_input_embeddings().weight.requires_grad:
        return layers
    has_trained = [any(weight.requires_grad for weight in layer.parameters()) for layer in layers]
    return layers[has_trained.index(True) :] if any(has_trained) else []


def limit_memory(max_gb: float | None) -> None:
    """Limit the GPU memory of this process; more counts as out of memory. None: all that is free."""
    if max_gb is not None and torch.cuda.is_available():
        total = torch.cuda.get_device_properties().total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, max_gb * GIBIBYTE / total))


def free_bytes() -> float:
    """Bytes that this process may still take on the GPU within its limit (max_memory_gb), its own unused ones included;
    on a CPU, the free memory of the machine (0 if the system does not report it)."""
    if not torch.cuda.is_available():
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")) if sys.platform == "linux" else 0.0
    free, total = torch.cuda.mem_get_info()
    limit = torch.cuda.get_per_process_memory_fraction() * total
    return min(free + torch.cuda.memory_reserved(), limit) * SHARE_OF_MEMORY - torch.cuda.memory_allocated()


class OutOfMemoryError(UserError):
    """Not even one row fits: `out of memory with one row of 2,048 tokens at a time; --use_qlora, ... take less`"""


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether an error of torch says that the device has no memory left: a GPU's allocator, cuBLAS, or a CPU's."""
    signs = ("CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: can't allocate memory")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs)


@dataclass
class MicroBatches:
    """The budget of one process. `padded`: rows are padded to the longest, and padding takes memory, too."""

    max_tokens: int
    padded: bool = False

    def plan(self, lengths: Sequence[int]) -> list[list[int]]:
        """Indices of a step's rows in micro-batches within the budget: [3, 9, 2] with 10 -> [[1], [0, 2]]."""
        return plan_batches(lengths, self.max_tokens, padded=self.padded)

    def too_large(self) -> OutOfMemoryError:
        """The error if smaller micro-batches cannot be tried because other processes wait."""
        half = max(1, self.max_tokens // 2)
        return OutOfMemoryError(
            f"out of memory with micro-batches of {self.max_tokens:,} tokens; resume with --micro_batch_tokens {half}"
        )

    def no_row_fits(self, length: int) -> OutOfMemoryError:
        """The error if a single row does not fit."""
        return OutOfMemoryError(
            f"out of memory with one row of {length:,} tokens at a time; {ADVICE}; or is another program on the card "
            "(nvidia-smi)?"
        )

    def shrink(self, lengths: Sequence[int]) -> None:
        """Halve the budget after a step of these rows ran out of memory: half the tokens of its largest micro-batch.

        Raises OutOfMemoryError if that micro-batch was a single row.
        """
        largest = max(
            self.plan(lengths), key=lambda batch: num_tokens_at_once([lengths[i] for i in batch], self.padded)
        )
        if len(largest) == 1:
            raise self.no_row_fits(lengths[largest[0]])
        self.max_tokens = max(1, num_tokens_at_once([lengths[i] for i in largest], self.padded) // 2)
        say(
            f"out of memory with {len(largest)} rows at once: continuing with micro-batches of at most "
            f"{self.max_tokens:,} tokens, and as many rows a step as before"
        )


# Main memory as storage for layer inputs: put there in the forward pass, taken back in the backward pass.
# On a GPU, page-locked buffers hold them, one for each layer, reused from step to step; copies run on a separate stream
# while the device computes. On a CPU they stay where they are.

CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


class _Waiting(NamedTuple):
    """A tensor in the store."""

    place: int
    shape: torch.Size
    tensor: torch.Tensor  # on the host; on a CPU the tensor itself


class HostStore:
    """Tensors by index, returned in reverse order."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.buffers: dict[int, torch.Tensor] = {}
        self.most_tokens = 0  # size of the buffers
        self.num_ahead = 1  # tensors that are copied back ahead of time
        self._waiting: list[_Waiting] = []
        self._leaving: tuple[int, torch.Tensor, torch.cuda.Event] | None = None  # held until it has been copied
        self._coming: dict[int, tuple[torch.Tensor, torch.cuda.Event]] = {}

    def put(self, place: int, x: torch.Tensor, num_tokens: int = 1) -> None:
        """Store a tensor of this many tokens at `place`, in ascending order; a lower place starts a new pass."""
        x = x.detach()
        while self._waiting and self._waiting[-1].place >= place:
            self._waiting.pop()  # left by a pass that ran out of memory or was not differentiated
        for _, copied in self._coming.values():
            torch.cuda.current_stream().wait_event(copied)  # before their memory is used for something else
        self._coming.clear()
        if self.stream is None:
            self._waiting.append(_Waiting(place, x.shape, x))
            return
        host = self._buffer(place, x, num_tokens)
        copied = self._copy(host, x)
        self._let_go()
        self._waiting.append(_Waiting(place, x.shape, host))
        self._leaving = place, x, copied

    def take(self, place: int) -> torch.Tensor:
        """The tensor stored at `place`, on the device; starts copying the ones below it."""
        if not self._waiting or self._waiting[-1].place != place:
            raise RuntimeError(f"nothing is at place {place}: its forward pass was followed by another one")
        waiting = self._waiting.pop()
        if self.stream is None:
            return waiting.tensor
        if self._leaving is not None and self._leaving[0] == place:
            x = self._leaving[1]
        else:
            self._fetch(waiting)
            x, copied = self._coming.pop(place)
            torch.cuda.current_stream().wait_event(copied)
        self._let_go()
        for below in reversed(self._waiting[-self.num_ahead :]):
            self._fetch(below)
        return x

    def free(self) -> None:
        """Give the host its memory back."""
        if self.stream is not None:
            self.stream.synchronize()
        self._waiting, self._leaving = [], None
        self._coming.clear()
        for buffer in self.buffers.values():
            _lock_pages(buffer, lock=False)
        self.buffers.clear()

    def _fetch(self, waiting: _Waiting) -> None:
        if waiting.place not in self._coming:
            assert self.stream is not None
            x = torch.empty(waiting.shape, dtype=waiting.tensor.dtype, device=self.stream.device)
            self._coming[waiting.place] = x, self._copy(x, waiting.tensor.view(waiting.shape))

    def _copy(self, to: torch.Tensor, source: torch.Tensor) -> torch.cuda.Event:
        """Copy on the separate stream, after the work queued on the device so far."""
        assert self.stream is not None
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            to.view(source.shape).copy_(source, non_blocking=True)
            return self.stream.record_event()

    def _let_go(self) -> None:
        """Release the input that was copied last; later computation waits for the copy."""
        if self._leaving is not None:
            torch.cuda.current_stream().wait_event(self._leaving[2])
        self._leaving = None

    def _buffer(self, place: int, x: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """Page-locked memory for a tensor, flat; longer rows than before get new memory."""
        held, size = self.buffers.get(place), x.numel() * max(num_tokens, self.most_tokens) // num_tokens
        if held is None or held.numel() < x.numel() or held.dtype is not x.dtype:
            if held is not None:
                torch.cuda.synchronize()
                _lock_pages(self.buffers.pop(place), lock=False)
            del held
            # empty and zero_: all cores touch its pages. PyTorch's own page-locked memory rounds up to a power of two.
            buffer = torch.empty(size, dtype=x.dtype).zero_()
            _lock_pages(buffer)
            self.buffers[place] = buffer
        return self.buffers[place][: x.numel()]


def _lock_pages(buffer: torch.Tensor, *, lock: bool = True) -> None:
    """Copies from and to locked pages run beside everything else. Raises OutOfMemoryError if CUDA locks none."""
    library = torch.cuda.cudart()
    if not lock:
        library.cudaHostUnregister(buffer.data_ptr())
    elif code := int(library.cudaHostRegister(buffer.data_ptr(), buffer.nbytes, 0)):
        raise OutOfMemoryError(
            f"{buffer.nbytes / GIBIBYTE:.1f} GB of main memory cannot be locked for copies (CUDA error {code}); free "
            "some, or lower --max_seq_length"
        )


def free_host_bytes() -> float:
    """Bytes of main memory still available to this process, within the machine's and its control group's limit."""
    if sys.platform != "linux":
        return float("inf")
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = float(fields["MemAvailable"].split()[0]) * 1024
    for limit, used in CGROUPS:
        with contextlib.suppress(OSError, ValueError):  # "max" is no limit
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
    return free
