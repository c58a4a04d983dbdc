"""The one call of transformers' generate, with every setting spelled out: for one answer that is read as it is written.

Many answers at once: sft.generation.decode.
"""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from sft.config.decoding import Decoding
from sft.errors import ModelError
from sft.generation.prefix import pad_behind
from sft.generation.sampling import make_processors
from sft.models.loaded import LoadedModel, in_eval_mode


class ExplicitConfig(GenerationConfig):
    """A generation config that takes over nothing from the one in the model's folder.

    generate() fills every value that is None from model.generation_config: a Qwen2.5 folder would add its own
    repetition penalty, another one suppressed tokens. Here such values stay what transformers' neutral defaults say.
    """

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **values: object) -> dict:
        """Set values, as transformers' own; with defaults_only, neutral ones in the place of the model's."""
        if defaults_only:
            values = GenerationConfig._get_default_generation_params()
            del values["max_length"]  # it would only raise a warning beside max_new_tokens
        return super().update(defaults_only=defaults_only, **values)


def call_generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    max_new_tokens: int,
    *,
    streamer: BaseStreamer | None = None,
    stopping: StoppingCriteriaList | None = None,
) -> list[list[int]]:
    """New token ids of each prompt, up to and with its end token where it wrote one: [[5303, 2], [17, 4, 2]].

    The prompts are padded on the left, so that every answer continues from the last column.
    """
    width = max(map(len, prompts))
    pad_id, end_ids = loaded.chat.pad_id, loaded.chat.end_ids
    ids, mask = pad_behind(prompts, 0, pad_id)
    device = torch.device(loaded.device)
    config = ExplicitConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,  # the last processor draws; what is left to do is an argmax
        num_beams=1,
        eos_token_id=list(end_ids),
        pad_token_id=pad_id,
        use_cache=True,
    )
    with in_eval_mode(loaded.model):
        output = loaded.model.generate(
            input_ids=ids.to(device),  # (B, width)
            attention_mask=mask.to(device),
            generation_config=config,
            logits_processor=make_processors(decoding, prompts, width, device),
            stopping_criteria=stopping,
            streamer=streamer,
        )  # (B, width + new)
    return [cut_at_end(row, end_ids) for row in output[:, width:].tolist()]


def cut_at_end(ids: list[int], end_ids: Sequence[int]) -> list[int]:
    """Ids up to and with the first end token; padding follows it in a batch: [7, 8, 2, 0, 0], (2,) -> [7, 8, 2]."""
    end = next((place for place, token in enumerate(ids) if token in end_ids), len(ids) - 1)
    return ids[: end + 1]


def count_room(loaded: LoadedModel, prompt: Sequence[int], decoding: Decoding) -> int:
    """Tokens the answer to a prompt may have: decoding.max_new_tokens, fewer where the model's context ends.

    Raises ModelError where the prompt leaves no room at all.
    """
    room = loaded.max_context - len(prompt)
    if room < 1 or not prompt:
        raise ModelError(
            f"the prompt takes {len(prompt):,} tokens, the model reads {loaded.max_context:,}, question and answer "
            "together; shorten the text"
        )
    return min(decoding.max_new_tokens, room)
