"""Attention heads as pictures: where each head of each layer looks (Section 2.2).

The model itself never holds these matrices, since its kernel computes the product without them
(Section 2.4); here they are computed once more, in the open.
"""

import torch
from torch import Tensor

from minillama.errors import DataError
from minillama.model import Attention, Llama, apply_rotary


def attention_weights(model: Llama, tokens: Tensor) -> Tensor:
    """How much each position takes from each earlier one, for every head of every layer.

    Args:
        model: any model; it is not changed.
        tokens: ``(seq,)`` int64.

    Returns:
        ``(layers, heads, seq, seq)`` float32; row i sums to 1 and is 0 after position i.

    Raises:
        DataError: the sequence is longer than the context.
    """
    if len(tokens) > model.config.max_seq_len:
        raise DataError(
            f"a sequence of {len(tokens)} tokens exceeds the context of {model.config.max_seq_len}",
            "shorten it",
        )
    weights, table = [], model.rotary[: len(tokens)]
    with torch.inference_mode():
        x = model.tok_embeddings(tokens[None])  # (1, T, dim)
        for layer in model.layers:
            weights.append(_of_layer(layer.attention, layer.attention_norm(x), table))
            x = layer(x, table)
    return torch.stack(weights)


def _of_layer(attention: Attention, x: Tensor, table: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(head_dim)), causal: ``x (1, T, dim)`` to ``(heads, T, T)``."""
    heads = (-1, attention.head_dim)
    q, k = (
        apply_rotary(matrix(x).unflatten(-1, heads), table)[0].transpose(0, 1)  # (H, T, head_dim)
        for matrix in (attention.wq, attention.wk)
    )
    scores = (q @ k.mT).float() / attention.head_dim**0.5  # (H, T, T)
    later = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -torch.inf).softmax(-1)
