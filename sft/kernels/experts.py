"""Experts in one tensor (E, O, I) per layer: packed into 4 bits, and each with a low-rank adapter.

bitsandbytes packs linear layers only, and PEFT adapts such tensors by adding the whole product of every adapter to
them: both would keep a copy of all experts in 16 bits for the backward pass of every layer. Here they are packed as
they are loaded, unpacked for each use, and adapted as linear layers are: y = x Wᵀ + s · (x Aᵀ) Bᵀ, expert by expert in
one grouped product. Files of adapters are PEFT's own.

    quantization_config=Nf4WithExperts(...)              # from_pretrained then packs what known_experts(model) names
    use_packed_experts(model)                            # without an adapter they are computed by compute_experts, too
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from peft.tuners.lora.layer import ParamWrapper as PeftParamWrapper
from torch.nn.functional import grouped_mm, pad
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer
from transformers.quantizers.quantizers_utils import get_module_from_name

from sft.kernels import four_bit
from sft.kernels.four_bit import is_packed

METHOD = "nf4_with_experts"
GROUPED = "sft_grouped"  # the name of compute_experts among transformers' implementations
ALIGNED = 8  # numbers: grouped products on a GPU want rows of 16 bytes


class Factors(NamedTuple):
    """The adapter of all experts of one projection: s · x Aᵀ Bᵀ."""

    a: torch.Tensor  # (E, R, I)
    b: torch.Tensor  # (E, O, R)
    scaling: float


def is_grouped(module: torch.nn.Module) -> bool:
    """Whether transformers computes a module of experts by its own grouped products, and so may we."""
    return all(hasattr(module, name) for name in ("is_transposed", "has_gate", "has_bias", "act_fn", "down_proj"))


def known_experts(model: torch.nn.Module) -> set[type[torch.nn.Module]]:
    """The classes of a model's experts that are computed here: {Qwen3MoeExperts}."""
    return {type(module) for module in model.modules() if is_grouped(module)}


def use_packed_experts(model: PreTrainedModel) -> None:
    """Let a model compute its experts here, which takes packed ones."""
    if known_experts(model):
        model.set_experts_implementation(GROUPED)


def compute_experts(
    experts: torch.nn.Module,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
    adapters: Mapping[str, Sequence[Factors]] | None = None,
) -> torch.Tensor:
    """The mixture of K experts for each token: (T, D), (T, K), (T, K) -> (T, D), as transformers' grouped_mm has it.

    adapters: by the name of their parameter. An index of E means no expert.
    """
    first = "gate_up_proj" if experts.has_gate else "up_proj"
    num_experts = _shape(getattr(experts, first))[0]
    chosen, order = top_k_index.reshape(-1).sort()  # (T * K,)
    counts = torch.histc(
        chosen.float() if chosen.device.type == "cpu" else chosen.int(), num_experts, 0, num_experts - 1
    )
    ends = counts.cumsum(0, dtype=torch.int32)  # (E,): where each expert's rows end
    is_unasked = (chosen >= num_experts)[:, None]
    expert_of_row = chosen.clamp(max=num_experts - 1)

    def multiply(x: torch.Tensor, name: str) -> torch.Tensor:
        weight = getattr(experts, name)
        x = x.to(_dtype(weight)).masked_fill(is_unasked, 0.0)
        y = _multiply_frozen(x, weight, ends, experts.is_transposed)
        for factors in (adapters or {}).get(name, ()):
            y = y + _multiply_thin(x, factors, ends)
        if experts.has_bias:
            y = y + getattr(experts, f"{name}_bias")[expert_of_row]
        return y.masked_fill(is_unasked, 0.0)  # grouped products leave rows after the last end as they are

    inner = multiply(hidden_states[order // top_k_index.shape[1]], first)
    inner = experts._apply_gate(inner) if experts.has_gate else experts.act_fn(inner)
    weighted = multiply(inner, "down_proj") * top_k_weights.reshape(-1)[order, None]
    restored = weighted[order.argsort()].unflatten(0, top_k_index.shape)  # (T, K, D)
    return restored.sum(1).to(hidden_states.dtype)


ALL_EXPERTS_FUNCTIONS.register(GROUPED, compute_experts)


def _multiply_thin(x: torch.Tensor, factors: Factors, ends: torch.Tensor) -> torch.Tensor:
    """s · x Aᵀ Bᵀ of each row's own expert: (S, I) -> (S, O)."""
    missing = -factors.a.shape[1] % ALIGNED
    a, b = pad(factors.a.to(x.dtype), (0, 0, 0, missing)), pad(factors.b.to(x.dtype), (0, missing))
    narrow = grouped_mm(x, a.contiguous().mT, offs=ends) * factors.scaling  # (S, R)
    return grouped_mm(narrow, b.contiguous().mT, offs=ends)


def _multiply_frozen(x: torch.Tensor, weight: torch.Tensor, ends: torch.Tensor, is_transposed: bool) -> torch.Tensor:
    """x Wᵀ of each row's own expert: (S, I) -> (S, O)."""
    if weight.requires_grad:
        return grouped_mm(x, weight if is_transposed else weight.mT, offs=ends)
    output: torch.Tensor = _Frozen.apply(x, weight, ends, is_transposed)
    return output


class _Frozen(torch.autograd.Function):
    """A grouped product with weights that have no gradient: the backward pass unpacks them again."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        x: torch.Tensor,
        weight: torch.Tensor,
        ends: torch.Tensor,
        is_transposed: bool,
    ) -> torch.Tensor:
        """x (S, I), weight (E, O, I) or transposed (E, I, O) -> (S, O)."""
        ctx.save_for_backward(ends)
        ctx.weight, ctx.is_transposed = weight, is_transposed
        values = unpack(weight)
        return grouped_mm(x, values if is_transposed else values.mT, offs=ends)

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, None, None]:
        """grad (S, O) -> the gradient of x (S, I)."""
        (ends,) = ctx.saved_tensors
        values = unpack(ctx.weight)
        return grouped_mm(grad.contiguous(), values.mT if ctx.is_transposed else values, offs=ends), None, None, None


def pack(weight: torch.Tensor) -> torch.nn.Parameter:
    """A tensor of experts in NF4 with double quantisation, on the device it is on."""
    from bitsandbytes.nn import Params4bit

    packed: torch.nn.Parameter = Params4bit(
        weight.detach().contiguous(), requires_grad=False, quant_type="nf4", compress_statistics=True
    ).to(weight.device)
    return packed


def unpack(weight: torch.Tensor) -> torch.Tensor:
    """The values of experts, packed or not, in the type they compute in."""
    return four_bit.unpack(weight) if is_packed(weight) else weight


def _shape(weight: torch.Tensor) -> torch.Size:
    return torch.Size(weight.quant_state.shape if is_packed(weight) else weight.shape)


def _dtype(weight: torch.Tensor) -> torch.dtype:
    kind: torch.dtype = weight.quant_state.dtype if is_packed(weight) else weight.dtype
    return kind


class ParamWrapper(PeftParamWrapper):
    """PEFT's adapter of one parameter of a module of experts, computed by compute_experts.

    It has PEFT's name, because PEFT looks for that when it wraps a second parameter around the first one.
    """

    def _get_in_out_features(self, module: torch.nn.Module) -> tuple[int, int]:
        self.num_experts, in_features, out_features = _shape(self.get_param())
        self._param_ndim = 3
        return in_features, out_features

    def forward(self, x: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor) -> torch.Tensor:
        """(T, D), with the experts of each token and their weights, (T, K) both -> (T, D)."""
        adapters: dict[str, list[Factors]] = {}
        layer: torch.nn.Module = self
        while isinstance(layer, ParamWrapper):
            adapters[layer.parameter_name] = layer.list_factors()
            layer = layer.base_layer
        return compute_experts(layer, x, top_k_index, top_k_weights, adapters)

    def list_factors(self) -> list[Factors]:
        """The adapters that are on; none if they are merged."""
        if self.disable_adapters or self.merged:
            return []
        names = [name for name in self.active_adapters if name in self.lora_A]
        return [Factors(*self._split(name), self.scaling[name]) for name in names]

    def _split(self, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        a, b = self.lora_A[name].weight, self.lora_B[name].weight  # (E * R, I), (O, R * E)
        return a.unflatten(0, (self.num_experts, -1)), b.unflatten(1, (-1, self.num_experts)).permute(2, 0, 1)


class _Pack(ConversionOps):
    """transformers' hook that packs a tensor into 4 bits after reading it."""

    def __init__(self, quantizer: "Nf4WithExpertsQuantizer") -> None:
        self.of_linear = Bnb4BitHfQuantizer.get_quantize_ops(quantizer)

    def convert(
        self, input_dict: dict[str, torch.Tensor | list[torch.Tensor]], model: torch.nn.Module, **more: object
    ) -> dict[str, torch.Tensor]:
        """Tensors by their names in the model -> the same in 4 bits."""
        packed: dict[str, torch.Tensor] = {}
        for name, value in input_dict.items():
            if is_grouped(get_module_from_name(model, name)[0]):
                packed[name] = pack(value[0] if isinstance(value, list) else value)
            else:
                packed |= self.of_linear.convert({name: value}, model=model, **more)
        return packed


@register_quantization_config(METHOD)
class Nf4WithExperts(BitsAndBytesConfig):
    """bitsandbytes' configuration, with experts in 4 bits as well."""

    def post_init(self) -> None:
        """Called by its parent when all is set."""
        super().post_init()
        self.quant_method = METHOD


@register_quantizer(METHOD)
class Nf4WithExpertsQuantizer(Bnb4BitHfQuantizer):
    """transformers' quantizer for 4 bits, extended to pack experts."""

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: object) -> bool:
        """Linear layers, and experts in one tensor; biases stay."""
        module, name = get_module_from_name(model, param_name)
        if is_grouped(module):
            return len(_shape(getattr(module, name))) == 3
        needed: bool = super().param_needs_quantization(model, param_name, **kwargs)
        return needed

    def get_quantize_ops(self) -> ConversionOps:
        """The operation that packs a tensor."""
        return _Pack(self)
