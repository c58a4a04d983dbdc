"""PEFT's LoRA layers with one operation of ours in place of their own forward (sft.models.projections).

PEFT's own layers compute base(x) + B(A(x)) * scaling in separate steps and in the adapter's fp32: for a long row that
moves several times the memory that the products themselves need. PEFT is told of ours through its mapping of custom
modules; files of adapters are the same.

    model = get_peft_model(base, with_fused_layers(LoraConfig(...)))
    share_inputs(model)          # query, key and value are computed together, gate and up are
    unpacked_bytes(model)        # 13_050_000_000: what keep_unpacked(model) would take
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock, get_ident
from typing import TYPE_CHECKING

import torch
from peft.tuners.lora import Linear as LoraLinear

from sft.models.experts import ParamWrapper, known_experts
from sft.models.projections import Adapters, FrozenWeight, Projection, project

if TYPE_CHECKING:
    from peft import LoraConfig

try:
    from bitsandbytes.nn import Linear4bit
    from peft.tuners.lora import Linear4bit as LoraLinear4bit
except ImportError:  # no bitsandbytes: nothing is in 4 bits
    Linear4bit = LoraLinear4bit = None

SHARED_INPUTS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # names of layers that read the same
_CASTING = Lock()  # around changes of Siblings.casts


class Siblings:
    """LoRA layers that read the same input, in the order they are asked: all are computed when the first one is.

    What belongs together is told by the input itself: a layer that is asked for another tensor is computed alone. So a
    model whose layers read different inputs is only not faster, and several threads may use one at once.
    """

    def __init__(self, layers: Sequence["_Fused"]) -> None:
        self.layers = list(layers)
        self.casts: list[Adapters] = []  # see cast_at_once: of those that are inside now, the last one counts
        self._waiting: dict[int, tuple[torch.Tensor, dict[int, torch.Tensor]]] = {}  # by thread: input, outputs

    @property
    def cast(self) -> Adapters | None:
        """The adapters in the type they compute in, where they lie in it."""
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


class _Fused(torch.nn.Module):
    """What a LoRA layer of PEFT is given in place of its own forward, where that is one adapter and nothing else."""

    @property
    def frozen(self) -> FrozenWeight:
        """The base layer's weight; made when first used, because PEFT builds its layers itself."""
        if "_frozen" not in self.__dict__:
            self.__dict__["_frozen"] = FrozenWeight(self.get_base_layer())
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
        """The name of the one plain adapter that is active; None where PEFT computes (off, merged, DoRA, several)."""
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
        return self.is_plain(x) and self.adapter == other.adapter and not self.has_dropout and not other.has_dropout

    def _is_for_bitsandbytes(self, x: torch.Tensor) -> bool:
        """Whether it is one token, as in chat, on a GPU: its kernel multiplies 4-bit weights without unpacking them."""
        is_one = x.is_cuda and x.numel() == x.shape[-1] and not torch.is_grad_enabled()
        return is_one and self.frozen.is_packed and self.frozen.kept is None


def computes_linearly(layer: torch.nn.Module) -> bool:
    """Whether a kind of Linear computes x Wᵀ + b and nothing else: a family may have a forward of its own (grouped,
    quantised), and hooks may change what goes in or comes out."""
    known = {torch.nn.Linear.forward} | ({Linear4bit.forward} if Linear4bit is not None else set())
    is_changed = "forward" in vars(layer) or layer._forward_pre_hooks or layer._forward_hooks
    return type(layer).forward in known and not is_changed


class FusedLinear(_Fused, LoraLinear):
    """LoRA on torch.nn.Linear."""


if LoraLinear4bit is not None:

    class FusedLinear4bit(_Fused, LoraLinear4bit):
        """LoRA on a linear layer in 4 bits."""


def with_fused_layers(config: "LoraConfig", model: torch.nn.Module | None = None) -> "LoraConfig":
    """The configuration of an adapter, whose plain linear layers will be the ones above, and the model's experts those
    of sft.models.experts."""
    if LoraLinear4bit is not None:
        config._register_custom_module({Linear4bit: FusedLinear4bit})  # before Linear, of which it is a kind
    config._register_custom_module({torch.nn.Linear: FusedLinear})
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

    They are those of the moment: whoever changes them inside has to ask again. Several threads may be inside, and leave
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
        for group, cast in groups:  # now, not before: until here they are whatever lay in that memory
            group.casts.append(cast)
    try:
        yield
    finally:
        with _CASTING:
            for group, cast in groups:
                group.casts[:] = [other for other in group.casts if other is not cast]


def unpacked_bytes(model: torch.nn.Module) -> int:
    """Bytes that keep_unpacked would take: the 4-bit weights beside an adapter, in the type they compute in."""
    return sum(
        layer.frozen.layer.weight.quant_state.shape.numel() * layer.frozen.dtype.itemsize
        for layer in _fused_layers(model)
        if layer.frozen.is_packed and layer.frozen.kept is None
    )


def keep_unpacked(model: torch.nn.Module, *, keep: bool = True) -> None:
    """Hold 4-bit weights unpacked as well, or (keep=False) drop what was held: the numbers are the same either way."""
    for layer in _fused_layers(model):
        if keep:
            layer.frozen.keep()
        else:
            layer.frozen.kept = None


def _fused_layers(model: torch.nn.Module) -> Iterator[_Fused]:
    return (module for module in model.modules() if isinstance(module, _Fused))
