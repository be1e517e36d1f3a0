"""Attention matrices against a loop over positions, and against what the model computes."""

import math

import pytest
import torch
from serving import CONFIG, model

from minillama.apps.serve.attention_maps import attention_weights
from minillama.errors import DataError
from minillama.model import apply_rotary

TOKENS = torch.arange(3, 20)


def all_weights(made: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Of every layer, ``(layers, heads, seq, seq)``."""
    layers = range(CONFIG.n_layers)
    return torch.stack([attention_weights(made, tokens, layer) for layer in layers])


def naive_weights(made: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """One position, one head, one score at a time."""
    size, seen = CONFIG.head_dim, len(tokens)
    weights = torch.zeros(CONFIG.n_layers, CONFIG.n_heads, seen, seen)
    x = made.tok_embeddings(tokens)
    for n, layer in enumerate(made.layers):
        normed = layer.attention_norm(x)
        q, k = layer.attention.wq(normed), layer.attention.wk(normed)
        for h in range(CONFIG.n_heads):
            part = slice(h * size, (h + 1) * size)
            qs, ks = (apply_rotary(t[None, :, None, part], made.rotary[:seen])[0, :, 0]
                      for t in (q, k))  # fmt: skip
            for i in range(seen):
                scores = [math.exp(qs[i] @ ks[j] / math.sqrt(size)) for j in range(i + 1)]
                weights[n, h, i, : i + 1] = torch.tensor(scores) / sum(scores)
        x = layer(x[None], made.rotary[:seen])[0]
    return weights


@torch.no_grad()
def test_equal_to_a_loop() -> None:
    made = model()
    weights = all_weights(made, TOKENS[:7])
    assert weights.shape == (CONFIG.n_layers, CONFIG.n_heads, 7, 7)
    torch.testing.assert_close(weights, naive_weights(made, TOKENS[:7]), rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_mixing_by_them_is_the_models_own_attention() -> None:
    """weights @ V, through wo, is what the fused kernel gives in the first layer."""
    made = model(seed=1)
    block = made.layers[0]
    x = block.attention_norm(made.tok_embeddings(TOKENS[None]))
    v = block.attention.wv(x)[0].unflatten(-1, (CONFIG.n_heads, -1)).transpose(0, 1)
    mixed = (all_weights(made, TOKENS)[0] @ v).transpose(0, 1).flatten(1)
    expected = block.attention(x, made.rotary[: len(TOKENS)])[0]
    torch.testing.assert_close(block.attention.wo(mixed), expected, rtol=1e-4, atol=1e-5)


def test_rows_are_shares_of_the_past() -> None:
    weights = all_weights(model(), TOKENS)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert (weights >= 0).all()
    assert (weights.triu(1) == 0).all()
    assert (weights[..., 0, 0] == 1).all()


def test_a_later_token_changes_no_earlier_row() -> None:
    made, changed = model(), TOKENS.clone()
    changed[-1] += 1
    rows = slice(None, -1)
    before, after = all_weights(made, TOKENS), all_weights(made, changed)
    torch.testing.assert_close(before[..., rows, :], after[..., rows, :])
    assert not torch.equal(before[1, :, -1], after[1, :, -1])


def test_half_precision_and_too_many_tokens() -> None:
    made = model()
    exact = all_weights(made, TOKENS)
    rounded = all_weights(made.to(torch.bfloat16), TOKENS)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.sum(-1), torch.ones(rounded.shape[:-1]))
    assert (rounded - exact).abs().mean() < 0.02
    with pytest.raises(DataError, match="exceeds the context of 200"):
        all_weights(made, torch.ones(201, dtype=torch.int64))
