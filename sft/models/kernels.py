"""Liger's fused kernels (norm, rotary embedding, gated MLP) in a model on a CUDA GPU, where they are installed.

Applied through the function of transformers' `use_liger_kernel`; what a model computes stays the same up to rounding,
in training, scoring and generation alike. Families that Liger does not know stay as they are.
"""

from importlib.util import find_spec

from transformers import PreTrainedModel
from transformers.integrations.liger import apply_liger_kernel

from sft.models.rms_norm import fuse_norms

CHOSEN = {
    "rope": True,
    "rms_norm": True,
    "swiglu": True,
    "cross_entropy": False,  # our loss takes the hidden states (sft.training.chunked_loss)
    "fused_linear_cross_entropy": False,
}


def fuse_kernels(model: PreTrainedModel) -> None:
    """Give a model on a GPU Liger's kernels, where they are installed, and a model on a CPU ours; in place."""
    if model.device.type == "cuda" and find_spec("liger_kernel") is not None:
        apply_liger_kernel(model, CHOSEN)
    if model.device.type == "cpu":
        fuse_norms(model)
