"""Every way through the model gives the logits of the plain one.

Processes that divide the matrices are in ``tests/parallel/test_tensor.py``.
"""

import pytest
import torch
from generation import random_model
from torch import Tensor

from minillama.apps.serve.attention_maps import softmax_scores
from minillama.efficient import differentiate_by_hand, recompute_blocks
from minillama.efficient.flash_attention import blockwise_attention, full_attention
from minillama.evaluate.packed import PackedRow, RowMask, Window
from minillama.inference import Decoder
from minillama.inference.kv_cache import new_cache
from minillama.model import Llama

TOKENS = torch.randint(0, 50, (3, 20), generator=torch.Generator().manual_seed(1))


def cached(model: Llama, parts: list[int]) -> Tensor:
    """Read in parts, through a cache."""
    cache = new_cache(model.config, 20, len(TOKENS), like=model.tok_embeddings.weight)
    hidden = [cache.read(model, part) for part in TOKENS.split(parts, dim=1)]
    return torch.cat(hidden, dim=1)


def rows_of_different_lengths(model: Llama) -> Tensor:
    """Each row alone is read to another length; then all go on side by side."""
    cache = new_cache(model.config, 20, len(TOKENS), like=model.tok_embeddings.weight)
    hidden = cache.read(model, TOKENS)
    cache.lengths = [5, 9, 12]
    for _ in range(8):
        new = torch.stack([row[i] for row, i in zip(TOKENS, cache.lengths, strict=True)])
        at = cache.lengths
        hidden[range(3), at] = cache.read(model, new[:, None])[:, 0]
    return hidden


def packed(model: Llama) -> Tensor:
    """Rows end to end; the last one in two windows that begin alike."""
    first, second, third = TOKENS.tolist()
    windows = [
        [Window(0, [*first, 0], 1)],
        [Window(0, [*second, 0], 1)],
        [Window(0, [*third, 0], 1), Window(1, [*third[:6], 7, 8, 0], 1)],
    ]
    rows = [PackedRow(of_row) for of_row in windows]
    tokens = torch.tensor([token for row in rows for token in row.tokens])
    positions = torch.tensor([place for row in rows for place in row.positions])
    hidden = model.hidden_states(tokens, RowMask(rows, tokens.device).attention, positions)
    return hidden[:60].unflatten(0, (3, 20))  # the second window's own ids are the last


def in_the_open(model: Llama) -> Tensor:
    """Values mixed by the attention maps of the page."""

    def mix(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = torch.stack([softmax_scores(*row) for row in zip(q, k, strict=True)])
        return torch.einsum("bhts,bshd->bthd", weights.to(v.dtype), v)

    return model.hidden_states(TOKENS, mix)


def heads_first(attention):
    """A way of ``efficient.flash_attention``, whose tensors are ``(batch, heads, seq, ...)``."""

    def mix(_: int, *qkv: Tensor) -> Tensor:
        return attention(*(t.transpose(1, 2) for t in qkv)).transpose(1, 2)

    return lambda model: model.hidden_states(TOKENS, mix)


WAYS = {
    "cache, token by token": lambda model: cached(model, [1] * 20),
    "cache, in parts": lambda model: cached(model, [10, 1, 9]),
    "cache, rows of different lengths": rows_of_different_lengths,
    "packed rows": packed,
    "attention maps": in_the_open,
    "the whole table": heads_first(full_attention),
    "blockwise": heads_first(blockwise_attention),
    "decoder": lambda model: cached(Decoder(model), [20]),
    "decoder, token by token": lambda model: cached(Decoder(model), [1] * 20),
    "by hand": lambda model: differentiate_by_hand(model).hidden_states(TOKENS),
    "by hand, not lean": lambda model: differentiate_by_hand(model, False).hidden_states(TOKENS),
    "recomputed": lambda model: recompute_blocks(model, "full").hidden_states(TOKENS),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype, limit", [(torch.float64, 1e-12), (torch.float32, 2e-5)], ids=str)
def test_every_way_is_the_plain_one(way, dtype, limit):
    expected = random_model(dtype=dtype).hidden_states(TOKENS).detach()
    hidden = WAYS[way](random_model(dtype=dtype)).detach()
    if way == "attention maps":
        limit = 2e-5  # pictures are in float32
    assert hidden.dtype == dtype
    torch.testing.assert_close(hidden, expected, rtol=limit, atol=limit)


@pytest.mark.parametrize("way", ["by hand", "by hand, not lean", "recomputed", "blockwise"])
def test_every_way_to_train_has_the_plain_gradients(way):
    gradients = []
    for run in (lambda model: model.hidden_states(TOKENS), WAYS[way]):
        model = random_model()
        hidden = run(model)
        parameters = [
            weight for name, weight in model.named_parameters() if name != "output.weight"
        ]
        gradients.append(torch.autograd.grad(hidden.sin().sum(), parameters))
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_a_mix_of_nothing_is_no_attention():
    """The seam is what mixes: without it no position sees another."""
    model, changed = random_model(), TOKENS.clone()
    changed[:, 0] += 1
    changed %= 50
    alone = [model.hidden_states(t, lambda i, q, k, v: v) for t in (TOKENS, changed)]
    assert torch.equal(alone[0][:, 1:], alone[1][:, 1:])
    assert not torch.allclose(model.hidden_states(TOKENS)[:, 1:], alone[0][:, 1:])
