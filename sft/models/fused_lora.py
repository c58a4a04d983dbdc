"""LoRA on a frozen linear layer as one operation: no copies of its input or output, and 4-bit weights unpacked once.

PEFT's own layers compute base(x) + B(A(x)) * scaling in separate steps and in the adapter's fp32: for a long row that
moves several times the memory that the products themselves need. Here the adapter's product is accumulated onto the
base's in place, in the model's own type; the adapter itself, its gradients and the optimizer stay fp32. PEFT is told of
the layers through its mapping of custom modules; files of adapters are the same.

    config = with_fused_layers(LoraConfig(...))
    unpacked_bytes(model)        # 13_050_000_000: what keep_unpacked(model) would take
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch.nn.functional import linear

if TYPE_CHECKING:
    from peft import LoraConfig

try:
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit
    from peft.tuners.lora import Linear4bit as LoraLinear4bit
except ImportError:  # no bitsandbytes: nothing is in 4 bits
    Linear4bit = LoraLinear4bit = None


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


class _Project(torch.autograd.Function):
    """y = x Wᵀ + b + scaling · z Aᵀ Bᵀ with W and b frozen; z is x, or x with dropout."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: torch.Tensor,
        dropped: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
        frozen: FrozenWeight,
        bias: torch.Tensor | None,
    ) -> torch.Tensor:
        """x (T, I), a (R, I), b (O, R) -> (T, O)."""
        y, narrow, a16, b16 = _project(x, x if dropped is None else dropped, a, b, scaling, frozen, bias)
        ctx.save_for_backward(x if dropped is None else dropped, narrow, a16, b16)
        ctx.frozen, ctx.scaling, ctx.has_dropout = frozen, scaling, dropped is not None
        ctx.types = a.dtype, b.dtype
        return y

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """grad (T, O) -> the gradients of x, dropped, a and b."""
        z, narrow, a, b = ctx.saved_tensors
        grad_narrow = (grad @ b).mul_(ctx.scaling)  # (T, R)
        grad_a = _multiply(grad_narrow.t(), z, ctx.types[0])  # (R, I)
        grad_b = _multiply(grad.t(), narrow, ctx.types[1])  # (O, R)
        grad_x = grad_z = None
        if ctx.needs_input_grad[0]:
            frozen = ctx.frozen.unpack()
            grad_x = grad @ frozen if ctx.has_dropout else _add_products(grad, frozen, grad_narrow, a)  # (T, I)
        if ctx.has_dropout and ctx.needs_input_grad[1]:
            grad_z = grad_narrow @ a
        return grad_x, grad_z, grad_a, grad_b, None, None, None


def _project(
    x: torch.Tensor,
    z: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    scaling: float,
    frozen: FrozenWeight,
    bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The output, and what its backward pass needs: scaling · z Aᵀ (T, R), and A and B in the type of x."""
    a, b = a.to(x.dtype), b.to(x.dtype)
    narrow = (z @ a.t()).mul_(scaling)
    return _add_products(x, frozen.unpack().t(), narrow, b.t(), bias), narrow, a, b


def _add_products(
    x: torch.Tensor, large: torch.Tensor, narrow: torch.Tensor, small: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """x @ large + narrow @ small + bias, (T, N), the second product added in place.

    It has to read the result of the first. Where that is wider than x, it does not fit a GPU's cache, and the large
    product comes second: its own work hides the reading (14 us of 62, against 165 the other way round).
    """
    if x.is_cuda and large.shape[1] > large.shape[0]:
        y = narrow @ small if bias is None else torch.addmm(bias, narrow, small)
        return y.addmm_(x, large)
    return linear(x, large.t(), bias).addmm_(narrow, small)


def _multiply(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """left @ right as a tensor of another type: on a GPU without rounding to 16 bits in between."""
    if left.is_cuda and dtype is torch.float32 and left.dtype in (torch.bfloat16, torch.float16):
        return torch.mm(left, right, out_dtype=dtype)
    return (left @ right).to(dtype)


class _Fused(torch.nn.Module):
    """What a LoRA layer of PEFT is given in place of its own forward, where that is one adapter and nothing else."""

    @property
    def frozen(self) -> FrozenWeight:
        """The base layer's weight; made when first used, because PEFT builds its layers itself."""
        if "_frozen" not in self.__dict__:
            self.__dict__["_frozen"] = FrozenWeight(self.get_base_layer())
        return self.__dict__["_frozen"]

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """(..., I) -> (..., O)."""
        name = self._fused_adapter(x) if not args and not kwargs else None
        if name is None or self._is_for_bitsandbytes(x):
            return super().forward(x, *args, **kwargs)
        base, dropout = self.get_base_layer(), self.lora_dropout[name]
        flat = x.reshape(-1, x.shape[-1])
        dropped = dropout(flat) if self.training and getattr(dropout, "p", 0) > 0 else None
        a, b, scaling = self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name]
        if torch.is_grad_enabled():
            y = _Project.apply(flat, dropped, a, b, scaling, self.frozen, base.bias)
        else:
            y = _project(flat, flat if dropped is None else dropped, a, b, scaling, self.frozen, base.bias)[0]
        return y.unflatten(0, x.shape[:-1])

    def _is_for_bitsandbytes(self, x: torch.Tensor) -> bool:
        """Whether it is one token, as in chat, on a GPU: its kernel multiplies 4-bit weights without unpacking them."""
        is_one = x.is_cuda and x.numel() == x.shape[-1] and not torch.is_grad_enabled()
        return is_one and self.frozen.is_packed and self.frozen.kept is None

    def _fused_adapter(self, x: torch.Tensor) -> str | None:
        """The one plain adapter that is active; None where PEFT has to compute it (off, merged, DoRA, several)."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or len(active) != 1 or active[0] in self.lora_variant:
            return None
        base = self.get_base_layer()
        computes_in = base.weight.quant_state.dtype if self.frozen.is_packed else base.weight.dtype
        is_plain = x.dtype == computes_in and not self.lora_bias[active[0]] and not base.weight.requires_grad
        return active[0] if is_plain else None


class FusedLinear(_Fused, LoraLinear):
    """LoRA on torch.nn.Linear."""


if LoraLinear4bit is not None:

    class FusedLinear4bit(_Fused, LoraLinear4bit):
        """LoRA on a linear layer in 4 bits."""


def with_fused_layers(config: "LoraConfig") -> "LoraConfig":
    """The configuration of an adapter, whose plain linear layers will be the ones above."""
    if LoraLinear4bit is not None:
        config._register_custom_module({Linear4bit: FusedLinear4bit})  # before Linear, of which it is a kind
    config._register_custom_module({torch.nn.Linear: FusedLinear})
    return config


def unpacked_bytes(model: torch.nn.Module) -> int:
    """Bytes that keep_unpacked would take: the 4-bit weights beside an adapter, in the type they compute in."""
    return sum(
        frozen.layer.weight.quant_state.shape.numel() * frozen.layer.weight.quant_state.dtype.itemsize
        for frozen in _frozen_weights(model)
        if frozen.is_packed and frozen.kept is None
    )


def keep_unpacked(model: torch.nn.Module, *, keep: bool = True) -> None:
    """Hold 4-bit weights unpacked as well, or (keep=False) drop what was held: the numbers are the same either way."""
    for frozen in _frozen_weights(model):
        if keep:
            frozen.keep()
        else:
            frozen.kept = None


def _frozen_weights(model: torch.nn.Module) -> Iterator[FrozenWeight]:
    return (module.frozen for module in model.modules() if isinstance(module, _Fused))
