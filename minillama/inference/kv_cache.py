"""The key-value cache: keys and values of earlier positions never change, so they are kept.

Without it, token number n costs a pass over all n positions; with it, a pass over one. Its price is
memory: 2 * n_layers * dim numbers a position (0.5 MiB for the 7B model in 16 bits).
"""

import torch
from torch import Tensor

from minillama.config import ModelConfig
from minillama.errors import DataError


class LayerCache:
    """The keys and values of one layer, in memory that is reserved once."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        """Reserve ``keys`` and ``values``, both ``(batch, heads, capacity, head_dim)``."""
        self.keys, self.values = keys, values
        self.length = 0

    def __call__(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append ``(batch, heads, new, head_dim)`` and return views of all that is held.

        Raises:
            DataError: there is no room for so many positions.
        """
        start, end = self.length, self.length + keys.shape[2]
        if end > self.keys.shape[2]:
            raise DataError(
                f"position {end} is beyond the cache's {self.keys.shape[2]}",
                "reserve a longer cache",
            )
        self.keys[:, :, start:end], self.values[:, :, start:end] = keys, values
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def select(self, rows: list[int]) -> None:
        """Keep these rows only, in this order; a row may be taken several times."""
        self.keys, self.values = self.keys[rows], self.values[rows]


def cache_bytes(config: ModelConfig, capacity: int, batch: int = 1, bytes_each: int = 4) -> int:
    """Memory of a whole cache: a key and a value of width ``dim`` a layer and position."""
    return 2 * config.n_layers * config.dim * capacity * batch * bytes_each


def new_cache(
    config: ModelConfig, capacity: int, batch: int = 1, like: Tensor | None = None
) -> list[LayerCache]:
    """An empty cache for each layer, with room for ``capacity`` positions.

    Args:
        config: the model's.
        capacity: positions, at most ``config.max_seq_len`` of use.
        batch: sequences side by side.
        like: a tensor of the model, for the dtype and the device; float32 on the CPU without it.
    """
    like = torch.empty(0) if like is None else like
    # Zeros, since a mask gives what is not written yet the weight 0, and 0 times NaN is NaN.
    shape = (batch, config.n_heads, capacity, config.head_dim)
    return [
        LayerCache(like.new_zeros(shape), like.new_zeros(shape)) for _ in range(config.n_layers)
    ]
