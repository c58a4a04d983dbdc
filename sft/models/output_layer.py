"""From hidden states to logits as the model does it: by its output layer, and scaling or caps after it.

Most families say logits = lm_head(hidden). Some cap them (Gemma 2), scale them (Granite, Cohere) or put more layers in
between. Which of the two it is is tried, not looked up: the model's own forward is handed a few hidden states.

    layer = find_output_layer(model)
    layer(hidden)           # (N, D) -> (N, V)
    layer.is_plain          # True: the same as model.get_output_embeddings()(hidden), to the bit
"""

from copy import copy

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast

TRIED = 4  # hidden states that show whether an output layer is plain
SCALE = 30.0  # of them: large enough for a cap on logits to show


class OutputLayer:
    """The way from hidden states to logits of one model. Several threads may use it at once."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._whole = _without_layers(model)
        self.is_plain = self._whole is None or self._agrees(model)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden (N, D) -> logits (N, V)."""
        if self.is_plain:
            logits: torch.Tensor = self._model.get_output_embeddings()(hidden)
            return logits
        return self._by_model(hidden)

    def _by_model(self, hidden: torch.Tensor) -> torch.Tensor:
        assert self._whole is not None
        logits: torch.Tensor = self._whole(inputs_embeds=hidden[None]).logits
        return logits[0]

    @torch.no_grad()
    def _agrees(self, model: PreTrainedModel) -> bool:
        """Whether both ways give the same logits to the bit."""
        head = model.get_output_embeddings()
        size = model.config.get_text_config(decoder=True).hidden_size
        generator = torch.Generator().manual_seed(0)
        hidden = (SCALE * torch.randn(TRIED, size, generator=generator)).to(head.weight.device, model.dtype)
        plain, own = head(hidden[None])[0], self._by_model(hidden)
        return plain.shape == own.shape and torch.equal(plain.float(), own.float())


class _Output(MoeModelOutputWithPast):
    """Hidden states as layers return them; every other attribute is None."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


class _Handed(torch.nn.Module):
    """A stand-in for all layers of a model that returns its input embeddings as hidden states."""

    def forward(self, input_ids: None = None, *, inputs_embeds: torch.Tensor, **_: object) -> _Output:
        return _Output(last_hidden_state=inputs_embeds)

    @property
    def decoder(self) -> "_Handed":
        """Some families call model.model.decoder."""
        return self


def _without_layers(model: PreTrainedModel) -> PreTrainedModel | None:
    """The same model with shared weights whose forward starts after the layers; None if it has no such part."""
    name = model.base_model_prefix
    if name not in model._modules:
        return None
    bare = copy(model)
    bare.__dict__["_modules"] = {**model._modules, name: _Handed()}
    bare.__dict__.pop("forward", None)  # a replaced forward is bound to the whole model
    return bare
