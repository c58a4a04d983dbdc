"""Arguments of attention functions besides queries, keys and values: which may be ignored and which may not.

transformers passes on whatever a layer wants (a window, a soft cap, sinks), and its functions swallow what they do not
know. Ours refuse it: an argument that changes the result is computed, or it raises.

    refuse_unknown({"softcap": 50.0})      # UnknownArgument: attention with softcap=50.0
"""

from collections.abc import Mapping

import torch

from sft.errors import ModelError

# Arguments that reach an attention function because layers pass on all of theirs; none changes the result.
IGNORABLE = {
    "position_ids": "rotated into queries and keys before attention",
    "position_embeddings": "rotated into queries and keys before attention",
    "cache_position": "where the cache writes",
    "past_key_values": "updated by the layer before attention",
    "use_cache": "whether the layer keeps keys and values",
    "output_attentions": "returns weights besides the result; the result is the same",
    "output_hidden_states": "asks for more outputs; the result is the same",
    "output_router_logits": "asks for more outputs of the experts",
    "return_dict": "the form of the model's output",
    "num_items_in_batch": "what the loss is divided by",
    "logits_to_keep": "which positions the output layer reads",
    "seq_idx": "keeps rows apart in layers with a convolution",
    "cu_seqlens": "keeps rows apart in layers with a state",
    "layer_idx": "the number of the layer",
    "input_ids": "read by hash layers and per-layer embeddings, not by attention",
    "cu_seq_lens_q": "row bounds of flat rows",
    "cu_seq_lens_k": "row bounds of flat rows",
    "max_length_q": "longest row of flat rows",
    "max_length_k": "longest row of flat rows",
}


class UnknownArgument(ModelError):
    """Attention of a kind that the function at hand does not compute."""


def refuse_unknown(arguments: Mapping[str, object]) -> None:
    """Raise UnknownArgument for the first argument that may change the result; None is ignored."""
    for name, value in arguments.items():
        if name not in IGNORABLE and value is not None and not (name == "is_causal" and value is True):
            shown = f"tensor {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
            raise UnknownArgument(f"attention with {name}={shown}")
