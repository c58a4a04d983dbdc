"""Short causal convolutions over rows concatenated: no tap reaches into the row before.

transformers' hybrids (Gated DeltaNet, Lfm2) call a function `causal_conv1d_fn` of their module. Where the package
causal-conv1d is not installed it is a plain convolution, which does not heed seq_idx, the row of each token. Ours does.

    heed_rows(model)       # in the module of its class, once
"""

import inspect
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec

import torch
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

NAME = "causal_conv1d_fn"
Convolve = Callable[..., torch.Tensor]


def convolve_rows(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    activation: str | None,
    seq_idx: torch.Tensor,
) -> torch.Tensor:
    """x (1, C, T), weight (C, W), rows seq_idx (1, T) -> (1, C, T): each row as if zeros stood before it."""
    width = weight.shape[1]
    x_wide = x.to(weight.dtype)
    found = x_wide * weight[:, -1, None]
    for back in range(1, min(width, x.shape[2])):
        same_row = seq_idx[:, None, back:] == seq_idx[:, None, :-back]  # (1, 1, T - back)
        tap = x_wide[:, :, :-back] * same_row * weight[:, width - 1 - back, None]
        found = found + torch.nn.functional.pad(tap, (back, 0))
    if bias is not None:
        found = found + bias[:, None]
    if activation is not None:
        found = ACT2FN[activation](found)
    return found.to(x.dtype)


def heed_rows(model: PreTrainedModel) -> None:
    """Let the convolutions of a model's family keep rows apart if row bounds are given; otherwise nothing changes."""
    module = inspect.getmodule(type(model))
    own: Convolve | None = getattr(module, NAME, None)
    if own is None or hasattr(own, "heeds_rows") or find_spec("causal_conv1d") is not None:
        return

    @wraps(own)
    def convolve(
        hidden_states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        activation: str | None = None,
        seq_idx: torch.Tensor | None = None,
        **more: object,
    ) -> torch.Tensor:
        if seq_idx is None:
            return own(hidden_states, weight, bias, activation=activation, **more)
        return convolve_rows(hidden_states, weight, bias, activation, seq_idx)

    convolve.heeds_rows = True  # type: ignore[attr-defined]
    setattr(module, NAME, convolve)
