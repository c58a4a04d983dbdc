"""Linear layers with frozen weights in FP8 (e4m3), multiplied by the FP8 units of Ada, Hopper and Blackwell GPUs.

    use_fp8(decoder_layers(model))               # every linear layer becomes an Fp8Linear; says what stays
    q = quantise(x)                              # (T, I) -> values in e4m3 and a scale for each token
    y = multiply(q, layer)                       # (T, O), x Wᵀ in bf16
    add_shares([y], narrow, small, salt=0)       # plus narrow @ small, rounded once

A weight has one scale for each output, an input one for each token (2209.05433; "rowwise" in torchao): the product of
two rows is a product in FP8 times two scales. A gradient is multiplied by the weights' scales before it is quantised,
so the backward pass needs no other weights, only the same ones transposed: FP8 units read both factors along the
dimension that is summed. They are transposed for each use, or held transposed where memory allows.

What an adapter adds is not quantised. A young adapter adds less than half of the last bit of a product in bf16, which
would be lost in the sum. So sums are rounded up or down in proportion to what is cut off (stochastic rounding,
1502.02551), by a pattern of their indices instead of random numbers: the same sum always gives the same bits. The
pattern is another one in each layer (salt), so that one layer's rounding is not repeated by the next.

FP8 multiplies rounding: an input that changes in its last bit moves some values to the next of 256, by 6 %. Two orders
of summation then give hidden states as far apart as either is from the exact ones, so nothing can be proven by
comparing them: `in_16_bits` is for that.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from sft.backend import is_launched_sharded
from sft.console import say
from sft.errors import ConfigError

FP8 = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3
MULTIPLE = 16  # the units take factors whose rows have this many values, or a multiple
FIRST_CARD = (8, 9)  # compute capability of Ada; Hopper has 9.0
SMALLEST = 1e-30  # scale of a token whose values are all zero
ROUNDING_BITS = 16  # that fp32 has more than bf16
SPREAD = 0x9E3779B1  # prime, 2**32 over the golden ratio: multiples of it are far apart


class Quantised(NamedTuple):
    """Rows in FP8: values * scale."""

    values: torch.Tensor  # (T, K), e4m3
    scale: torch.Tensor  # (T, 1), fp32


class Fp8Linear(nn.Linear):
    """A frozen linear layer: weight (O, I) in e4m3, scale (O,) in fp32, computing in bf16."""

    scale: torch.Tensor
    compute_dtype: torch.dtype
    kept: torch.Tensor | None  # the transposed weight, if it is held
    salt: int  # of the pattern that its sums are rounded by, below 2**31
    is_exact: bool  # multiplied in compute_dtype, see in_16_bits

    @classmethod
    def of(cls, layer: nn.Linear, number: int = 0) -> "Fp8Linear":
        """A plain layer's weights quantised; it shares the bias. number: its index among the model's FP8 layers."""
        quantised = _quantise(layer.weight.detach(), None)
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made.in_features, made.out_features = layer.in_features, layer.out_features
        made.weight = nn.Parameter(quantised.values, requires_grad=False)
        made.bias = layer.bias
        made.register_buffer("scale", quantised.scale.flatten(), persistent=False)
        made.compute_dtype, made.kept, made.is_exact = layer.weight.dtype, None, False
        made.salt = number * SPREAD % 2**31
        return made

    def transposed(self) -> torch.Tensor:
        """The weight (I, O), e4m3, laid out so."""
        return self.kept if self.kept is not None else transpose(self.weight)

    def dequantise(self) -> torch.Tensor:
        """The dequantised weight (O, I), in the computing type."""
        return (self.weight.float() * self.scale[:, None]).to(self.compute_dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., I) -> (..., O), without an adapter."""
        if self.is_exact:
            return nn.functional.linear(x, self.dequantise(), self.bias)
        flat: torch.Tensor = _Multiply.apply(x.reshape(-1, x.shape[-1]), self)
        y = flat.unflatten(0, x.shape[:-1])
        return y if self.bias is None else y + self.bias


class _Multiply(torch.autograd.Function):
    """x (T, I) times a frozen weight."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: torch.Tensor, layer: Fp8Linear) -> torch.Tensor:
        ctx.layer = layer
        return multiply(quantise(x), layer)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return multiply_gradient(grads[0], ctx.layer), None


def use_fp8(layers: Sequence[nn.Module]) -> None:
    """Replace the linear layers inside `layers` (a model's decoder layers) by FP8 ones, in place; says what stays."""
    left: dict[str, int] = {}
    number = 0
    # Names only: references to the layers would keep all their weights alive until the last one is replaced.
    for parent in {module: None for layer in layers for module in layer.modules() if type(module) is not nn.Linear}:
        for name in [name for name, child in parent.named_children() if type(child) is nn.Linear]:
            child = parent.get_submodule(name)
            if child.in_features % MULTIPLE or child.out_features % MULTIPLE:
                left[name] = left.get(name, 0) + 1
            else:
                setattr(parent, name, Fp8Linear.of(child, number := number + 1))
    for name, count in left.items():
        say(f"{count} layers {name} stay in 16 bits: their sizes are no multiples of {MULTIPLE}")


@contextmanager
def in_16_bits(model: nn.Module) -> Iterator[None]:
    """Inside, FP8 layers multiply their dequantised weights in 16 bits."""
    layers = [module for module in model.modules() if isinstance(module, Fp8Linear)]
    for layer in layers:
        layer.is_exact = True
    try:
        yield
    finally:
        for layer in layers:
            layer.is_exact = False


def keep_from_broadcast(model: nn.Module) -> None:
    """Tell DistributedDataParallel to leave FP8 weights alone: gloo and cards before Hopper cannot send them, and every
    process has quantised the same ones."""
    names = [
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, Fp8Linear)
        for name in ("weight", "scale")
    ]
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)


def check_card() -> None:
    """Raises ConfigError if there are no FP8 units, or weights are sharded over several GPUs."""
    if is_launched_sharded():
        raise ConfigError("base_dtype fp8: weights in FP8 cannot lie in pieces over several GPUs (FSDP, ZeRO-3)")
    if not torch.cuda.is_available():
        raise ConfigError("base_dtype fp8 needs an NVIDIA GPU with FP8 units (Ada, Hopper, Blackwell); leave it out")
    if torch.cuda.get_device_capability() < FIRST_CARD:
        raise ConfigError(
            f"base_dtype fp8: {torch.cuda.get_device_name()} has no FP8 units (Ada, Hopper and Blackwell have); use "
            "--method qlora for a base in 4 bits"
        )


def quantise(x: torch.Tensor, factor: torch.Tensor | None = None) -> Quantised:
    """x (T, K), or x * factor (K,), in FP8 with a scale for each row."""
    if not x.is_cuda:
        return _quantise(x, factor)
    from sft.kernels import fp8_triton

    return Quantised(*fp8_triton.quantise(x, factor, largest=LARGEST, smallest=SMALLEST))


def _quantise(x: torch.Tensor, factor: torch.Tensor | None) -> Quantised:
    wide = x.float() if factor is None else x.float() * factor
    scale = (wide.abs().amax(1, keepdim=True) / LARGEST).clamp(min=SMALLEST)
    return Quantised((wide / scale).clamp(-LARGEST, LARGEST).to(FP8), scale)


def multiply(x: Quantised, layer: Fp8Linear) -> torch.Tensor:
    """x (T, I) times a layer's weight -> (T, O)."""
    return _product(x, layer.weight, layer.scale[None], layer.compute_dtype, fast=True)


def multiply_gradient(grad: torch.Tensor, layer: Fp8Linear) -> torch.Tensor:
    """The gradient (T, O) of a layer's output -> that of its input (T, I)."""
    ones = layer.scale.new_ones(1, layer.in_features)
    return _product(quantise(grad, layer.scale), layer.transposed(), ones, layer.compute_dtype, fast=False)


def _product(
    left: Quantised, right: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype, *, fast: bool
) -> torch.Tensor:
    """left (T, K) times rows of right (N, K), with scales (1, N) -> (T, N).

    fast: sums are kept in fewer bits inside the units; for gradients they are not.
    """
    return torch._scaled_mm(
        left.values, right.t(), scale_a=left.scale, scale_b=scale, out_dtype=dtype, use_fast_accum=fast
    )


def transpose(weight: torch.Tensor) -> torch.Tensor:
    """(O, I) in FP8 -> (I, O), laid out anew."""
    if not weight.is_cuda:
        return weight.t().contiguous()
    from sft.kernels import fp8_triton

    return fp8_triton.transpose(weight)


def add_shares(
    products: Sequence[torch.Tensor],
    narrow: torch.Tensor,
    small: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    salt: int,
) -> torch.Tensor:
    """The sum of products (T, N) and narrow (T, R) @ small (R, N), rounded once to the type of the products.

    salt: of the layer, chooses the pattern of rounding.
    """
    if products[0].is_cuda:
        from sft.kernels import fp8_triton

        y = fp8_triton.add_shares(products, narrow, small, salt)
    else:
        total = narrow.float() @ small.float()
        for product in products:
            total += product.float()
        y = _round(total, salt).to(products[0].dtype)
    return y if bias is None else y.add_(bias)


def _round(total: torch.Tensor, salt: int) -> torch.Tensor:
    """fp32 (T, N) with the bits of bf16: the distance to the value below is the chance of the value above."""
    rows, columns = (torch.arange(size, dtype=torch.int64) for size in total.shape)
    drawn = draw((rows[:, None] * total.shape[1] + columns) ^ salt)
    bits = total.view(torch.int32)
    rounded = (bits + drawn.to(torch.int32)) & -(1 << ROUNDING_BITS)
    return torch.where(total.isfinite(), rounded, bits).view(torch.float32)


def draw(index: torch.Tensor) -> torch.Tensor:
    """A pseudorandom number of ROUNDING_BITS bits from an index below 2**32 (a step of lowbias32)."""
    mixed = index & 0xFFFFFFFF
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        mixed = ((mixed ^ (mixed >> shift)) * factor) & 0xFFFFFFFF
    return (mixed ^ (mixed >> 15)) & ((1 << ROUNDING_BITS) - 1)
