"""Fused kernels: Liger's (norm, rotary embedding, gated MLP) on a CUDA GPU, where they are installed; ours on a CPU.

Liger's are applied through the function of transformers' `use_liger_kernel`, ours (norm, gated MLP) as forwards of the
modules. What a model computes stays the same up to rounding, in training, scoring and generation alike, and so do its
modules and weights. Families that are not known stay as they are.
"""

from importlib.util import find_spec

from transformers import PreTrainedModel
from transformers.integrations.liger import apply_liger_kernel

from sft.backend import is_launched_sharded
from sft.kernels.cpu import fuse_layers

CHOSEN = {
    "rope": True,
    "rms_norm": True,
    "swiglu": True,
    "cross_entropy": False,  # our loss takes the hidden states (sft.kernels.chunked_loss)
    "fused_linear_cross_entropy": False,
}


def fuse_kernels(model: PreTrainedModel) -> None:
    """Give a model on a GPU Liger's kernels, where they are installed, and a model on a CPU ours; in place."""
    if model.device.type == "cuda" and find_spec("liger_kernel") is not None:
        apply_liger_kernel(model, CHOSEN)
    if model.device.type == "cpu" and not is_launched_sharded():
        fuse_layers(model)
