"""How much an evaluation has in memory at once: never more than the training of its run had.

What training held beside the weights (activations for the backward pass, gradients, the optimizer's state) is divided
between a forward pass, which keeps nothing, and the keys and values of answers in the making.
"""

import torch
from transformers import PretrainedConfig

from sft.generation.batch import Room, usual_room
from sft.models.loaded import LoadedModel
from sft.runs import Run

ON_CPU = Room(tokens=1024, cache_bytes=2**27)  # 5,800 tokens of SmolLM2-135M in bf16
FEWEST_TOKENS = 256
LEAST_CACHE_BYTES = 2**26
GIBIBYTE = 2**30


def plan_room(run: Run, loaded: LoadedModel) -> Room:
    """What a batch may take: on a GPU by the training's peak, on a CPU, where the libraries take most of it, little."""
    if loaded.device.type != "cuda":
        return ON_CPU
    usual, peak_gb = usual_room(loaded), run.metrics.get("peak_gb")
    if not isinstance(peak_gb, int | float):
        return usual
    beside = int(peak_gb * GIBIBYTE) - loaded.causal_lm.get_memory_footprint()
    return divide(beside, loaded.causal_lm.config, loaded.precision.dtype, usual)


def divide(beside_weights: int, config: PretrainedConfig, dtype: torch.dtype, usual: Room) -> Room:
    """Half of the bytes for a forward pass, half for keys and values; at most the usual, and enough to work with."""
    config, half = config.get_text_config(), beside_weights // 2
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    # One layer's own: both halves of the gated MLP, their product, six states; twice that, for copies of it.
    bytes_a_token = 2 * dtype.itemsize * (3 * inner + 6 * config.hidden_size)
    return Room(
        min(usual.tokens, max(FEWEST_TOKENS, half // bytes_a_token)),
        min(usual.cache_bytes, max(LEAST_CACHE_BYTES, half)),
    )
