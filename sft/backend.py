"""Which kernels train: plain transformers, or Unsloth's. The only module that imports unsloth.

Unsloth patches transformers, peft and trl when it is imported, so it has to come before them, and it fails on a machine
without a GPU. Hence the order in train.py: settings, choose_backend, everything else.

    backend = choose_backend("auto")       # "unsloth" or "transformers"; says why
"""

import os
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from sft.console import say
from sft.errors import ModelError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from peft import PeftModel
    from transformers import PreTrainedModel

    from sft.config.train import TrainSettings

if sys.platform == "linux" and not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & set(os.environ):
    # Set before the first use of a GPU: without it, batches of many lengths fragment its memory.
    os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"
UNSLOTH, TRANSFORMERS = "unsloth", "transformers"
AMPERE = (8, 0)  # compute capability of the first cards with bf16 and PyTorch's variable-length attention (2020)


def choose_backend(wanted: str, settings: "TrainSettings | None" = None) -> str:
    """Unsloth if requested, or on `auto` if it is probably faster; it is imported immediately.

    Our own path over transformers was measured on H100 and H200 cards, with 7B QLoRA and random weights: 2.5 to 2.7
    times as fast as Unsloth (docs/results.md). It is taken on every card since Ampere; older ones lack the attention
    kernel that it needs, and get Unsloth. settings: of the training, if it matters.
    Raises ModelError if Unsloth is requested and not available.
    """
    if wanted == TRANSFORMERS:
        return TRANSFORMERS
    reason = (_why_not_trained_by_unsloth(settings) if settings else None) or _why_not_unsloth(wanted == UNSLOTH)
    if reason is None:
        return UNSLOTH
    if wanted == UNSLOTH:
        raise ModelError(f"backend unsloth: {reason}; use --backend transformers")
    say(f"backend transformers: {reason}")
    return TRANSFORMERS


def load_with_unsloth(
    folder: "Path",
    dtype: "torch.dtype",
    settings: "TrainSettings",
    layers: list[int] | None,
    name_targets: "Callable[[PreTrainedModel], list[str]]",
) -> "PeftModel":
    """Base model with a fresh LoRA adapter on Unsloth's kernels; the same adapter as models.methods.add_lora.

    name_targets: the names of the layers to adapt, once the base is there.
    """
    from unsloth import FastLanguageModel

    model, _ = FastLanguageModel.from_pretrained(
        str(folder),
        max_seq_length=settings.max_seq_length,
        load_in_4bit=settings.method == "qlora",
        dtype=dtype,
        trust_remote_code=settings.trust_remote_code,
    )
    return FastLanguageModel.get_peft_model(
        model,
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=name_targets(model),
        layers_to_transform=layers,
        use_rslora=settings.use_rslora,
        use_gradient_checkpointing="unsloth" if settings.gradient_checkpointing else False,
        random_state=settings.seed,
    )


def _why_not_trained_by_unsloth(settings: "TrainSettings") -> str | None:
    if not settings.has_adapter:
        return f"method {settings.method} is trained by transformers"
    if settings.is_classifier:
        return "a classification head is trained by transformers"
    wanted = [
        name for name in ("use_dora", "modules_to_save", "init_adapter", "rope_scaling") if getattr(settings, name)
    ]
    wanted += ["base_dtype fp8"] if settings.base_dtype == "fp8" else []
    return f"{' and '.join(wanted)} is for transformers" if wanted else None


def _why_not_unsloth(is_asked_for: bool) -> str | None:
    import torch

    if not torch.cuda.is_available():
        return "no CUDA GPU"
    if not is_asked_for and torch.cuda.get_device_capability() >= AMPERE:
        return "faster than Unsloth where measured (H100 and H200)"
    if find_spec("unsloth") is None:
        return "unsloth is not installed (requirements.txt has it)"
    from sft.files import cache_root

    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", str(cache_root() / "unsloth_compiled"))  # not the working folder
    os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
    try:
        import unsloth  # noqa: F401
    except Exception as error:  # its patches fail in many ways on a machine; the other backend works
        return f"unsloth does not import ({type(error).__name__}: {one_line(error, 160)})"
    return None


def is_launched_sharded() -> bool:
    """Whether accelerate was configured to shard the weights; known before anything is loaded."""
    return any(os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true" for name in ("FSDP", "DEEPSPEED"))
