"""How much memory a computation takes at its highest, and how much of it stays.

On a GPU torch's allocator tells, on a CPU ``efficient.memory_mode``.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from minillama.efficient.memory_mode import MemoryMode


@dataclass(frozen=True)
class Allocated:
    """Bytes above what was there before."""

    peak: int
    """At the highest moment."""
    held: int
    """At the end, with the result still alive."""


def allocated(function: Callable[[], object], device: torch.device | str = "cpu") -> Allocated:
    """Run ``function()`` and count the memory that it allocates on ``device``."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        result = function()
        torch.cuda.synchronize(device)
        peak, held = torch.cuda.max_memory_allocated(device), torch.cuda.memory_allocated(device)
        del result
        return Allocated(peak - before, held - before)
    with MemoryMode() as memory:
        result = function()
    held = memory.now
    del result
    return Allocated(memory.peak, held)
