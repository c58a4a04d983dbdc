"""A model in memory with everything one needs beside it: tokenizer, prompt format, identity, precision."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from prompts import ChatFormat, Head
from sft.backend import UNSLOTH
from sft.models.attention import flat_attention
from sft.models.fused_lora import cast_at_once
from sft.models.precision import Precision
from sft.models.source import ModelSource


@dataclass
class LoadedModel:
    """What models.load_base and models.load_run return."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerFast
    chat: ChatFormat
    source: ModelSource
    precision: Precision
    backend: str = "transformers"
    load_untuned: Callable[[], "LoadedModel"] | None = None  # where no adapter can be switched off
    head: Head | None = None  # of a model that classifies: it writes nothing
    max_read: int | None = None  # tokens a head was trained on at most; more would be new to it

    @property
    def device(self) -> torch.device:
        """Where inputs have to be."""
        return self.model.device

    @property
    def max_context(self) -> int:
        """Tokens of prompt and answer together that the model was built for; of a head, those it was trained on."""
        built_for = int(self.causal_lm.config.max_position_embeddings)
        return built_for if self.max_read is None else min(built_for, self.max_read)

    @property
    def has_adapter(self) -> bool:
        """Whether there is an adapter that adapter_off() can switch off."""
        return isinstance(self.model, PeftModel)

    @property
    def is_tuned(self) -> bool:
        """Whether it is a run's: an adapter on its base, or weights that were trained themselves."""
        return self.has_adapter or self.load_untuned is not None

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The transformers model itself, inside the adapter's wrapper where there is one.

        A causal language model, or with a head a ...ForSequenceClassification on the same layers.
        """
        return self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model

    @contextmanager
    def adapter_off(self) -> Iterator["LoadedModel"]:
        """The untuned model inside this context: the same weights with the adapter off, or the base loaded beside.

        Use what it yields: a model tuned whole (methods freeze and full) has no adapter to switch off, and without its
        head a classifier is no language model.
        """
        if self.load_untuned or not isinstance(self.model, PeftModel):
            yield self.load_untuned() if self.load_untuned else self
            return
        with self.model.disable_adapter():
            yield self

    @property
    def takes_flat_rows(self) -> bool:
        """Whether rows may be laid end to end; Unsloth brings an attention of its own, which wants them padded."""
        return self.backend != UNSLOTH

    @contextmanager
    def flat_rows(self) -> Iterator[None]:
        """Attention row by row over rows laid end to end (sft.batching.flatten_rows), inside this context."""
        if not self.takes_flat_rows:
            yield
            return
        with flat_attention(self.causal_lm):
            yield


@contextmanager
def in_eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Without dropout, also in the middle of a training; weights stay what they are inside."""
    was_training = model.training
    model.eval()
    try:
        with cast_at_once(model):
            yield
    finally:
        model.train(was_training)
