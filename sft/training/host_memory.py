"""Main memory as storage for layer inputs: put there in the forward pass, taken back in the backward pass.

    store = HostStore(model.device)
    store.put(0, x)          # x (1, T, D) may be freed; layer 1 computes while it is copied
    store.take(0)            # x again, on the device

On a GPU, page-locked buffers hold them, one for each layer, reused from step to step; copies run on a separate stream
while the device computes. On a CPU they stay where they are.
"""

import contextlib
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from sft.batches.layout import GIBIBYTE
from sft.training.memory import OutOfMemoryError

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
