"""The same model, laid out for speed: what a forward pass over one token waits for is memory.

A decoding step multiplies each matrix with one vector a sequence, so every weight is read from
memory for two FLOP, and small operations cost as much as large ones. ``Decoder`` therefore copies
a model's matrices once into another layout, and leaves the model alone:

- wq, wk, wv become one matrix, and so do w1, w3: fewer and longer products;
- matrices are stored transposed, ``(in, out)``, because the kernel for vector times matrix reads
  memory in order then (for the output matrix three times the speed);
- the output matrix is cut into stripes that threads share, since the kernel for one vector uses
  one thread.

The price is the memory of the matrices once more. The forward pass is ``Llama``'s own; all tokens
lie in rows ``(tokens, dim)``, which the products of matrices take.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama.errors import CheckpointError
from minillama.inference.kv_cache import new_cache
from minillama.model import Attention, FeedForward, Llama, RMSNorm, TransformerBlock, apply_rotary

Product = Callable[[Tensor], Tensor]
"""``(rows, in)`` to ``(rows, out)``."""
Pack = Callable[..., Product]
"""The product with all of some matrices, each ``(out, in)``, side by side."""
STRIPED = 4_000_000
"""Weights from which a matrix is cut into stripes; for a smaller one, waking threads costs more."""
PER_THREAD = 8
"""Stripes for each thread: narrow ones stay in its cache while a batch is multiplied with them."""


def transposed(*weights: Tensor) -> Product:
    """The product with all of ``weights``, each ``(out, in)``, side by side."""
    weight = torch.cat(weights)  # (out, in)
    striped = weight.is_cpu and weight.numel() >= STRIPED
    stripes = PER_THREAD * torch.get_num_threads() if striped else 1
    if stripes == 1 or len(weight) % stripes:
        matrix = weight.t().contiguous()  # (in, out)
        return lambda x: x @ matrix

    parts = weight.unflatten(0, (stripes, -1)).transpose(1, 2).contiguous()  # (stripes, in, out')

    def product(x: Tensor) -> Tensor:
        products = torch.bmm(x.expand(stripes, *x.shape), parts)  # (stripes, rows, out')
        return products.transpose(0, 1).flatten(1)

    return product


def packed_norm(norm: RMSNorm) -> Product:
    """``RMSNorm`` in one call."""
    eps, weight = norm.eps, norm.weight.detach()
    return lambda x: F.rms_norm(x, weight.shape, weight, eps)


def packed_feed_forward(feed_forward: FeedForward, pack: Pack) -> Product:
    """``FeedForward`` with w1 and w3 as one matrix."""
    w13 = pack(feed_forward.w1.weight, feed_forward.w3.weight)
    w2 = pack(feed_forward.w2.weight)

    def forward(x: Tensor) -> Tensor:
        gate, up = w13(x).chunk(2, dim=-1)
        return w2(F.silu(gate) * up)

    return forward


class PackedAttention(Attention):
    """``Attention`` with wq, wk and wv as one matrix."""

    def __init__(self, attention: Attention, pack: Pack) -> None:
        nn.Module.__init__(self)
        wq, wk, wv, wo = (part.weight for part in attention.children())
        self.head_dim = attention.head_dim
        self.heads = len(wq) // self.head_dim
        self.wqkv = pack(wq, wk, wv)
        self.wo = pack(wo)

    __call__ = Attention.forward  # without the look for hooks, which takes longer than a norm

    def project(self, x: Tensor, table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As in ``Attention``; queries and keys lie side by side and are turned at once."""
        qkv = self.wqkv(x)
        qkv = qkv.unflatten(-1, (-1, self.head_dim))  # (rows, 3 heads, head_dim)
        sizes = (2 * self.heads, self.heads)
        qk, v = qkv.split(sizes, dim=-2)
        qk = apply_rotary(qk, table)
        q, k = qk.chunk(2, dim=-2)
        return q, k, v


class PackedBlock(TransformerBlock):
    """A block of packed parts."""

    def __init__(self, block: TransformerBlock, pack: Pack) -> None:
        nn.Module.__init__(self)
        self.attention = PackedAttention(block.attention, pack)
        self.feed_forward = packed_feed_forward(block.feed_forward, pack)
        self.attention_norm = packed_norm(block.attention_norm)
        self.ffn_norm = packed_norm(block.ffn_norm)

    __call__ = TransformerBlock.forward


def check_weights(model: Llama) -> None:
    """Raise ``CheckpointError`` naming the first weight that is NaN or infinite.

    The output need not show it: torch's attention on the CPU takes a score that is NaN for 0.
    """
    for name, weight in model.state_dict().items():
        bad = weight.numel() - int(weight.isfinite().sum())
        if bad:
            raise CheckpointError(
                f"'{name}' has {bad} of {weight.numel()} numbers that are NaN or infinite",
                "take an earlier checkpoint, or another dtype",
            )


class Decoder(Llama):
    """A model of packed parts. Make a new one after the model has changed.

    Raises:
        CheckpointError: a weight is NaN or infinite.
    """

    @torch.no_grad()
    def __init__(self, model: Llama, pack: Pack = transposed) -> None:
        check_weights(model)
        nn.Module.__init__(self)  # not Llama's, which would draw new weights
        self.config = model.config
        self.rotary = model.rotary
        self.tok_embeddings = model.tok_embeddings
        self.layers = [PackedBlock(block, pack) for block in model.layers]
        self.norm = packed_norm(model.norm)
        self.output = pack(model.output.weight)

    @torch.inference_mode()
    def forward(self, tokens: Tensor) -> Tensor:
        """Logits at every position, ``(batch, seq, vocab_size)``, as the model computes them."""
        batch, seq = tokens.shape
        cache = new_cache(self.config, seq, batch, self.tok_embeddings.weight)
        x = cache.read(self, tokens)  # (batch, seq, dim)
        logits = self.output(x.flatten(0, 1))
        return logits.unflatten(0, (batch, seq))
