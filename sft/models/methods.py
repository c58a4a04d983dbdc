"""What is trained: an adapter on frozen weights, the last layers, or everything. One function per method, one report.

model = apply_method(model, settings)          # method lora, qlora, freeze or full; nothing else is trainable
describe_trainable(model)                      # "trains 4,884,480 of 139,399,488 weights (3.50 %): ..."
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from sft.backend import is_launched_sharded
from sft.config.train import TrainSettings
from sft.console import say
from sft.errors import ModelError
from sft.kernels.four_bit import no_other_kinds
from sft.kernels.lora import share_inputs, with_fused_layers
from sft.models.head import SCORE
from sft.models.targets import (
    Target,
    choose_targets,
    count_weights,
    describe_targets,
    find_layer_lists,
    list_adapted,
    name_to_peft,
    own_names,
    warn_of_unadapted,
)

EVERY_PART = "all"


def apply_method(model: PreTrainedModel, settings: TrainSettings) -> PreTrainedModel | PeftModel:
    """The model with exactly those weights trainable that the settings name, in fp32 for every base.

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
    """A fresh adapter on the named linear layers; its weights are always fp32.

    LoRA 2106.09685, rank-stabilised 2312.03732, DoRA 2402.09353.
    """
    layers = adapted_layers(model.config.get_text_config(decoder=True).num_hidden_layers, settings.lora_layers)
    chosen = choose_targets(model, settings.target_modules, layers)
    check_experts(settings, chosen)
    for line in warn_of_unadapted(model, chosen, layers):
        say(line)
    whole = [_find_module(model, name) for name in settings.modules_to_save]
    config = LoraConfig(
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        layers_to_transform=layers,
        use_dora=settings.use_dora,
        use_rslora=settings.use_rslora,
        modules_to_save=whole or None,
        ensure_weight_tying=bool(whole) and embeddings_are_tied(model),  # else only one of the two would be trained
        task_type="SEQ_CLS" if settings.is_classifier else "CAUSAL_LM",  # peft then trains and saves the head, too
    )
    name_to_peft(model, config, chosen)
    if not is_launched_sharded():  # weights in pieces are put together by the forward of the layer that holds them
        with_fused_layers(config, model)
    torch.manual_seed(settings.seed)  # the adapter's first weights
    with own_names(), no_other_kinds():
        adapted = get_peft_model(model, config)
    share_inputs(adapted)
    return adapted


def check_experts(settings: TrainSettings, chosen: Sequence[Target]) -> None:
    """Raises ModelError for options that PEFT does not have for experts in one tensor."""
    names = sorted({target.name for target in chosen if target.is_expert})
    wanted = [("--lora_dropout", settings.lora_dropout, "--lora_dropout 0"), ("--use_dora", settings.use_dora, "")]
    for flag, is_on, remedy in wanted:
        if names and is_on:
            others = ",".join(dict.fromkeys(target.name for target in chosen if not target.is_expert)) or "other layers"
            raise ModelError(
                f"{flag}: not supported for experts stored in one tensor ({', '.join(names)}); "
                f"{f'take {remedy}' if remedy else f'leave {flag} out'}, or adapt no expert: --target_modules {others}"
            )


def names_for_unsloth(model: PreTrainedModel, settings: TrainSettings) -> list[str]:
    """What the settings adapt, as Unsloth takes it: names of linear layers. Raises ModelError for experts."""
    chosen = choose_targets(model, settings.target_modules)
    names = list(dict.fromkeys(target.name for target in chosen if not target.is_expert))
    if experts := sorted({target.name for target in chosen if target.is_expert}):
        raise ModelError(
            f"backend unsloth: cannot adapt experts stored in one tensor ({', '.join(experts)}); use --backend "
            f"transformers, or adapt the other layers alone: --target_modules {','.join(names)}"
        )
    return names


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
    """One line with the weights that are really trained and their share: `trains 514 of 1,543 weights (33.31 %): layers
    22-27, ...`.

    Tensors that two modules share count once, and the line says so.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    total = sum(count_weights(weight) for weight in model.parameters())
    trained = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
    num_trained = sum(count_weights(weight) for _, weight in trained)
    what = _summarise(trained, list_adapted(model))
    line = f"trains {num_trained:,} of {total:,} weights ({num_trained / total:.2%}): {what}"
    if embeddings_are_tied(base) and any(weight is base.get_input_embeddings().weight for _, weight in trained):
        share = count_weights(base.get_input_embeddings().weight) / total
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
    for path in find_layer_lists(model)[:1]:
        return cast(torch.nn.ModuleList, model.get_submodule(path))
    raise ModelError(f"{type(model).__name__} has no list of decoder layers; take --method lora or full")


def _summarise(trained: list[tuple[str, torch.nn.Parameter]], adapted: Sequence[Target]) -> str:
    """`LoRA on attention (q_proj), MLP (up_proj) in layers 0-29; score`, `layers 22-27, norm`, in the model's order."""
    parts: dict[str, None] = {}
    layers: set[int] = set()
    for name, _ in trained:
        path = name.split(".")
        number = next((int(part) for part in path if part.isdigit()), None)
        if number is not None:
            layers.add(number)
        elif ".lora_" not in name:
            parts[next(part for part in reversed(path) if part not in ("weight", "bias", "default", _SAVED))] = None
    span = f"layers {min(layers)}-{max(layers)}" if layers else ""
    if layers and len(layers) == 1:
        span = f"layer {min(layers)}"
    if adapted:
        return "; ".join([f"LoRA on {describe_targets(adapted)} in {span}", *parts])
    return ", ".join(part for part in (span, *parts) if part)


_SAVED = "modules_to_save"
