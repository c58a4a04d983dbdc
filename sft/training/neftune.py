"""NEFTune: uniform noise on the input embeddings while training (2310.05914), right for rows concatenated too.

The noise of a token is scaled by alpha / sqrt(L * d), L being the length of its own row. (The trainer's built-in hook
takes L from the shape of the batch, which is the sum of all rows here and counts padding elsewhere.)
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel


def length_of_each_token(row_lengths: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Length of the row that each token of concatenated rows belongs to: [2, 3], 5 -> (1, 5) [2, 2, 3, 3, 3].

    num_tokens: their sum; computing it would make Python wait for the GPU.
    """
    return row_lengths.repeat_interleave(row_lengths, output_size=num_tokens)[None]


@contextmanager
def embedding_noise(model: PreTrainedModel, alpha: float | None, row_lengths: torch.Tensor | None) -> Iterator[None]:
    """Add noise to the output of the input embeddings inside this context, in training mode only.

    row_lengths: the length of the row each token belongs to, broadcastable to the ids: (1, T) or (B, 1). None if
    tokens belong to several rows, which would need different noise.
    """
    if not alpha or not model.training:
        yield
        return

    if row_lengths is None:
        raise ValueError("each row has its own noise on the embeddings, so rows cannot share prefixes")

    def add_noise(module: torch.nn.Module, inputs: object, embedded: torch.Tensor) -> torch.Tensor:
        scale = alpha / (row_lengths.to(embedded.device) * embedded.shape[-1]).sqrt()
        return embedded + (torch.rand_like(embedded) * 2 - 1) * scale[..., None].to(embedded.dtype)

    hook = model.get_input_embeddings().register_forward_hook(add_noise)
    try:
        yield
    finally:
        hook.remove()
