"""Frozen linear layers that read the same input, each with a low-rank adapter, as one operation.

y_i = x Wᵢᵀ + bᵢ + sᵢ · z Aᵢᵀ Bᵢᵀ, where z is x, or x with dropout. The large products are accumulated onto the thin
ones in place and in the type of x; adapters and their gradients stay in their own (fp32). Layers that read one input
(attention's query, key and value; the MLP's gate and up) have their A's multiplied at once, and their backward passes
add to one gradient of x.

    projections = [Projection(frozen_q, bias_q, 2.0), Projection(frozen_k, bias_k, 2.0)]
    q, k = project(x, None, projections, [a_q, a_k], [b_q, b_k])            # x (T, I) -> (T, O_q), (T, O_k)
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

try:
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit
except ImportError:  # no bitsandbytes: nothing is in 4 bits
    Linear4bit = None


class FrozenWeight:
    """The weight of a frozen linear layer (O, I), in the type it computes in: unpacked from 4 bits for each use, or
    once for all (`keep`)."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        self.layer = layer
        self.kept: torch.Tensor | None = None

    @property
    def is_packed(self) -> bool:
        """Whether it lies in memory in 4 bits."""
        return Linear4bit is not None and isinstance(self.layer, Linear4bit)

    @property
    def dtype(self) -> torch.dtype:
        """The type it computes in."""
        kind: torch.dtype = self.layer.weight.quant_state.dtype if self.is_packed else self.layer.weight.dtype
        return kind

    def unpack(self) -> torch.Tensor:
        """The values themselves; those of a 4-bit weight are the same whether kept or not."""
        if self.kept is not None:
            return self.kept
        weight = self.layer.weight
        return dequantize_4bit(weight.data, weight.quant_state) if self.is_packed else weight

    def keep(self) -> None:
        """Unpack once: costs 2 bytes a value, saves the unpacking of every forward and backward pass."""
        if self.is_packed:
            self.kept = self.unpack()


class Projection(NamedTuple):
    """What is not trained of one layer."""

    frozen: FrozenWeight
    bias: torch.Tensor | None
    scaling: float


class Adapters(NamedTuple):
    """The adapters of layers that read one input, in the type they compute in."""

    a: torch.Tensor  # (R, I), the A's of all layers one below the other
    b: list[torch.Tensor]  # (O, R of the layer) each

    @classmethod
    def cast(cls, a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], dtype: torch.dtype) -> "Adapters":
        """From the trained weights."""
        stacked = a[0] if len(a) == 1 else torch.cat(list(a))
        return cls(stacked.to(dtype), [weight.to(dtype) for weight in b])


def project(
    x: torch.Tensor,
    dropped: torch.Tensor | None,
    projections: Sequence[Projection],
    a: Sequence[torch.Tensor],
    b: Sequence[torch.Tensor],
    adapters: Adapters | None = None,
) -> tuple[torch.Tensor, ...]:
    """x (T, I), a (R, I) each, b (O, R) each -> (T, O) each. dropped: x with dropout, where the adapter reads that.

    adapters: a and b cast already.
    """
    adapters = adapters or Adapters.cast([weight.detach() for weight in a], [weight.detach() for weight in b], x.dtype)
    if torch.is_grad_enabled():
        outputs: tuple[torch.Tensor, ...] = _Project.apply(x, dropped, projections, adapters, *a, *b)
        return outputs
    return _project(x, x if dropped is None else dropped, projections, adapters)[0]


class _Project(torch.autograd.Function):
    """`project`, with a backward pass of its own."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        projections: Sequence[Projection],
        adapters: Adapters,
        *weights: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """weights: the A's, then the B's, in the type they are trained in."""
        z = x if dropped is None else dropped
        outputs, narrow = _project(x, z, projections, adapters)
        ctx.save_for_backward(z, narrow, adapters.a, *adapters.b)
        ctx.projections, ctx.has_dropout = projections, dropped is not None
        ctx.types = [weight.dtype for weight in weights]
        return outputs

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """grads (T, O) each -> the gradients of x, dropped, the a's and the b's."""
        z, narrow, a, *bs = ctx.saved_tensors
        ranks = [b.shape[1] for b in bs]
        grad_narrow = torch.empty_like(narrow)  # (T, R)
        for part, grad, b in zip(grad_narrow.split(ranks, 1), grads, bs, strict=True):
            torch.mm(grad, b, out=part)
        _scale(grad_narrow, ctx.projections, ranks)
        grad_a = _multiply(grad_narrow.t(), z, ctx.types[0]).split(ranks)  # (R of the layer, I) each
        grad_b = [
            _multiply(grad.t(), part, kind)  # (O, R of the layer)
            for grad, part, kind in zip(grads, narrow.split(ranks, 1), ctx.types[len(bs) :], strict=True)
        ]
        grad_x = grad_z = None
        if ctx.needs_input_grad[0]:
            large = [projection.frozen.unpack() for projection in ctx.projections]
            grad_x = grads[0] @ large[0] if ctx.has_dropout else _add_products(grads[0], large[0], grad_narrow, a)
            for grad, weight in zip(grads[1:], large[1:], strict=True):
                grad_x.addmm_(grad, weight)  # (T, I)
        if ctx.has_dropout and ctx.needs_input_grad[1]:
            grad_z = grad_narrow @ a
        return grad_x, grad_z, None, None, *grad_a, *grad_b


def _project(
    x: torch.Tensor, z: torch.Tensor, projections: Sequence[Projection], adapters: Adapters
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """The outputs, and what the backward pass needs: s · z Aᵀ (T, R) of all layers side by side."""
    ranks = [b.shape[1] for b in adapters.b]
    narrow = z @ adapters.a.t()
    _scale(narrow, projections, ranks)
    outputs = tuple(
        _add_products(x, projection.frozen.unpack().t(), part, b.t(), projection.bias)
        for projection, part, b in zip(projections, narrow.split(ranks, 1), adapters.b, strict=True)
    )
    return outputs, narrow


def _scale(narrow: torch.Tensor, projections: Sequence[Projection], ranks: list[int]) -> None:
    """Each layer's part of (T, R) by its scaling, in place."""
    if len({projection.scaling for projection in projections}) == 1:
        narrow.mul_(projections[0].scaling)
        return
    for part, projection in zip(narrow.split(ranks, 1), projections, strict=True):
        part.mul_(projection.scaling)


def _add_products(
    x: torch.Tensor, large: torch.Tensor, narrow: torch.Tensor, small: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x @ large + narrow @ small + bias, (T, N), outputs or gradients: the large product is added onto the small one.

    The other way round, what a young adapter adds is less than half of the last bit of the large product, already
    rounded to bf16, and is lost. The products meet in the accumulator's fp32; a bias, often larger than both, is last.

    On a GPU onto the half of it, doubled: cuBLAS's kernels for Hopper that just add to what is there round first. The
    kernels that double compute a tile wrongly now and then, or crash, where they are replayed from a CUDA graph beside
    another process on the card (docs/decisions.md); in a recording the products meet in a sum of fp32 instead.
    """
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        total = torch.mm(narrow, small, out_dtype=torch.float32)
        y = torch.addmm(total, x, large, out_dtype=torch.float32, out=total).to(x.dtype)
    elif x.is_cuda:
        half = torch.addmm(x.new_empty(()), narrow, small, beta=0, alpha=0.5)
        y = half.addmm_(x, large, beta=2)
    else:
        y = (narrow @ small).addmm_(x, large)
    return y if bias is None else y.add_(bias)


def _multiply(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """left @ right as a tensor of another type: on a GPU without rounding to 16 bits in between."""
    if left.is_cuda and dtype is torch.float32 and left.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(left, right, out_dtype=dtype)
    return (left @ right).to(dtype)
