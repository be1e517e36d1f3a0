"""Attention heads as pictures: where each head of a layer looks (Section 2.2).

The model itself never holds these matrices, since its kernel computes the product without them
(Section 2.4); here those of one layer are computed in the open while the model runs.
"""

import torch
from einops import rearrange
from torch import Tensor

from minillama.model import Llama
from minillama.model.attention import causal_attention


@torch.inference_mode()
def attention_weights(model: Llama, tokens: Tensor, layer: int) -> Tensor:
    """How much each position takes from each earlier one, for every head of a layer.

    Args:
        model: any model; it is not changed.
        tokens: ``(seq,)`` int64.
        layer: counted from 0.

    Returns:
        ``(heads, seq, seq)`` float32; row i sums to 1 and is 0 after position i.

    Raises:
        DataError: the sequence is longer than the context.
    """
    maps = []

    def mix(i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if i == layer:
            maps.append(softmax_scores(q[0], k[0]))
        return causal_attention(q, k, v)

    model.hidden_states(tokens[None], mix)
    return maps[0]


def softmax_scores(q: Tensor, k: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(head_dim)), causal: ``(seq, heads, head_dim)`` to (heads, seq, seq)."""
    q = rearrange(q, "t h d -> h t d")
    k = rearrange(k, "t h d -> h d t")
    scale = q.shape[-1] ** 0.5
    scores = (q @ k).float() / scale  # (H, T, T)
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(-1)
