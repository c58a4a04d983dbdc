"""What is trained: an adapter on frozen weights, the last layers, or everything. One function a method, one report.

model = apply_method(model, settings)          # method lora, qlora, freeze or full; nothing else is trainable
describe_trainable(model)                      # "trains 4,884,480 of 139,399,488 weights (3.50 %): ..."
"""

from collections.abc import Iterable

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from sft.config.train import TrainSettings
from sft.errors import ModelError
from sft.models.fused_lora import share_inputs, with_fused_layers
from sft.models.head import SCORE
from sft.models.precision import is_launched_sharded

EVERY_PART = "all"


def apply_method(model: PreTrainedModel, settings: TrainSettings) -> PreTrainedModel | PeftModel:
    """The model with exactly the weights trainable that the settings name; those are in fp32, whatever the base is.

    Raises ModelError for a module or a number of layers that the model does not have.
    """
    if settings.has_adapter:
        return add_lora(model, settings)
    model.requires_grad_(False)
    if settings.method == "full":
        model.requires_grad_(True)
    else:
        extra = (*settings.freeze_extra_modules, *([SCORE] if settings.is_classifier else []))
        for weight in _last_layers(model, settings) + _extra_modules(model, extra):
            weight.requires_grad_(True)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ModelError("method freeze: nothing would be trained; raise --freeze_trainable_layers")
    for weight in model.parameters():
        if weight.requires_grad:  # an update of 1e-5 of a weight is lost in the 8 bits of bf16's mantissa
            weight.data = weight.data.float()
    return model


def add_lora(model: PreTrainedModel, settings: TrainSettings) -> PeftModel:
    """A fresh adapter on the named linear layers; its weights are fp32 whatever the base is.

    LoRA 2106.09685, rank-stabilised 2312.03732, DoRA 2402.09353.
    """
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    if missing := [name for name in settings.target_modules if name not in names]:
        raise ModelError(f"target_modules {missing} are not in this model; it has {sorted(names - {'lm_head', SCORE})}")
    whole = [_find_module(model, name) for name in settings.modules_to_save]
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.target_modules),
        layers_to_transform=adapted_layers(model.config.num_hidden_layers, settings.lora_layers),
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
        modules_to_save=whole or None,
        ensure_weight_tying=bool(whole) and embeddings_are_tied(model),  # else one of the two would stay behind
        task_type="SEQ_CLS" if settings.is_classifier else "CAUSAL_LM",  # peft then trains and saves the head, too
    )
    if not is_launched_sharded():  # weights in pieces are put together by the forward of the layer that holds them
        with_fused_layers(config)
    torch.manual_seed(settings.seed)  # the adapter's first weights
    adapted = get_peft_model(model, config)
    share_inputs(adapted)
    return adapted


def adapted_layers(num_layers: int, last: int | None) -> list[int] | None:
    """Indices of the layers that get an adapter: 30, 3 -> [27, 28, 29]; None means all of them.

    The backward pass ends at the lowest adapted layer, so fewer layers cost less time.
    """
    if last is None:
        return None
    if last > num_layers:
        raise ModelError(f"lora_layers is {last}, but the model has {num_layers} layers; lower --lora_layers")
    return list(range(num_layers - last, num_layers))


def embeddings_are_tied(model: PreTrainedModel) -> bool:
    """Whether the input embedding and the output layer are one and the same tensor."""
    output = model.get_output_embeddings()
    return output is not None and output.weight is model.get_input_embeddings().weight


def describe_trainable(model: PreTrainedModel | PeftModel) -> str:
    """One line with what is really trained and its share: `trains 514 of 1,543 weights (33.31 %): layers 22-27, ...`.

    Tensors that two modules share count once, and the line says so.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    total = sum(_count(weight) for weight in model.parameters())
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    num_trained = sum(_count(weight) for _, weight in trained)
    line = f"trains {num_trained:,} of {total:,} weights ({num_trained / total:.2%}): {_summarise(trained)}"
    if embeddings_are_tied(base) and any(weight is base.get_input_embeddings().weight for _, weight in trained):
        share = _count(base.get_input_embeddings().weight) / total
        line += f"; embed_tokens is also the output layer (tied), {share:.1%} of all weights"
    return line


def _last_layers(model: PreTrainedModel, settings: TrainSettings) -> list[torch.nn.Parameter]:
    layers, wanted = decoder_layers(model), settings.freeze_trainable_layers
    if wanted > len(layers):
        raise ModelError(
            f"freeze_trainable_layers is {wanted}, but the model has {len(layers)} layers; "
            "lower --freeze_trainable_layers, or take --method full"
        )
    parts = settings.freeze_trainable_modules
    named = [item for layer in list(layers)[len(layers) - wanted :] for item in layer.named_parameters()]
    known = {part for name, _ in named for part in name.split(".")[:-1]}
    if missing := [part for part in parts if part not in known | {EVERY_PART}]:
        raise ModelError(f"freeze_trainable_modules {missing} are in no layer; a layer has {sorted(known)}")
    return [weight for name, weight in named if EVERY_PART in parts or set(parts) & set(name.split("."))]


def _extra_modules(model: PreTrainedModel, names: Iterable[str]) -> list[torch.nn.Parameter]:
    return [weight for name in names for weight in model.get_submodule(_find_module(model, name)).parameters()]


def _find_module(model: PreTrainedModel, wanted: str) -> str:
    """The path of a module outside the decoder layers, named exactly: norm -> model.norm, never input_layernorm.

    A full path may also lead into a layer: model.layers.0.mlp.
    """
    within = tuple(f"{name}." for name, module in model.named_modules() if module is decoder_layers(model))
    paths = [name for name, module in model.named_modules() if name and any(True for _ in module.parameters())]
    outside = {path.rsplit(".", 1)[-1]: path for path in paths if not path.startswith(within)}
    if wanted in paths:
        return wanted
    if wanted not in outside:
        raise ModelError(f"module {wanted!r}: not in this model; outside its layers it has {sorted(outside)}")
    return outside[wanted]


def decoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The layers of a decoder, in order; raises ModelError for a model that has no such list."""
    for module in model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == model.config.num_hidden_layers:
            return module
    raise ModelError(f"{type(model).__name__} has no list of decoder layers; take --method lora or full")


def _summarise(trained: list[tuple[str, torch.nn.Parameter]]) -> str:
    """`LoRA on q_proj, v_proj in layers 0-29; score`, `layers 22-27, embed_tokens, norm`, in the order of the model."""
    adapted: dict[str, None] = {}
    parts: dict[str, None] = {}
    layers: set[int] = set()
    for name, _ in trained:
        path = name.split(".")
        number = next((int(part) for part in path if part.isdigit()), None)
        if number is not None:
            layers.add(number)
        if ".lora_" in name:
            adapted[path[next(i for i, part in enumerate(path) if part.startswith("lora_")) - 1]] = None
        elif number is None:
            parts[next(part for part in reversed(path) if part not in ("weight", "bias", "default", _SAVED))] = None
    span = f"layers {min(layers)}-{max(layers)}" if layers else ""
    if layers and len(layers) == 1:
        span = f"layer {min(layers)}"
    if adapted:
        return "; ".join([f"LoRA on {', '.join(adapted)} in {span}", *parts])
    return ", ".join(part for part in (span, *parts) if part)


def _count(weight: torch.nn.Parameter) -> int:
    """Numbers that a tensor stands for: two a byte where it holds 4 bits."""
    return int(weight.numel()) * (2 * weight.element_size() if type(weight).__name__ == "Params4bit" else 1)


_SAVED = "modules_to_save"
