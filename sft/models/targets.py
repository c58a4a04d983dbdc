"""Which layers of a model get an adapter, by the names that the family itself gives them.

Every linear layer of the decoder can be adapted, and every expert stored in one tensor with the others; routers, the
output layer, embeddings and towers for images or sound are left alone unless a linear layer among them is named.

    found = find_targets(model)                              # every layer that can be adapted, by kind
    chosen = choose_targets(model, ("auto",))                # all of them but the routers
    describe_targets(chosen)                                 # "attention (q_proj, v_proj), experts (gate_up_proj)"
"""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils import transformers_weight_conversion
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from sft.config.train import EVERY_TARGET, VOCABULARY
from sft.errors import ModelError

LINEAR = (torch.nn.Linear, Conv1D)  # GPT-2 calls its linear layers Conv1D
CONVOLUTION = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
EXPERTS = "experts"
ROUTER = re.compile(r"(^|\.)(gate|router|shared_expert_gate|\w+_router)(\.|$)")  # their outputs choose, mostly by top-k
TOWER = re.compile(r"vision|visual|image|audio|speech|multi_?modal")
KINDS = (  # the first one that is found in a layer's path within its decoder layer
    ("shared expert", r"shared_expert|shared_mlp"),
    (EXPERTS, r"expert"),
    ("linear attention", r"linear_attn|linear_attention"),
    ("attention", r"attn|attention"),
    ("state space", r"mamba|ssm|rg_lru|temporal_block"),
    ("convolution", r"conv"),
    ("MLP", r"mlp|feed_forward|ffn"),
)
SHARE_TOLD = 0.01  # of all weights: below this a kind of layer that cannot be adapted is not worth a warning


class Target(NamedTuple):
    """One layer: Target("model.layers.0.self_attn.q_proj", "attention", is_expert=False, num_weights=331776)."""

    path: str
    kind: str
    is_expert: bool  # a parameter (E, O, I) or (E, I, O), not a module
    num_weights: int

    @property
    def name(self) -> str:
        """`q_proj`; of experts that are a module's weight, the module's name."""
        return self._called.rsplit(".", 1)[-1]

    @property
    def is_router(self) -> bool:
        """Whether it chooses experts, or weighs them."""
        return not self.is_expert and bool(ROUTER.search(self.path))

    def is_called(self, name: str) -> bool:
        """Whether a user's name matches this layer: its name, its path's end, or `experts` for layers in experts."""
        path = self.path.rpartition(".")[0] if self.is_expert and name == EXPERTS else self._called
        return path == name or path.endswith(f".{name}")

    @property
    def _called(self) -> str:
        return self.path.removesuffix(".weight") if self.is_expert else self.path


def find_targets(model: PreTrainedModel) -> list[Target]:
    """Every layer that can be adapted, routers among them, in the order of the model."""
    found = []
    for path, module in _walk_decoder(model):
        if isinstance(module, LINEAR):
            if is_called(model, path) and path.rpartition(".")[2] not in VOCABULARY:
                found.append(Target(path, kind_of(path), False, count_weights(module.weight)))
        elif is_expert_module(path, module):
            kind = kind_of(path) if "shared" in path else EXPERTS
            found += [
                Target(f"{path}.{name}", kind, True, count_weights(weight))
                for name, weight in module.named_parameters(recurse=False)
                if len(shape_of(weight)) == 3
            ]
    return found


def is_expert_module(path: str, module: torch.nn.Module) -> bool:
    """Whether its own parameters of three dimensions are experts side by side, as in Qwen3MoeExperts."""
    return not isinstance(module, CONVOLUTION) and "expert" in f"{path}.{type(module).__name__}".lower()


def is_called(model: PreTrainedModel, path: str) -> bool:
    """Whether a linear layer computes by its own forward, to which an adapter adds.

    Mamba's kernels take the weights of all of its layers but the first, so an adapter would be trained by some paths
    and overlooked by others.
    """
    parent, _, name = path.rpartition(".")
    is_mamba = all(hasattr(model.get_submodule(parent), part) for part in ("A_log", "D"))  # a delta net has no D
    return name == "in_proj" or not is_mamba


def choose_targets(model: PreTrainedModel, wanted: Sequence[str], layers: Sequence[int] | None = None) -> list[Target]:
    """The layers that the user's names mean, in the decoder layers with these numbers; ("auto",) means all but routers.

    Raises ModelError for a name that means nothing, with those that would.
    """
    found = find_targets(model)
    if output := [name for name in wanted if is_vocabulary(model, name)]:
        raise ModelError(
            f"target_modules {','.join(output)}: adapters are for layers between embeddings and output; leave it "
            f"out, or train it in full: --modules_to_save {','.join(output)}"
        )
    if any(name in EVERY_TARGET for name in wanted):
        chosen = [target for target in found if not target.is_router]
    else:
        if missing := [name for name in wanted if not any(target.is_called(name) for target in found)]:
            raise ModelError(f"target_modules {missing} are not in this model; it has {list_names(found)}")
        chosen = [target for target in found if any(target.is_called(name) for name in wanted)]
    if layers is not None:
        within = tuple(f"{path}.{number}." for path in find_layer_lists(model) for number in layers)
        chosen = [target for target in chosen if target.path.startswith(within)]
    if not chosen:
        raise ModelError(
            f"target_modules {', '.join(wanted)}: no layer would be adapted; name others, or raise --lora_layers; "
            f"this model has {list_names(found)}"
        )
    return chosen


def list_names(targets: Sequence[Target]) -> list[str]:
    """The names one may give: ["down_proj", "gate_proj", ...]."""
    names = {target.name for target in targets if not target.is_router}
    return sorted(names | ({EXPERTS} if any(target.is_expert for target in targets) else set()))


def is_vocabulary(model: PreTrainedModel, name: str) -> bool:
    """Whether a name means the output layer or an embedding table."""
    layers = [layer for layer in (model.get_output_embeddings(), model.get_input_embeddings()) if layer is not None]
    paths = [path for path, module in model.named_modules() if any(module is layer for layer in layers)]
    return any(path == name or path.endswith(f".{name}") for path in paths)


def find_decoder(model: PreTrainedModel) -> torch.nn.Module:
    """The part of a model that reads and writes text, without its output layer."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    return decoder if isinstance(decoder, PreTrainedModel) and decoder is not model else model.base_model


def find_layer_lists(model: PreTrainedModel) -> list[str]:
    """Paths of the lists of decoder layers: one, but for families that keep attention and MLP in lists of their own."""
    wanted = num_layers(model)
    found = [
        path
        for path, module in _walk_decoder(model)
        if isinstance(module, torch.nn.ModuleList) and len(module) == wanted
    ]
    return [path for path in found if path.rpartition(".")[0] == found[0].rpartition(".")[0]]


def _walk_decoder(model: PreTrainedModel) -> Iterator[tuple[str, torch.nn.Module]]:
    """Paths and modules of the decoder, without towers that are in it."""
    decoder = find_decoder(model)
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    for path, module in decoder.named_modules(prefix=prefix):
        if not TOWER.search(path.removeprefix(prefix)):
            yield path, module


def num_layers(model: PreTrainedModel) -> int | None:
    """Layers of the decoder as its config counts them."""
    count: int | None = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    return count


def kind_of(path: str) -> str:
    """`attention` for layers.0.self_attn.q_proj; a family's own name if none of ours fits."""
    _, *inside = re.split(r"\.\d+\.", path, maxsplit=1)
    inner = inside[0] if inside else path.rpartition(".")[2]
    return next((kind for kind, pattern in KINDS if re.search(pattern, inner)), inner.split(".")[0])


def describe_targets(targets: Sequence[Target]) -> str:
    """`attention (q_proj, v_proj), MLP (down_proj)`: the names of each kind, in the order of the model."""
    names: dict[str, dict[str, None]] = {}
    for target in targets:
        names.setdefault(target.kind, {})[target.name] = None
    return ", ".join(f"{kind} ({', '.join(parts)})" for kind, parts in names.items())


def list_adapted(model: torch.nn.Module) -> list[Target]:
    """The adapted modules, in the order of the model; PEFT nests the wrappers of a module's parameters."""
    found: list[Target] = []
    for path, module in model.named_modules():
        if isinstance(module, LoraLayer) and len(module.lora_A):
            parameter = getattr(module, "parameter_name", None)
            full = path.replace(".base_layer", "") + (f".{parameter}" if parameter else "")
            kind = EXPERTS if parameter and "shared" not in path else kind_of(path)
            is_inner = ".base_layer" in path and parameter is not None  # it comes before the wrapper around it
            found.insert(len(found) - is_inner, Target(full, kind, parameter is not None, 0))
    return found


def warn_of_unadapted(model: PreTrainedModel, chosen: Sequence[Target], layers: Sequence[int] | None) -> list[str]:
    """One line for the kinds of layer that could have an adapter and have none, one for those that cannot have any."""
    everything = choose_targets(model, ("auto",), layers)
    total = sum(count_weights(weight) for weight in model.parameters())
    adapted = {target.kind for target in chosen}
    lines = []
    if without := [target for target in everything if target.kind not in adapted]:
        share = sum(target.num_weights for target in without) / total
        lines.append(
            f"WARNING no adapter on {describe_targets(without)}: {share:.1%} of the weights stay as they are; "
            "--target_modules auto adapts them"
        )
    if impossible := _find_impossible(model):
        share = sum(target.num_weights for target in impossible) / total
        if share >= SHARE_TOLD:
            lines.append(f"WARNING no adapter can be put on {describe_targets(impossible)}: {share:.1%} of the weights")
    return lines


def describe_unpacked(model: PreTrainedModel) -> str | None:
    """The experts of a 4-bit model that stay unpacked: `experts (w1) stay in bfloat16, 12.3 GB`; None if all are."""
    unpacked = [target for target in find_targets(model) if target.is_expert]
    weights = [model.get_parameter(target.path) for target in unpacked]
    kept = [(target, weight) for target, weight in zip(unpacked, weights, strict=True) if weight.is_floating_point()]
    if not kept:
        return None
    size = sum(weight.numel() * weight.element_size() for _, weight in kept)
    kind = str(kept[0][1].dtype).removeprefix("torch.")
    return (
        f"WARNING {describe_targets([target for target, _ in kept])} stay in {kind}, {size / 2**30:.1f} GB: this "
        "family computes its experts in a way of its own, which takes no weights in 4 bits"
    )


def _find_impossible(model: PreTrainedModel) -> list[Target]:
    """Matrices of the decoder that are neither linear layers nor experts in a form that PEFT knows."""
    known = {target.path for target in find_targets(model)}
    found = []
    for path, module in _walk_decoder(model):
        if isinstance(module, LINEAR) and not is_called(model, path):
            found.append(Target(path, kind_of(path), False, count_weights(module.weight)))
        elif not isinstance(module, (*LINEAR, *CONVOLUTION, torch.nn.Embedding)) and not ROUTER.search(path):
            found += [
                Target(f"{path}.{name}", kind_of(path), True, count_weights(weight))
                for name, weight in module.named_parameters(recurse=False)
                if f"{path}.{name}" not in known and len(shape_of(weight)) >= 2
            ]
    return found


def name_to_peft(model: PreTrainedModel, config: LoraConfig, chosen: Sequence[Target]) -> None:
    """Write the chosen layers into a configuration, by short names if PEFT finds the same layers by them.

    Experts are given by their paths, because PEFT knows no layers_to_transform for parameters.
    """
    linear = [target for target in chosen if not target.is_expert]
    config.target_modules = {target.name for target in linear}
    matched = {path for path, _ in model.named_modules() if check_target_module_exists(config, path) is True}
    if matched != {target.path for target in linear}:
        config.target_modules, config.layers_to_transform = {target.path for target in linear}, None
    config.target_parameters = [target.path for target in chosen if target.is_expert] or None


@contextmanager
def own_names() -> Iterator[None]:
    """Inside, PEFT takes names unchanged.

    Outside, in two dozen families of experts, it takes gate_proj, up_proj and down_proj for the experts of transformers
    4, and silently adapts neither shared experts nor dense layers of that name.
    """
    convert = transformers_weight_conversion.convert_peft_config_for_transformers
    transformers_weight_conversion.convert_peft_config_for_transformers = lambda *_, **__: None
    try:
        yield
    finally:
        transformers_weight_conversion.convert_peft_config_for_transformers = convert


def shape_of(weight: torch.Tensor) -> tuple[int, ...]:
    """The unpacked shape of a weight, also if it is packed into 4 bits."""
    state = getattr(weight, "quant_state", None)
    return tuple(state.shape if state is not None else weight.shape)


def count_weights(weight: torch.Tensor) -> int:
    """Number of values of a tensor, also if it is packed into 4 bits."""
    return math.prod(shape_of(weight))
