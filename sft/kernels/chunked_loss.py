"""Cross-entropy of a frozen output layer without ever holding all logits: a chunk of positions at a time.

The gradient of the hidden states is formed in the same pass over a chunk, so nothing of vocabulary size is kept for the
backward pass. (With 152k entries the logits of 4,000 positions and their gradient take 6 GB.) The idea is Liger's fused
linear cross-entropy (2410.10989), here in plain PyTorch: it runs on CPUs, too, and is no slower than the products.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from sft.batches.layout import FP32_BYTES

CHUNK_BYTES = {"cpu": 2**25, "cuda": 2**28}  # of logits, as if fp32: 441 positions of 152k entries; more are no faster


class _ChunkedNll(torch.autograd.Function):
    """Sum over positions of -log softmax(hidden Wᵀ)[target]."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """hidden (N, D), weight (V, D), targets (N,) -> (), fp32."""
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        size, in_fp32 = (max(1, limit[hidden.device.type] // (4 * len(weight))) for limit in (CHUNK_BYTES, FP32_BYTES))
        for start in range(0, len(hidden), size):
            logits = hidden[start : start + size] @ weight.t()  # (n, D) -> (n, V)
            wanted = targets[start : start + size, None].split(in_fp32)
            for part, tokens in zip(logits.split(in_fp32), wanted, strict=True):
                log_probabilities = part.log_softmax(1, dtype=torch.float32)
                found = log_probabilities.gather(1, tokens)  # (n, 1)
                total -= found.sum()
                if grad_hidden is not None:  # the logits' gradient overwrites them
                    part.copy_(log_probabilities.exp_().scatter_add_(1, tokens, torch.full_like(found, -1.0)))
            if grad_hidden is not None:
                torch.mm(logits, weight, out=grad_hidden[start : start + size])
        if grad_hidden is not None:
            ctx.save_for_backward(grad_hidden)
        return total

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """grad () -> the gradient of hidden."""
        (grad_hidden,) = ctx.saved_tensors
        return grad_hidden * grad, None, None


def chunked_nll(hidden: torch.Tensor, head: torch.nn.Linear, targets: torch.Tensor) -> torch.Tensor:
    """Sum of the negative log-likelihoods (nats, fp32) of targets (N,) by an output layer that is not trained.

    hidden (N, D): fp32 beside a head in 16 bits where upper layers are fp32, or where autocast hands its outputs on.
    """
    return _ChunkedNll.apply(hidden.to(head.weight.dtype), head.weight, targets)


def is_frozen_linear(head: torch.nn.Module | None) -> bool:
    """Whether chunked_nll can take it: a plain linear output layer without bias whose weight is not trained."""
    if head is None or type(head) is not torch.nn.Linear:
        return False
    return head.bias is None and not head.weight.requires_grad


@contextmanager
def head_left_out(model: PreTrainedModel) -> Iterator[None]:
    """Inside this context the model returns hidden states instead of logits."""
    head = model.get_output_embeddings()
    model.set_output_embeddings(torch.nn.Identity())
    try:
        yield
    finally:
        model.set_output_embeddings(head)
