"""Attention for answers in the making: few queries of each row, many keys, several query heads to a key head.

transformers lays the keys out anew for every query head that shares them before PyTorch's attention sees them: a copy
of the whole cache, three to seven times as large, with each token. Here the heads that share keys are laid beside each
other as further queries, and the keys stay where they are. 64 rows of 66 tokens, 9 heads on 3, bf16 on one core:
1.0 ms per layer, not 5.8.

Registered with transformers under the name "shared_heads" (AttentionInterface, its public extension point);
sft.models.loading loads every model with it. All other cases go to transformers' own function.
"""

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from sft.kernels.arguments import refuse_unknown

NAME = "shared_heads"
FEW_QUERIES = 16  # on a GPU; from there on its kernels for long queries win


def attend_shared(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    **more: object,
) -> tuple[torch.Tensor, None]:
    """Masked attention of queries (B, H, N, D) to keys and values (B, K, T, D), mask (B, 1, N, T) -> (B, N, H, D).

    sliding_window: nothing is to be done for it, the mask has it. Raises UnknownArgument for attention of another kind
    (soft caps, sinks): sft.models.capabilities.choose_attention gives such models transformers' eager attention.
    """
    refuse_unknown(more)
    batch, heads, num_queries, size = query.shape
    groups = heads // key.shape[1]
    many = query.is_cuda and num_queries > FEW_QUERIES
    is_biased = position_bias is not None
    if attention_mask is None or attention_mask.shape[1] > 1 or groups == 1 or many or is_biased:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, position_bias
        )
    mask = attention_mask[:, :, None].expand(-1, -1, groups, -1, -1).reshape(batch, 1, groups * num_queries, -1)
    mixed = scaled_dot_product_attention(
        query.reshape(batch, -1, groups * num_queries, size), key, value, mask, dropout, scale=scaling
    )  # (B, K, G * N, D)
    return mixed.reshape(batch, heads, num_queries, size).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attend_shared)
AttentionMaskInterface.register(NAME, sdpa_mask)
