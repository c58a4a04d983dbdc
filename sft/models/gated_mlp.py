"""The gated MLP on a CPU: silu(gate) * up in two passes over memory, of which only gate and up are kept.

autograd keeps silu(gate) as well and makes a new tensor with each operation; these are as wide as a layer gets, and no
cache holds them. Backward, silu(gate) is computed again, and every result is written where its operand lay.
"""

from types import MethodType

import torch
from torch.nn.functional import silu

KNOWN = ("LlamaMLP", "Qwen2MLP", "Qwen3MLP")  # down_proj(act_fn(gate_proj(x)) * up_proj(x))


class _Gate(torch.autograd.Function):
    """y = silu(gate) * up."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """gate and up (..., I) -> (..., I)."""
        ctx.save_for_backward(gate, up)
        return silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The gradients of gate and up, as PyTorch's own operations have them."""
        gate, up = ctx.saved_tensors
        grad_gate = grad * up
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return grad_gate, silu(gate).mul_(grad)


def compute_gated(self: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The forward of an MLP of a known family: (..., D) -> (..., D)."""
    gate, up = self.gate_proj(x), self.up_proj(x)
    if gate.dtype != up.dtype:  # adapted apart, or one of them trained in fp32
        mixed = silu(gate) * up
    elif torch.is_grad_enabled() and (gate.requires_grad or up.requires_grad):
        mixed = _Gate.apply(gate, up)
    else:
        mixed = silu(gate, inplace=True).mul_(up)
    result: torch.Tensor = self.down_proj(mixed)
    return result


def fuse_gated_mlps(model: torch.nn.Module) -> None:
    """Let the MLPs of known families compute so, where their activation is SiLU; others stay as they are."""
    for module in model.modules():
        if type(module).__name__ in KNOWN and module.config.hidden_act == "silu":
            module.forward = MethodType(compute_gated, module)
