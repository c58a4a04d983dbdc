"""PEFT's LoRA layers computed as one operation: layers that read the same input, each with its adapter, at once.

    model = get_peft_model(base, with_fused_layers(LoraConfig(...)))
    share_inputs(model)          # query, key and value are computed together, and so are gate and up
    unpacked_bytes(model)        # 13_050_000_000: what keep_unpacked(model) would take

PEFT's own layers compute base(x) + B(A(x)) * scaling in separate steps and in the adapter's fp32: for a long row that
moves several times the memory that the products themselves need. PEFT finds ours through its mapping of custom modules;
adapter files are the same. The operation is `project`:

    y_i = x Wᵢᵀ + bᵢ + sᵢ · z Aᵢᵀ Bᵢᵀ, where z is x, or x with dropout

    projections = [Projection(frozen_q, bias_q, 2.0), Projection(frozen_k, bias_k, 2.0)]
    q, k = project(x, None, projections, [a_q, a_k], [b_q, b_k])            # x (T, I) -> (T, O_q), (T, O_k)

Large products are accumulated onto the thin ones in place and in the dtype of x; adapters and their gradients stay in
their own (fp32). The A's of layers that read one input are multiplied at once, and their backward passes add to one
gradient of x.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from threading import Lock, get_ident
from typing import TYPE_CHECKING, NamedTuple

import torch
from peft.tuners.lora import Linear as LoraLinear

from sft.kernels import fp8
from sft.kernels.experts import ParamWrapper, known_experts
from sft.kernels.four_bit import linear_4bit, unpack

if TYPE_CHECKING:
    from peft import LoraConfig

SHARED_INPUTS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # names of layers that read the same
_AS_RECORDED: list[bool] = []  # see products_as_recorded; not by thread: CUDA's backward passes have one of their own
_CASTING = Lock()  # around changes of Siblings.casts


class Adapters(NamedTuple):
    """The adapters of layers that read one input, in the type they compute in."""

    a: torch.Tensor  # (R, I), the A's of all layers one below the other
    b: list[torch.Tensor]  # (O, R of the layer) each

    @classmethod
    def cast(cls, a: Sequence[torch.Tensor], b: Sequence[torch.Tensor], dtype: torch.dtype) -> "Adapters":
        """From the trained weights."""
        stacked = a[0] if len(a) == 1 else torch.cat(list(a))
        return cls(stacked.to(dtype), [weight.to(dtype) for weight in b])


class Siblings:
    """LoRA layers that read the same input, in calling order: all are computed when the first one is called.

    What belongs together is told by the input itself: a layer that is asked for another tensor is computed alone. So a
    model whose layers read different inputs is only not faster, and several threads may use one at once.
    """

    def __init__(self, layers: Sequence["_Fused"]) -> None:
        self.layers = list(layers)
        self.casts: list[Adapters] = []  # see cast_at_once: of those that are inside now, the last one counts
        self._waiting: dict[int, tuple[torch.Tensor, dict[int, torch.Tensor]]] = {}  # by thread: input, outputs

    @property
    def cast(self) -> Adapters | None:
        """The adapters in the computing type, if they were cast together."""
        return next(reversed(self.casts), None)

    def compute(self, layer: "_Fused", x: torch.Tensor) -> torch.Tensor:
        """The layer's output for x (..., I), (..., O)."""
        place, thread = self.layers.index(layer), get_ident()
        given, outputs = self._waiting.get(thread, (None, {}))
        if given is x and place in outputs:
            output = outputs.pop(place)
            if not outputs:
                del self._waiting[thread]
            return output
        if place or not all(other.is_alike(layer, x) for other in self.layers[1:]):
            return _compute([layer], x)[0]
        first, *others = _compute(self.layers, x, self.cast)
        if others:
            self._waiting[thread] = x, dict(enumerate(others, 1))
        return first


def _compute(layers: Sequence["_Fused"], x: torch.Tensor, cast: Adapters | None = None) -> list[torch.Tensor]:
    flat = x.reshape(-1, x.shape[-1])
    name = layers[0].adapter
    dropout = layers[0].lora_dropout[name]
    dropped = dropout(flat) if layers[0].has_dropout else None
    projections = [Projection(layer.frozen, layer.get_base_layer().bias, layer.scaling[name]) for layer in layers]
    a, b = ([getattr(layer, side)[name].weight for layer in layers] for side in ("lora_A", "lora_B"))
    return [y.unflatten(0, x.shape[:-1]) for y in project(flat, dropped, projections, a, b, cast)]


class FrozenWeight:
    """The weight of a frozen linear layer (O, I), in the type it computes in: a plain one. See frozen_weight."""

    is_packed = False  # whether it is stored in 4 bits
    in_fp8 = False  # whether it is multiplied in FP8 now
    kept: torch.Tensor | None = None  # see hold

    def __init__(self, layer: torch.nn.Linear) -> None:
        self.layer = layer

    @property
    def spare_bytes(self) -> int:
        """Bytes that `hold` would take now."""
        return 0

    @property
    def dtype(self) -> torch.dtype:
        """The type it computes in."""
        return self.layer.weight.dtype

    def unpack(self) -> torch.Tensor:
        """The values themselves, the same whether held or not."""
        return self.layer.weight

    def hold(self, *, keep: bool) -> None:
        """Compute once what every pass would compute, and keep it; or drop that."""


class PackedWeight(FrozenWeight):
    """A weight in 4 bits, unpacked for each use, or once (2 bytes a value)."""

    is_packed = True

    @property
    def spare_bytes(self) -> int:
        """Bytes of the unpacked values."""
        return self.layer.weight.quant_state.shape.numel() * self.dtype.itemsize if self.kept is None else 0

    @property
    def dtype(self) -> torch.dtype:
        """The type it is unpacked to."""
        kind: torch.dtype = self.layer.weight.quant_state.dtype
        return kind

    def unpack(self) -> torch.Tensor:
        """The values, unpacked unless held."""
        return unpack(self.layer.weight) if self.kept is None else self.kept

    def hold(self, *, keep: bool) -> None:
        """The values unpacked."""
        self.kept = self.unpack() if keep else None


class Fp8Weight(FrozenWeight):
    """A weight in FP8, multiplied by sft.kernels.fp8 and transposed for each use, or once (1 byte a value)."""

    layer: fp8.Fp8Linear

    @property
    def in_fp8(self) -> bool:  # type: ignore[override]
        """Not while its layer multiplies in 16 bits."""
        return not self.layer.is_exact

    @property
    def spare_bytes(self) -> int:
        """Bytes of the transposed weight."""
        return self.layer.weight.numel() if self.layer.kept is None else 0

    @property
    def dtype(self) -> torch.dtype:
        """The type of its outputs."""
        return self.layer.compute_dtype

    def unpack(self) -> torch.Tensor:
        """The values that it stands for."""
        return self.layer.dequantise()

    def hold(self, *, keep: bool) -> None:
        """The weight transposed."""
        self.layer.kept = self.layer.transposed() if keep else None


def frozen_weight(layer: torch.nn.Linear) -> FrozenWeight:
    """The weight of a layer, whatever its storage."""
    if isinstance(layer, fp8.Fp8Linear):
        return Fp8Weight(layer)
    packed = linear_4bit()
    return PackedWeight(layer) if packed is not None and isinstance(layer, packed) else FrozenWeight(layer)


class _Fused(torch.nn.Module):
    """The forward that replaces that of a PEFT LoRA layer with exactly one adapter."""

    @property
    def frozen(self) -> FrozenWeight:
        """The base layer's weight; made when first used, because PEFT builds its layers itself."""
        if "_frozen" not in self.__dict__:
            self.__dict__["_frozen"] = frozen_weight(self.get_base_layer())
        return self.__dict__["_frozen"]

    @property
    def siblings(self) -> Siblings:
        """The layers that read its input, itself among them; not a part of the model's own structure."""
        return self.__dict__.setdefault("_siblings", Siblings([self]))

    def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        """(..., I) -> (..., O)."""
        if args or kwargs or not self.is_plain(x) or self._is_for_bitsandbytes(x):
            return super().forward(x, *args, **kwargs)
        return self.siblings.compute(self, x)

    @property
    def adapter(self) -> str | None:
        """The name of the one plain adapter that is active; None if PEFT computes (off, merged, DoRA, several)."""
        active = [name for name in self.active_adapters if name in self.lora_A]
        if self.disable_adapters or self.merged or len(active) != 1:
            return None
        return None if active[0] in self.lora_variant or self.lora_bias[active[0]] else active[0]

    @property
    def has_dropout(self) -> bool:
        """Whether inputs of the adapter are dropped now."""
        return self.training and getattr(self.lora_dropout[self.adapter], "p", 0) > 0

    def is_plain(self, x: torch.Tensor) -> bool:
        """Whether it is one plain adapter over a frozen, plain linear layer that computes in the type of x."""
        base = self.get_base_layer()
        is_frozen = not base.weight.requires_grad
        return self.adapter is not None and is_frozen and computes_linearly(base) and x.dtype == self.frozen.dtype

    def is_alike(self, other: "_Fused", x: torch.Tensor) -> bool:
        """Whether it can be computed together with another one, which is plain."""
        is_same_kind = self.adapter == other.adapter and self.frozen.in_fp8 == other.frozen.in_fp8
        return self.is_plain(x) and is_same_kind and not self.has_dropout and not other.has_dropout

    def _is_for_bitsandbytes(self, x: torch.Tensor) -> bool:
        """Whether it is one token, as in chat, on a GPU: its kernel multiplies 4-bit weights without unpacking them."""
        is_one = x.is_cuda and x.numel() == x.shape[-1] and not torch.is_grad_enabled()
        return is_one and self.frozen.is_packed and self.frozen.kept is None


def computes_linearly(layer: torch.nn.Module) -> bool:
    """Whether a kind of Linear computes x Wᵀ + b and nothing else: a family may have a forward of its own (grouped,
    quantised), and hooks may change input or output."""
    known = {kind.forward for kind in (torch.nn.Linear, fp8.Fp8Linear, linear_4bit()) if kind is not None}
    is_changed = "forward" in vars(layer) or layer._forward_pre_hooks or layer._forward_hooks
    return type(layer).forward in known and not is_changed


class FusedLinear(_Fused, LoraLinear):
    """LoRA on torch.nn.Linear."""


@cache
def fused_linear_4bit() -> type[torch.nn.Module]:
    """The class of LoRA on a linear layer in 4 bits; made if there is one, since PEFT's own imports bitsandbytes."""
    from peft.tuners.lora import Linear4bit as LoraLinear4bit

    class FusedLinear4bit(_Fused, LoraLinear4bit):
        """LoRA on a linear layer in 4 bits."""

    return FusedLinear4bit


def with_fused_layers(config: "LoraConfig", model: torch.nn.Module | None = None) -> "LoraConfig":
    """The configuration of an adapter, whose plain linear layers will be the ones above, and the model's experts those
    of sft.kernels.experts."""
    if (packed := linear_4bit()) is not None:
        config._register_custom_module({packed: fused_linear_4bit()})  # before Linear, its base class
    config._register_custom_module({fp8.Fp8Linear: FusedLinear, torch.nn.Linear: FusedLinear})
    if model is not None:
        config._register_custom_module(dict.fromkeys(known_experts(model), ParamWrapper))
    return config


def share_inputs(model: torch.nn.Module) -> None:
    """Let layers that read the same input be computed together."""
    for module in model.modules():
        children = dict(module.named_children())
        for names in SHARED_INPUTS:
            layers = [children[name] for name in names if isinstance(children.get(name), _Fused)]
            if len(layers) == len(names):
                siblings = Siblings(layers)
                for layer in layers:
                    layer.__dict__["_siblings"] = siblings


@contextmanager
def cast_at_once(model: torch.nn.Module) -> Iterator[None]:
    """Inside, adapters lie in the type they compute in as well: cast by one kernel, not by two a layer for each use.

    They are the current ones: whoever changes them inside has to ask again. Several threads may be inside, and leave
    in any order.
    """
    groups: list[tuple[Siblings, Adapters]] = []
    sources: list[torch.Tensor] = []
    copies: list[torch.Tensor] = []
    for group in {id(layer.siblings): layer.siblings for layer in _fused_layers(model)}.values():
        name, dtype = group.layers[0].adapter, group.layers[0].frozen.dtype
        if name is None:
            continue
        a, b = ([getattr(layer, side)[name].weight.detach() for layer in group.layers] for side in ("lora_A", "lora_B"))
        stacked = a[0].new_empty(sum(map(len, a)), a[0].shape[1], dtype=dtype)
        groups.append((group, Adapters(stacked, [torch.empty_like(weight, dtype=dtype) for weight in b])))
        sources += [*a, *b]
        copies += [*stacked.split([len(weight) for weight in a]), *groups[-1][1].b]
    if copies:
        torch._foreach_copy_(copies, sources)
    with _CASTING:
        for group, cast in groups:  # only now, because until here the memory is uninitialised
            group.casts.append(cast)
    try:
        yield
    finally:
        with _CASTING:
            for group, cast in groups:
                group.casts[:] = [other for other in group.casts if other is not cast]


def unpacked_bytes(model: torch.nn.Module) -> int:
    """Bytes that keep_unpacked would take: 4-bit weights in the type they compute in, those in FP8 transposed."""
    return sum(layer.frozen.spare_bytes for layer in _fused_layers(model))


def keep_unpacked(model: torch.nn.Module, *, keep: bool = True) -> None:
    """Hold 4-bit weights unpacked as well and those in FP8 transposed, or (keep=False) drop what was held: the numbers
    are the same either way."""
    for layer in _fused_layers(model):
        layer.frozen.hold(keep=keep)


def _fused_layers(model: torch.nn.Module) -> Iterator[_Fused]:
    return (module for module in model.modules() if isinstance(module, _Fused))


class Projection(NamedTuple):
    """The frozen part of one layer."""

    frozen: FrozenWeight
    bias: torch.Tensor | None
    scaling: float


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
        if ctx.needs_input_grad[0] and ctx.projections[0].frozen.in_fp8:
            products = [
                fp8.multiply_gradient(grad, projection.frozen.layer)
                for grad, projection in zip(grads, ctx.projections, strict=True)
            ]
            narrow_share = grad_narrow[:, :0] if ctx.has_dropout else grad_narrow
            salt = ctx.projections[0].frozen.layer.salt
            grad_x = fp8.add_shares(products, narrow_share, a[: narrow_share.shape[1]], salt=salt)
        elif ctx.needs_input_grad[0]:
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
    """The outputs, and s · z Aᵀ (T, R) of all layers side by side, which the backward pass needs."""
    ranks = [b.shape[1] for b in adapters.b]
    narrow = z @ adapters.a.t()
    _scale(narrow, projections, ranks)
    if projections[0].frozen.in_fp8:
        quantised = fp8.quantise(x)
        outputs = tuple(
            fp8.add_shares([fp8.multiply(quantised, frozen.layer)], part, b.t(), bias, salt=frozen.layer.salt)
            for (frozen, bias, _), part, b in zip(projections, narrow.split(ranks, 1), adapters.b, strict=True)
        )
        return outputs, narrow
    outputs = tuple(
        _add_products(x, projection.frozen.unpack().t(), part, b.t(), projection.bias)
        for projection, part, b in zip(projections, narrow.split(ranks, 1), adapters.b, strict=True)
    )
    return outputs, narrow


def _scale(narrow: torch.Tensor, projections: Sequence[Projection], ranks: list[int]) -> None:
    """Multiply each layer's part of (T, R) by its scaling, in place."""
    if len({projection.scaling for projection in projections}) == 1:
        narrow.mul_(projections[0].scaling)
        return
    for part, projection in zip(narrow.split(ranks, 1), projections, strict=True):
        part.mul_(projection.scaling)


@contextmanager
def products_as_recorded() -> Iterator[None]:
    """Inside, products are computed by the kernels that a CUDA graph would record, so that the two can be compared."""
    _AS_RECORDED.append(True)
    try:
        yield
    finally:
        _AS_RECORDED.pop()


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
    if x.is_cuda and (_AS_RECORDED or torch.cuda.is_current_stream_capturing()):
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
