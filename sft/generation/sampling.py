"""From the model's logits to the next token: penalties on the answer alone, then a draw that depends on the row alone.

transformers' own penalties count the prompt in, so that words of the question (and padding) are punished. And its draw
takes random numbers for the whole batch at once, so that a row's answer depends on its neighbours. Here each row has a
generator of its own: an answer is the same alone, in any batch, in any order and on any thread.
"""

import hashlib
from collections.abc import Sequence

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from sft.config.decoding import Decoding


def make_processors(
    decoding: Decoding, prompts: Sequence[Sequence[int]], padded_length: int, device: torch.device
) -> LogitsProcessorList:
    """What turns logits (B, V) into scores whose argmax is the next token; made anew for every batch.

    padded_length is the width of the padded prompts: what stands behind it is the answer.
    """
    processors = LogitsProcessorList()
    if decoding.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(decoding.repetition_penalty, padded_length))
    if decoding.no_repeat_ngram_size > 0:
        processors.append(NoRepeatedNgrams(decoding.no_repeat_ngram_size, padded_length))
    if decoding.temperature > 0:
        if decoding.temperature != 1.0:
            processors.append(TemperatureLogitsWarper(float(decoding.temperature)))
        if decoding.top_p < 1.0:
            processors.append(TopPLogitsWarper(decoding.top_p))
        processors.append(DrawPerRow([row_seed(decoding.seed, prompt) for prompt in prompts], device))
    return processors


def keep_rows(processors: LogitsProcessorList, places: Sequence[int]) -> None:
    """Only these rows of a batch go on."""
    for processor in processors:
        if isinstance(processor, DrawPerRow):
            processor.generators = [processor.generators[place] for place in places]


class NoRepeatedNgrams(LogitsProcessor):
    """No run of `size` tokens occurs twice in an answer; prompt and padding do not count.

    size 2, answer so far [5, 7, 9, 5]: 7 is ruled out, since 5 7 has been said.
    """

    def __init__(self, size: int, padded_length: int) -> None:
        self.size = size
        self.padded_length = padded_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        for row, answer in enumerate(input_ids[:, self.padded_length :].tolist()):
            ruled_out = repeating_tokens(answer, self.size)
            if ruled_out:
                scores[row, ruled_out] = -torch.inf
        return scores


def repeating_tokens(answer: list[int], size: int) -> list[int]:
    """Tokens that would complete a run of `size` tokens for the second time: [5, 7, 9, 5], 2 -> [7]."""
    last = answer[len(answer) - size + 1 :] if size > 1 else []
    starts = range(len(answer) - size + 1)
    return [answer[start + size - 1] for start in starts if answer[start : start + size - 1] == last]


class DrawPerRow(LogitsProcessor):
    """Draws one token per row: the argmax of p / e with e ~ Exp(1) is a draw from p (the Gumbel-max trick)."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        noise = torch.empty_like(scores)  # (B, V)
        for row, generator in zip(noise, self.generators, strict=True):
            row.exponential_(generator=generator)
        return torch.softmax(scores, dim=-1) / noise


def row_seed(seed: int, prompt: Sequence[int]) -> int:
    """Seed of one prompt's draws, 63 bits: equal prompts draw equally, different ones independently."""
    digest = hashlib.sha256(f"{seed}:{list(prompt)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
