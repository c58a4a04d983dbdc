"""What a model's layers can do, read from its config: the one place that knows kinds of layers.

Attention over all keys before a token, or over a window of them, can be computed for rows concatenated and for a
prefix that rows share. Layers that carry a state from token to token (Gated DeltaNet, Mamba, short convolutions) share
nothing, and are concatenated only where the states of rows can be kept apart; attention with soft caps, sinks or
biases is transformers' own. Whatever is not known here is padded and shares nothing. What is promised here is proven by
sft.models.selfcheck.

    read_layers(model)        # Layers(flat=False, shares=False, records=False, why="its linear_attention layers ...")
"""

import inspect
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import NamedTuple

import torch
from transformers import PreTrainedModel
from transformers.cache_utils import get_layer_types_and_kwargs

from sft.kernels import decode_attention, row_convolution

ATTENDS = frozenset({"full_attention", "sliding_attention"})  # layer types whose attention is ours
# Layer types that carry a state or a few tokens from one token to the next, by transformers' names.
CARRIES = frozenset({"linear_attention", "conv", "mamba", "hybrid", "hybrid_sliding", "recurrent"})
EAGER = "eager"  # transformers' plain attention, which knows all arguments of its family
# Config fields that change attention in ways which neither PyTorch's attention nor ours computes, by what they mean.
NEEDS_EAGER: Mapping[str, str] = {"attn_logit_softcapping": "soft caps on attention scores"}
NEEDS_OTHER: Mapping[str, str] = {
    "use_bidirectional_attention": "attention to later tokens",
    "alibi": "a bias by distance (ALiBi)",
    "attention_chunk_size": "attention within chunks",
    "index_topk": "attention to chosen tokens only",
}
DELTA_RULE = "chunk_gated_delta_rule"  # the function of Gated DeltaNet, which flash-linear-attention has a kernel for


class Layers(NamedTuple):
    """The ways in which a model's layers can compute rows."""

    flat: bool  # rows concatenated, each computed as if it were alone
    shares: bool  # shared prefixes can be computed once
    records: bool  # passes recorded as CUDA graphs
    why: str  # what prevents it; "" if nothing does
    embeds: bool = True  # embeddings of tokens are all that layers need, not the tokens themselves
    apart: bool = False  # kernels of layers with states get the start of each row (seq_idx) and keep their states apart


def padded(why: str) -> Layers:
    """Nothing but padded rows."""
    return Layers(flat=False, shares=False, records=False, why=why)


def read_layers(model: PreTrainedModel) -> Layers:
    """What the layers of a model promise by their config; everything unknown is padded."""
    config = model.config.get_text_config(decoder=True)
    kinds = set(get_layer_types_and_kwargs(config)[0])
    if unknown := kinds - ATTENDS - CARRIES:
        return padded(f"layers of the kind {', '.join(sorted(unknown))} are not known here")
    if carrying := ", ".join(sorted(kinds & CARRIES)) or _find_convolution(model):
        return _read_carrying(model, carrying)
    if not model._supports_attention_backend:
        return padded(f"the attention of {type(model).__name__} cannot be exchanged")
    if why := find_own_attention(model):
        return padded(f"{why}, computed by transformers' own attention")
    if found := [meaning for name, meaning in NEEDS_OTHER.items() if getattr(config, name, None)]:
        return padded(f"it has {found[0]}")
    return Layers(flat=True, shares=True, records=not getattr(config, "attention_dropout", 0), why="")


def _read_carrying(model: PreTrainedModel, kinds: str) -> Layers:
    """Capabilities of a model whose layers carry a state: flat rows if the states of rows can be kept apart.

    Short convolutions can (sft.kernels.row_convolution), Gated DeltaNet by the kernels of flash-linear-attention; other
    states are not tried.
    """
    why = f"{kinds} layers carry a state from token to token"
    source = inspect.getsource(inspect.getmodule(type(model)) or type(model))
    others = ("selective_scan", "chunk_scan", "kda", "lightning", "rg_lru")
    if row_convolution.NAME not in source or any(o in source for o in others):
        return padded(why)
    if DELTA_RULE in source and (find_spec("fla") is None or model.device.type != "cuda"):
        helps = model.device.type == "cuda"
        return padded(f"{why}; with flash-linear-attention installed they are faster" if helps else why)
    row_convolution.heed_rows(model)
    return Layers(flat=True, shares=False, records=False, why="", apart=True)


def _find_convolution(model: PreTrainedModel) -> str:
    """A kind of layer that no config names: "convolution" if there is one over tokens."""
    return "convolution" if any(isinstance(module, torch.nn.Conv1d) for module in model.modules()) else ""


def find_own_attention(model: PreTrainedModel) -> str:
    """Why a model has to have transformers' eager attention: "soft caps on attention scores"; "" if it need not."""
    config = model.config.get_text_config(decoder=True)
    if found := [meaning for name, meaning in NEEDS_EAGER.items() if getattr(config, name, None) is not None]:
        return found[0]
    return "" if model._supports_sdpa else f"attention that PyTorch's does not compute ({type(model).__name__})"


def choose_attention(model: PreTrainedModel) -> None:
    """Give a model the attention that computes its layers right: ours for few queries, else transformers' eager one."""
    if model.config._attn_implementation == decode_attention.NAME and find_own_attention(model):
        model.config._attn_implementation = EAGER


def with_attention(make: Callable[[str], PreTrainedModel]) -> PreTrainedModel:
    """A model that `make` builds with the attention of that name, the fastest that computes its layers right.

    Old families know only a few names and stumble over ours before any weight is read.
    """
    try:
        model = make(decode_attention.NAME)
    except KeyError as error:
        if error.args != (decode_attention.NAME,):
            raise
        model = make(EAGER)
    choose_attention(model)
    return model
