"""transformers' own `generate`, for models whose keys and values our decoding loop cannot be trusted with, and Unsloth.

    call_generate(loaded, [prompt_ids], decoding, 64)          # [[5303, 2]]

Every setting is spelled out, and tokens are chosen by sft.generation.sampling, as in our own loop
(sft.generation.decode). All rows are carried on until the longest answer ends.
"""

from collections.abc import Callable, Sequence

import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from sft.config.decoding import Decoding
from sft.generation.prefix import pad_behind
from sft.generation.sampling import Sampler, weigh
from sft.models.loaded import LoadedModel, in_eval_mode


class ExplicitConfig(GenerationConfig):
    """A generation config that takes over nothing from the one in the model's folder.

    generate() fills every value that is None from model.generation_config: a Qwen2.5 folder would add its own
    repetition penalty, another one suppressed tokens. Here such values stay what transformers' neutral defaults say.
    """

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **values: object) -> dict:
        """Set values, as transformers' own; with defaults_only, neutral ones instead of the model's."""
        if defaults_only:
            values = GenerationConfig._get_default_generation_params()
            del values["max_length"]  # it would only raise a warning beside max_new_tokens
        return super().update(defaults_only=defaults_only, **values)


class _Weigh(LogitsProcessor):
    """Scores whose argmax is the next token, from the answers after prompts of one padded width."""

    def __init__(self, samplers: Sequence[Sampler], width: int) -> None:
        self.samplers, self.width = samplers, width

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        return weigh(self.samplers, input_ids[:, self.width :].tolist(), scores)


class _HandOn(StoppingCriteria):
    """Hands each new token of the first row on, and ends the answer as soon as it is cancelled."""

    def __init__(self, deliver: Callable[[int], None], is_cancelled: Callable[[], bool]) -> None:
        self.deliver, self.is_cancelled = deliver, is_cancelled

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: object) -> torch.Tensor:
        self.deliver(int(input_ids[0, -1]))
        return torch.full((len(input_ids),), self.is_cancelled(), device=input_ids.device)


def call_generate(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    max_new_tokens: int,
    *,
    deliver: Callable[[int], None] = lambda token: None,
    is_cancelled: Callable[[], bool] = lambda: False,
) -> list[list[int]]:
    """New token ids of each prompt, up to and including its end token if it has one: [[5303, 2], [17, 4, 2]].

    The prompts are padded on the left, so that every answer continues from the last column. deliver gets each token of
    the first one.
    """
    width = max(map(len, prompts))
    pad_id, end_ids = loaded.chat.pad_id, loaded.chat.end_ids
    ids, mask = pad_behind(prompts, 0, pad_id)
    device = torch.device(loaded.device)
    config = ExplicitConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,  # the logits processor samples, so an argmax is left
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
            logits_processor=[_Weigh([Sampler(decoding, prompt, device) for prompt in prompts], width)],
            stopping_criteria=[_HandOn(deliver, is_cancelled)],
        )  # (B, width + new)
    return [cut_at_end(row, end_ids) for row in output[:, width:].tolist()]


def cut_at_end(ids: list[int], end_ids: Sequence[int]) -> list[int]:
    """Ids up to and with the first end token; padding follows it in a batch: [7, 8, 2, 0, 0], (2,) -> [7, 8, 2]."""
    end = next((index for index, token in enumerate(ids) if token in end_ids), len(ids) - 1)
    return ids[: end + 1]
