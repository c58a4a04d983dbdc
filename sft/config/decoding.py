"""How an answer is decoded: named presets, and flags that change single values.

DECODING["precise"]                                      # greedy, without penalties: what evaluate.py measures
choose_decoding("precise", max_new_tokens=64)            # the same, at most 64 tokens

Only chat.py samples by default, with penalties. Penalties spoil text that repeats itself for a reason: the
keys of JSON, a table, code.
"""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from sft.config.layers import Settings

Preset = Literal["chat", "precise"]


class Decoding(BaseModel):
    """Every value that decides an answer; recommendations in the model's own files are ignored.

    Both penalties look at the answer alone: words of the question may always be repeated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_new_tokens: int = Field(512, ge=1, description="most tokens of an answer; fewer where the context ends")
    temperature: float = Field(0.0, ge=0, le=100, description="0: always the likeliest token; 1: as the model believes")
    top_p: float = Field(1.0, gt=0, le=1, description="draw among the likeliest tokens of this total probability")
    repetition_penalty: float = Field(1.0, gt=0, description="above 1: tokens of the answer become less likely again")
    no_repeat_ngram_size: int = Field(
        0, ge=0, description="no n-gram of this many tokens repeats in an answer; 0: no limit"
    )
    seed: int = Field(42, description="of the draws; an answer depends on it and on the prompt, not on the batch")


DECODING: dict[Preset, Decoding] = {
    "precise": Decoding(),
    "chat": Decoding(temperature=0.8, top_p=0.9, repetition_penalty=1.3, no_repeat_ngram_size=3),
}


def choose_decoding(preset: Preset, **changes: float | None) -> Decoding:
    """A preset with single values changed; None leaves a value as it is. Raises ValueError for impossible ones."""
    given = {name: value for name, value in changes.items() if value is not None}
    return Decoding.model_validate({**DECODING[preset].model_dump(), **given})


class DecodingSettings(Settings):
    """The flags that change single values of a preset, for every script that generates."""

    sections: ClassVar[dict[str, str]] = {"max_new_tokens": "Decoding"}

    max_new_tokens: int | None = Field(None, ge=1, description="most tokens of an answer; default: the preset's")
    temperature: float | None = Field(
        None, ge=0, le=100, description="0: always the likeliest token; default: the preset's"
    )
    top_p: float | None = Field(
        None,
        gt=0,
        le=1,
        description="sample from the likeliest tokens of this total probability; default: the preset's",
    )
    repetition_penalty: float | None = Field(
        None, gt=0, description="above 1: tokens the answer already has become less likely; default: the preset's"
    )
    no_repeat_ngram_size: int | None = Field(
        None,
        ge=0,
        description="no sequence of this many tokens occurs twice in an answer; 0: no limit; default: the preset's",
    )
    seed: int | None = Field(None, description="seed of the sampling; default: the preset's")

    def decoding_of(self, preset: Preset) -> Decoding:
        """The preset with the flags' changes."""
        return choose_decoding(
            preset,
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            no_repeat_ngram_size=self.no_repeat_ngram_size,
            seed=self.seed,
        )
