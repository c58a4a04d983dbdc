"""RoPE scaling: a model reads more tokens than it was built for, by what is put into its config before it is built.

    config = read_config(source)                                      # Qwen2.5-7B-Instruct: 32,768 positions
    chosen = choose_rope_scaling(config, "yarn", 100_000)             # "yarn:4:32768"
    describe_rope(config, chosen)
    # {"rope_parameters": {"rope_theta": 1000000.0, "rope_type": "yarn", "factor": 4.0, ...},
    #  "max_position_embeddings": 131072}

YaRN (2309.00071) stretches the slow rotations and leaves the fast ones; `linear` (2306.15595) stretches all. Both are
the same for every row, whatever its length. What was chosen is part of a base's identity: adapters go with it.
"""

import math

from transformers import PreTrainedConfig

from sft.errors import ModelError


def choose_rope_scaling(config: PreTrainedConfig, wanted: str, longest: int) -> str:
    """What is wanted, spelled out: "yarn" for rows of 100,000 tokens -> "yarn:4:32768", the tokens of pretraining last.

    Raises ModelError for a model whose positions are not rotated, or are scaled already.
    """
    kind, *numbers = wanted.split(":")
    rope, text = getattr(config, "rope_parameters", None), config.get_text_config(decoder=True)
    if text is not config or not isinstance(rope, dict) or "rope_theta" not in rope:
        raise ModelError(
            f"--rope_scaling {wanted}: a {config.model_type} model has no single rotary embedding to scale"
        )
    if (found := rope.get("rope_type", "default")) != "default":
        raise ModelError(f"--rope_scaling {wanted}: this model's config scales its positions already ({found})")
    original = int(numbers[1]) if len(numbers) > 1 else int(config.max_position_embeddings)
    factor = float(numbers[0]) if numbers else float(max(1, math.ceil(longest / original)))
    return f"{kind}:{factor:g}:{original}"


def describe_rope(config: PreTrainedConfig, scaling: str | None) -> dict[str, object]:
    """The fields of a config that make it read so, as choose_rope_scaling has it; none if nothing is scaled."""
    if scaling is None:
        return {}
    kind, factor, original = scaling.split(":")
    rope = {**config.rope_parameters, "rope_type": kind, "factor": float(factor)}
    if kind == "yarn":
        rope["original_max_position_embeddings"] = int(original)
    return {"rope_parameters": rope, "max_position_embeddings": int(float(factor) * int(original))}
