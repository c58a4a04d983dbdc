"""From logits to the next token: penalties on the answer only, then a draw that depends on the row only.

transformers' own penalties count the prompt in, so that words of the question (and padding) are punished. And its draw
takes random numbers for the whole batch at once, so that a row's answer depends on its neighbours. Here each row has a
generator of its own: an answer is the same alone, in any batch, in any order and on any thread.

    sampler = Sampler(decoding, prompt_ids, device)                      # one for each row of the batch
    weigh([sampler], [[5, 7, 9]], logits).argmax(-1)                     # (B, V) -> (B,)
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import TemperatureLogitsWarper, TopPLogitsWarper

from sft.config.decoding import DECODING, Decoding


class Kind(NamedTuple):
    """The decoding values of a row; rows with the same values are processed together."""

    temperature: float
    top_p: float
    repetition_penalty: float
    no_repeat_ngram_size: int

    @classmethod
    def of(cls, decoding: Decoding) -> "Kind":
        """That of some settings: of the same in all but seed and length, the same."""
        return cls(*(getattr(decoding, name) for name in cls._fields))


GREEDY = Kind.of(DECODING["precise"])  # the scores are the logits


class Sampler:
    """Sampling settings of one row, with its own random numbers if it needs any."""

    def __init__(self, decoding: Decoding, prompt_ids: Sequence[int], device: torch.device) -> None:
        self.kind = Kind.of(decoding)
        self.generator: torch.Generator | None = None
        if decoding.temperature > 0:
            self.generator = torch.Generator(device).manual_seed(row_seed(decoding.seed, prompt_ids))


def weigh(samplers: Sequence[Sampler], answers: Sequence[Sequence[int]], logits: torch.Tensor) -> torch.Tensor:
    """Logits (B, V) -> scores (B, V) whose argmax is each row's next token. answers: each row's tokens so far."""
    rows_of: dict[Kind, list[int]] = {}
    for row, sampler in enumerate(samplers):
        rows_of.setdefault(sampler.kind, []).append(row)
    if rows_of.keys() == {GREEDY}:
        return logits
    scores = logits.to(torch.float32, copy=True)
    for kind, rows in rows_of.items():
        generators, written = [samplers[row].generator for row in rows], [answers[row] for row in rows]
        if len(rows_of) == 1:
            return _weigh_alike(kind, generators, written, scores)
        scores[rows] = _weigh_alike(kind, generators, written, scores[rows])
    return scores


def _weigh_alike(
    kind: Kind, generators: Sequence[torch.Generator | None], answers: Sequence[Sequence[int]], scores: torch.Tensor
) -> torch.Tensor:
    """Scores (B, V) of rows of one kind, in fp32 -> (B, V); the given ones may be written over."""
    if kind.repetition_penalty != 1.0:
        punish_repeated(scores, answers, kind.repetition_penalty)
    if kind.no_repeat_ngram_size > 0:
        rule_out_repeated_ngrams(scores, answers, kind.no_repeat_ngram_size)
    if kind.temperature > 0:
        if kind.temperature != 1.0:
            scores = TemperatureLogitsWarper(float(kind.temperature))(None, scores)
        if kind.top_p < 1.0:
            scores = TopPLogitsWarper(kind.top_p)(None, scores)
        scores = draw(generators, scores)
    return scores


def punish_repeated(scores: torch.Tensor, answers: Sequence[Sequence[int]], penalty: float) -> None:
    """Tokens that an answer holds become less likely (above 1), in place: scores (B, V) / penalty, or * where negative.

    The CTRL paper's repetition penalty (1909.05858), within the answer only.
    """
    held = [(row, token) for row, answer in enumerate(answers) for token in set(answer)]
    if held:
        rows, tokens = torch.tensor(held, device=scores.device).T
        found = scores[rows, tokens]
        scores[rows, tokens] = torch.where(found < 0, found * penalty, found / penalty)


def rule_out_repeated_ngrams(scores: torch.Tensor, answers: Sequence[Sequence[int]], size: int) -> None:
    """Let no n-gram of `size` tokens repeat in an answer: scores (B, V) become -inf in place.

    size 2, answer so far [5, 7, 9, 5]: 7 is ruled out, since 5 7 has been said.
    """
    for row, answer in enumerate(answers):
        if ruled_out := repeating_tokens(list(answer), size):
            scores[row, ruled_out] = -torch.inf


def repeating_tokens(answer: list[int], size: int) -> list[int]:
    """Tokens that would complete a run of `size` tokens for the second time: [5, 7, 9, 5], 2 -> [7]."""
    last = answer[len(answer) - size + 1 :] if size > 1 else []
    starts = range(len(answer) - size + 1)
    return [answer[start + size - 1] for start in starts if answer[start : start + size - 1] == last]


def draw(generators: Sequence[torch.Generator | None], scores: torch.Tensor) -> torch.Tensor:
    """Scores (B, V) -> (B, V) whose argmax is a draw from p = softmax(scores) with each row's own random numbers.

    The argmax of p / e with e ~ Exp(1) is a draw from p (the Gumbel-max trick).
    """
    noise = torch.empty_like(scores)
    for row, generator in zip(noise, generators, strict=True):
        row.exponential_(generator=generator)
    return torch.softmax(scores, dim=-1) / noise


def row_seed(seed: int, prompt: Sequence[int]) -> int:
    """Seed of one prompt's draws, 63 bits: equal prompts draw equally, different ones independently."""
    digest = hashlib.sha256(f"{seed}:{list(prompt)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
