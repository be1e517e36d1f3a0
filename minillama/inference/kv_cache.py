"""The key-value cache: keys and values of earlier positions never change, so they are kept.

Without it, token number n costs a pass over all n positions; with it, a pass over one. Its price is
memory: 2 * n_layers * dim numbers a position (0.5 MiB for the 7B model in 16 bits).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from minillama.config import ModelConfig
from minillama.errors import DataError
from minillama.model import Llama


class KVCache:
    """The keys and values that all layers have seen, in memory that is reserved once.

    ``keys[layer]`` and ``values[layer]`` are ``(batch, heads, capacity, head_dim)``; of each row
    the first ``lengths[row]`` positions count.
    """

    def __init__(self, keys: list[Tensor], values: list[Tensor]) -> None:
        self.keys, self.values = keys, values
        self.lengths = [0] * len(keys[0])
        self.device = keys[0].device

    def read(self, model: Llama, tokens: Tensor) -> Tensor:
        """Hidden states of new ``tokens (batch, seq)``, each row behind what is held of it.

        Returns:
            ``(batch, seq, dim)``, what the model's output matrix reads.

        Raises:
            DataError: a position is beyond the context or the cache.
        """
        batch, new = tokens.shape
        end = max(self.lengths) + new
        room = min(self.keys[0].shape[2], model.config.max_seq_len)
        if end > room:
            raise DataError(f"position {end} is beyond the {room} there are", "stop before")

        # where each token is kept: its row, and its position in that row
        rows, positions = [], []
        for number, length in enumerate(self.lengths):
            rows += [number] * new
            positions += range(length, length + new)
        row, position = torch.tensor([rows, positions], device=tokens.device)

        # a token sees those of its row up to itself
        mask, first = None, end == new
        if not first and (new > 1 or min(self.lengths) + 1 < end):
            mask = torch.arange(end, device=tokens.device) <= position[:, None]
            mask = mask.view(batch, 1, new, end)

        def mix(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            keys[row, :, position] = k
            values[row, :, position] = v
            keys = keys[:, :, :end]
            values = values[:, :, :end]
            q = q.view(batch, new, *q.shape[1:])
            q = q.transpose(1, 2)  # (batch, heads, new, head_dim)
            mixed = F.scaled_dot_product_attention(q, keys, values, mask, is_causal=first)
            return mixed.transpose(1, 2).flatten(0, 1)

        # all tokens end to end: the products of a decoder take rows
        hidden = model.hidden_states(tokens.flatten(), mix, position)
        self.lengths = [length + new for length in self.lengths]
        return hidden.view(batch, new, -1)

    def select(self, rows: list[int]) -> None:
        """Keep these rows only, in this order; a row may be taken several times."""
        self.lengths = [self.lengths[row] for row in rows]
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            self.keys[layer], self.values[layer] = keys[rows], values[rows]


def cache_bytes(config: ModelConfig, capacity: int, batch: int = 1, bytes_each: int = 4) -> int:
    """Memory of a whole cache: a key and a value of width ``dim`` a layer and position."""
    return 2 * config.n_layers * config.dim * capacity * batch * bytes_each


def new_cache(
    config: ModelConfig, capacity: int, batch: int = 1, like: Tensor | None = None
) -> KVCache:
    """An empty cache with room for ``capacity`` positions.

    Args:
        config: the model's.
        capacity: positions, at most ``config.max_seq_len`` of use.
        batch: sequences side by side.
        like: a tensor of the model, for the dtype and the device; float32 on the CPU without it.
    """
    like = torch.empty(0) if like is None else like
    shape = (batch, config.n_heads, capacity, config.head_dim)
    # Zeros, since a mask gives what is not written yet the weight 0, and 0 times NaN is NaN.
    keys = [like.new_zeros(shape) for _ in range(config.n_layers)]
    values = [like.new_zeros(shape) for _ in range(config.n_layers)]
    return KVCache(keys, values)
