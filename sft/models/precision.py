"""Device and number format of a model: decided here once, from the hardware, and printed.

decide_precision("auto")    # Precision(device="cuda:0", dtype=torch.bfloat16, reason="the GPU has bf16 units")
"""

import os
from dataclasses import dataclass

import torch

from sft.config.train import TrainSettings
from sft.errors import ConfigError

FP32_SHARE = 0.5  # of a machine's memory that weights in fp32 may take on a CPU
GIGABYTE = 1e9
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def name_dtype(dtype: torch.dtype) -> str:
    """torch.bfloat16 -> "bf16"."""
    return next(name for name, value in DTYPES.items() if value is dtype)


@dataclass(frozen=True)
class Precision:
    """Device and compute type of one process, and why these."""

    device: str
    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> str:
        """`bf16`, `fp16` or `fp32`."""
        return name_dtype(self.dtype)

    def __str__(self) -> str:
        return f"{self.name} on {self.device} ({self.reason})"


def decide_precision(wanted: str = "auto") -> Precision:
    """bf16 where the hardware multiplies it natively, else fp16 on a GPU and fp32 on a CPU; `wanted` overrides.

    Raises ConfigError for a wanted type that the device cannot train in.
    """
    device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    if wanted != "auto":
        if device == "cpu" and wanted == "fp16":
            raise ConfigError("dtype fp16 needs a GPU; use --dtype bf16 or fp32 on a CPU")
        if device != "cpu" and wanted == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise ConfigError("this GPU has no bf16 units; use --dtype fp16")
        return Precision(device, DTYPES[wanted], "as asked for")
    if device != "cpu":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision(device, torch.bfloat16, "the GPU has bf16 units")
        return Precision(device, torch.float16, "the GPU has no bf16 units")
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return Precision(device, torch.bfloat16, "the processor multiplies bf16 natively")
    return Precision(device, torch.float32, "the processor has no bf16 units")


def precision_for_training(settings: TrainSettings) -> Precision:
    """Like decide_precision, except that a CPU trains full weights in fp32 unless --dtype says otherwise.

    On a GPU they are fp32 while autocast computes in 16 bits; on a CPU autocast costs more time than it saves.
    """
    decided = decide_precision(settings.dtype)
    if settings.has_adapter or settings.dtype != "auto" or decided.device != "cpu":
        return decided
    return Precision("cpu", torch.float32, f"method {settings.method} trains the weights themselves")


def precision_for_answers(trained_in: str, num_weights: int) -> Precision:
    """How a model computes that answers or is scored: on a GPU as it was trained, on a CPU in fp32.

    In bf16 on a CPU a row's scores depend on the rows beside it and on the number of threads, by so much that one label
    in fifty changes; in fp32 they agree to the sixth digit. Where fp32 would take more than half of the machine's
    memory, it is bf16 and the reason says so. num_weights: of the base, 0 if it is held in 4 bits.
    """
    if torch.cuda.is_available():
        return decide_precision(trained_in)
    needed, memory = num_weights * torch.float32.itemsize, memory_of_machine()
    if needed <= FP32_SHARE * memory:
        return Precision("cpu", torch.float32, "so that figures do not depend on batches and threads")
    room = f"fp32 would take {needed / GIGABYTE:.1f} of {memory / GIGABYTE:.1f} GB"
    return Precision("cpu", torch.bfloat16, f"{room}: figures vary a little with batches and threads")


def memory_of_machine() -> int:
    """Bytes of main memory that this machine has, in use or not."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
