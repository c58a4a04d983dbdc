"""Fused kernels: Liger's (norm, rotary embedding, gated MLP) on a CUDA GPU, where installed; our norms on a CPU.

Liger's are applied through the function of transformers' `use_liger_kernel`, ours as forwards of the modules. What a
model computes stays the same up to rounding, in training, scoring and generation alike, and so do its modules and
weights. Families that are not known stay as they are.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from transformers import PreTrainedModel
from transformers.integrations.liger import apply_liger_kernel

from sft.backend import is_launched_sharded
from sft.console import say
from sft.errors import ModelError, one_line
from sft.kernels.cpu import fuse_norms

CHOSEN = {
    "rope": True,
    "rms_norm": True,
    "swiglu": True,
    "cross_entropy": False,  # our loss takes the hidden states (sft.training.objective)
    "fused_linear_cross_entropy": False,
}


MOST_AWAY = {torch.float64: 1e-6, torch.float32: 1e-3}  # of a token's hidden state, relative to its size
MOST_AWAY_IN_16_BITS = 0.1  # SmolLM2-135M: rounding moves the median token by 0.02, and some tokens by more than 1


def fuse_kernels(model: PreTrainedModel) -> None:
    """Give a model on a GPU Liger's kernels, if installed, and a model on a CPU ours; in place.

    Raises ModelError if Liger's fail or compute something else: they are made family by family, and families change.
    """
    if model.device.type == "cuda" and find_spec("liger_kernel") is not None:
        fuse_checked(model, apply_liger)
    if model.device.type == "cpu" and not is_launched_sharded():
        fuse_norms(model)


def fuse_checked(model: PreTrainedModel, fuse: Callable[[PreTrainedModel], None]) -> None:
    """Patch a model; raises ModelError where its hidden states change by more than rounding.

    The median token counts: kernels that compute something else move every token, and rounding moves a few far.
    """
    before = _hidden_states(model)
    if before is None:
        return  # the self-check of its layers says so
    try:
        fuse(model)
        after = _hidden_states(model)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # other versions of transformers, Triton or Liger fail in many ways
        problem = f"Liger's kernels fail ({type(error).__name__}: {one_line(error, 160)})"
        raise ModelError(f"{type(model).__name__}: {problem}; pip uninstall liger-kernel") from error
    away = float(((after - before).norm(dim=-1) / before.norm(dim=-1).clamp(min=1e-12)).median())
    if not away <= MOST_AWAY.get(model.dtype, MOST_AWAY_IN_16_BITS):
        raise ModelError(
            f"{type(model).__name__}: Liger's kernels compute its layers otherwise than transformers (hidden states "
            f"are {away:.2g} of their size away); pip uninstall liger-kernel"
        )


def apply_liger(model: PreTrainedModel) -> None:
    """Patch a model with the kernels that Liger has for its family: for Qwen3.5 and GLM-4 no rotary embedding."""
    try:
        apply_liger_kernel(model, CHOSEN)
    except NotImplementedError as error:
        say(f"Liger's other kernels are used: {one_line(error, 100)}")
        apply_liger_kernel(model, {**CHOSEN, "rope": False})


@torch.no_grad()
def _hidden_states(model: PreTrainedModel) -> torch.Tensor | None:
    """Hidden states (16, 16, D) of rows of random tokens; the first ids are control tokens, which amplify rounding.

    None for a family whose layers cannot be called apart from its output layer.
    """
    embeddings: torch.Tensor = model.get_input_embeddings().weight
    ids = torch.randint(len(embeddings), (16, 16), generator=torch.Generator().manual_seed(0))
    output = model.base_model(input_ids=ids.to(model.device), use_cache=False)
    hidden: torch.Tensor | None = getattr(output, "last_hidden_state", None)
    return None if hidden is None else hidden.float()
