"""How much memory a computation takes at its highest, and how much of it stays.

On a GPU torch's allocator tells. On a CPU nobody keeps the books, so a mode that sees every tensor
operation does: a block of memory counts from the operation that makes it until its last tensor is
gone. What a kernel allocates and frees within one operation is not seen.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type
from torch.utils._pytree import tree_leaves


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
    with _Books() as books:
        result = function()
    held = books.now
    del result
    return Allocated(books.peak, held)


class _Books(TorchDispatchMode):
    """Keeps the sum of all memory blocks that operations have made and that are still in use."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if any(map(is_traceable_wrapper_subclass_type, types)):
            return NotImplemented  # a DTensor: what it does with its local tensor comes by later
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self.enter(tensor, count=False)  # it was there before, unless it is in the books
        result = operation(*args, **kwargs)
        for tensor in _tensors(result):
            self.enter(tensor, count=True)
        return result

    def enter(self, tensor: Tensor, count: bool) -> None:
        """Write down the tensor's memory block, until it is freed."""
        storage = tensor.untyped_storage()
        if storage._cdata in self.seen:
            return
        size = storage.nbytes() * count
        self.seen.add(storage._cdata)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.leave, storage._cdata, size).atexit = False

    def leave(self, address: int, size: int) -> None:
        """Strike a memory block that is freed."""
        self.seen.discard(address)
        self.now -= size


def _tensors(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
