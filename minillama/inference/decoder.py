"""The same model, laid out for speed: what a forward pass over one token waits for is memory.

A decoding step multiplies each matrix with one vector a sequence, so every weight is read from
memory for two FLOP, and small operations cost as much as large ones. ``Decoder`` therefore copies
a model's weights once into another layout, and leaves the model alone:

- wq, wk, wv become one matrix, and so do w1, w3: fewer and longer products;
- matrices are stored transposed, ``(in, out)``, because the kernel for vector times matrix reads
  memory in order then (for the output matrix three times the speed);
- the output matrix is cut into stripes that threads share, since the kernel for one vector uses
  one thread;
- logits are computed for the last position of a prompt only.

The price is the memory of the weights once more. Sequences of different lengths share a step: each
row has a position of its own, and a mask hides what lies behind it in the cache.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from minillama.config import ModelConfig
from minillama.errors import DataError
from minillama.inference.kv_cache import LayerCache
from minillama.model import Llama, apply_rotary
from minillama.model.transformer import check_weights

Product = Callable[[Tensor], Tensor]
"""``(rows, in)`` to ``(rows, out)``."""
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Layer, queries, keys and values ``(rows, heads, head_dim)`` to the mixed values, same shape."""
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
        return torch.bmm(x.expand(stripes, *x.shape), parts).transpose(0, 1).flatten(1)

    return product


class Decoder:
    """A model's weights, packed, and the two passes of generation: ``prefill`` and ``step``.

    Make a new one after the model has changed.
    """

    @torch.no_grad()
    def __init__(self, model: Llama, pack: Callable[..., Product] = transposed) -> None:
        """Copy the matrices of ``model`` into the layout of ``pack``.

        Raises:
            CheckpointError: a weight is NaN or infinite.
        """
        check_weights(model)
        self.config: ModelConfig = model.config
        self.embeddings = model.tok_embeddings.weight.detach()
        self.rotary = model.rotary
        self.layers = []
        for block in model.layers:
            a, f = block.attention, block.feed_forward
            self.layers.append((
                block.attention_norm.weight.detach(),
                pack(a.wq.weight, a.wk.weight, a.wv.weight),
                pack(a.wo.weight),
                block.ffn_norm.weight.detach(),
                pack(f.w1.weight, f.w3.weight),
                pack(f.w2.weight),
            ))  # fmt: skip
        self.norm = model.norm.weight.detach()
        self.output = pack(model.output.weight)

    @torch.inference_mode()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Logits at every position, ``(batch, seq, vocab_size)``, as the model computes them."""
        x = self._whole(tokens, None)
        return self.output(x).unflatten(0, tokens.shape)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Sequence[int]], cache: Sequence[LayerCache]) -> Tensor:
        """Read whole prompts in one pass.

        Shorter prompts are filled up on the right. Nothing looks ahead, so that changes no logits;
        what it leaves in the cache is overwritten before it is ever seen.

        Args:
            prompts: ids, at least one in each.
            cache: empty; one for each layer, with a row for each prompt.

        Returns:
            Logits after the last id of each prompt, ``(prompts, vocab_size)``.
        """
        longest = max(map(len, prompts))
        rows = [[*prompt, *[0] * (longest - len(prompt))] for prompt in prompts]
        x = self._whole(torch.tensor(rows, device=self.embeddings.device), cache)
        last = [row * longest + len(prompt) - 1 for row, prompt in enumerate(prompts)]
        return self.output(x[last])

    @torch.inference_mode()
    def step(
        self, tokens: Sequence[int], positions: Sequence[int], cache: Sequence[LayerCache]
    ) -> Tensor:
        """Read one token a row.

        Args:
            tokens: an id for each row.
            positions: where each stands, that is how many ids of its row the cache holds.
            cache: as ``prefill`` and earlier steps left it.

        Returns:
            Logits for the next token of each row, ``(rows, vocab_size)``.

        Raises:
            DataError: a position is beyond the context or the cache.
        """
        seen = max(positions) + 1
        if seen > (room := min(cache[0].keys.shape[2], self.config.max_seq_len)):
            raise DataError(f"position {seen} is beyond the {room} there are", "stop before")
        device = self.embeddings.device
        where = torch.tensor(positions, device=device)
        row = torch.arange(len(positions), device=device)
        mask = None
        if min(positions) + 1 < seen:  # shorter rows do not look at what lies behind them
            mask = (torch.arange(seen, device=device) <= where[:, None])[:, None, None]

        def attend(i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = cache[i].keys, cache[i].values  # (rows, heads, capacity, head_dim)
            keys[row, :, where], values[row, :, where] = k, v
            q = q.unsqueeze(2)
            keys, values = keys[:, :, :seen], values[:, :, :seen]
            return F.scaled_dot_product_attention(q, keys, values, mask).squeeze(2)

        return self.output(self._layers(torch.tensor(tokens, device=device), where, attend))

    def _whole(self, tokens: Tensor, cache: Sequence[LayerCache] | None) -> Tensor:
        """Features of all positions of ``tokens (batch, seq)``: ``(batch * seq, dim)``."""
        batch, seq = tokens.shape
        if seq > self.config.max_seq_len:
            raise DataError(
                f"a sequence of {seq} tokens exceeds the context of {self.config.max_seq_len}",
                "shorten it, or use a model with a larger max_seq_len",
            )

        def attend(i: int, *qkv: Tensor) -> Tensor:
            q, k, v = (t.unflatten(0, (batch, seq)).transpose(1, 2) for t in qkv)
            if cache is not None:
                cache[i](k, v)
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return mixed.transpose(1, 2).flatten(0, 1)

        positions = torch.arange(seq, device=tokens.device).repeat(batch)
        return self._layers(tokens.flatten(), positions, attend)

    def _layers(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """All blocks and the last norm, for ``tokens (rows,)``, to ``(rows, dim)``."""
        eps, width = self.config.norm_eps, (self.config.dim,)
        heads, head_dim = self.config.n_heads, self.config.head_dim
        table = self.rotary[positions]  # (rows, head_dim / 2, 2)
        x = self.embeddings[tokens]
        for i, (norm1, wqkv, wo, norm2, w13, w2) in enumerate(self.layers):
            qkv = wqkv(F.rms_norm(x, width, norm1, eps)).unflatten(-1, (3 * heads, head_dim))
            qk = apply_rotary(qkv[None, :, : 2 * heads], table)[0]
            mixed = attend(i, qk[:, :heads], qk[:, heads:], qkv[:, 2 * heads :])
            x = x + wo(mixed.flatten(1))
            gate, up = w13(F.rms_norm(x, width, norm2, eps)).chunk(2, dim=-1)
            x = x + w2(F.silu(gate) * up)
        return F.rms_norm(x, width, self.norm, eps)


def as_decoder(model: Llama | Decoder) -> Decoder:
    """A decoder of a model; whatever else steps like one is taken as it is."""
    return Decoder(model) if isinstance(model, Llama) else model
