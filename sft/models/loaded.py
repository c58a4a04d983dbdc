"""A loaded model with its tokenizer, prompt format, identity and precision."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from threading import RLock

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from prompts import ChatFormat, Encoded, Head
from sft.backend import UNSLOTH, is_launched_sharded
from sft.batches import Batch, flatten_rows, pad_rows
from sft.console import say
from sft.kernels.attention import flat_attention
from sft.kernels.lora import cast_at_once
from sft.models.capabilities import Layers, padded, read_layers
from sft.models.output_layer import OutputLayer
from sft.models.precision import Precision
from sft.models.selfcheck import check_layers, make_rows
from sft.models.source import ModelSource

CONTEXTS = ("max_position_embeddings", "n_positions", "max_seq_len", "context_length")  # what families call it
NO_LIMIT = 2**20  # tokens that a model may read whose config names no limit: its layers carry a state of fixed size


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
    caching: str | None = None  # how answers can be written, once that is proven (sft.generation.selfcheck)
    proving: RLock = field(default_factory=RLock, repr=False)  # one thread at a time: a check changes the attention

    @property
    def device(self) -> torch.device:
        """Device of the inputs."""
        return self.model.device

    @property
    def max_context(self) -> int:
        """Tokens of prompt and answer together that the model was built for; of a head, those it was trained on."""
        config = self.causal_lm.config.get_text_config(decoder=True)
        built_for = next((int(found) for name in CONTEXTS if (found := getattr(config, name, None))), NO_LIMIT)
        return built_for if self.max_read is None else min(built_for, self.max_read)

    @property
    def has_adapter(self) -> bool:
        """Whether there is an adapter that adapter_off() can switch off."""
        return isinstance(self.model, PeftModel)

    @property
    def holds_base(self) -> bool:
        """Whether adapter_off() gives the untuned model without a second one in memory."""
        return self.has_adapter and self.load_untuned is None

    @property
    def is_tuned(self) -> bool:
        """Whether the model is tuned: an adapter on its base, or fully trained weights."""
        return self.has_adapter or self.load_untuned is not None

    @property
    def causal_lm(self) -> PreTrainedModel:
        """The transformers model itself, inside the adapter's wrapper if there is one.

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

    @cached_property
    def layers(self) -> Layers:
        """What its layers can do: read from its config and proven on first use (sft.models.selfcheck).

        Prints one line with the reason if rows are padded.
        """
        if self.backend == UNSLOTH:
            return padded("Unsloth has an attention of its own, which wants rows padded")
        with self.proving:
            return self.__dict__.get("layers") or self._prove_layers()

    def _prove_layers(self) -> Layers:
        found = read_layers(self.causal_lm)
        if (
            is_launched_sharded()
        ):  # weights are sharded later, so nothing can be proven: only plain attention is trusted
            found = padded("its layers carry a state, and weights in pieces prove nothing") if found.apart else found
        else:
            found = check_layers(self.causal_lm, found, make_rows(self.tokenizer), self.autocast)
        if not found.flat:
            say(f"rows are padded: {found.why}")
        return found

    @property
    def autocast(self) -> torch.dtype | None:
        """The type that weights of several types (freeze, full) are computed in; None: their own."""
        return None if self.has_adapter or self.precision.dtype is torch.float32 else self.precision.dtype

    @property
    def takes_flat_rows(self) -> bool:
        """Whether rows may be concatenated."""
        return self.layers.flat

    def lay_out(self, rows: Sequence[Encoded], *, shares: bool = False) -> Batch:
        """Rows as one batch in the layout that its layers take; shares: prefixes of rows once, if they can be."""
        if not self.layers.flat:
            return pad_rows(rows, self.chat.pad_id)
        return flatten_rows(rows, shares=shares and self.layers.shares, apart=self.layers.apart)

    @cached_property
    def output_layer(self) -> OutputLayer:
        """From hidden states to logits."""
        return OutputLayer(self.causal_lm)

    @contextmanager
    def flat_rows(self) -> Iterator[None]:
        """Attention row by row over rows concatenated (sft.batches.flatten_rows), inside this context."""
        if not self.takes_flat_rows:
            yield
            return
        with flat_attention(self.causal_lm):
            yield


@contextmanager
def in_eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Context without dropout, also during training; weights do not change inside."""
    was_training = model.training
    model.eval()
    try:
        with cast_at_once(model):
            yield
    finally:
        model.train(was_training)
