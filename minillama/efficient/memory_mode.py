"""Counting the memory of a computation where no allocator does: on a CPU, or of fake tensors."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass_type
from torch.utils._pytree import tree_leaves


class MemoryMode(TorchDispatchMode):
    """Adds up the bytes of all memory blocks that operations have made and that are still in use.

    A block counts from the operation that makes it until its last tensor is gone; one that was
    there before does not count. What a kernel allocates and frees within one operation is not seen.
    FSDP also empties blocks and fills them again, by ``resize_``, which is no operation and is
    watched by itself.

    Args:
        counted: tensors that are there before and count.
    """

    def __init__(self, counted: Iterable[Tensor] = ()) -> None:
        super().__init__()
        self.now = self.peak = 0
        """Bytes in use, and the most that there were."""
        self.largest = 0
        """Numbers in the largest tensor that an operation has made."""
        self._sizes: dict[int, int] = {}
        for tensor in counted:
            self._enter(tensor.untyped_storage(), tensor.untyped_storage().nbytes())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(map(is_traceable_wrapper_subclass_type, types)):
            return NotImplemented  # a DTensor: what it does with its local tensor comes by later
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self._enter(tensor.untyped_storage(), 0)  # was there before, unless it is in the books
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            self.largest = max(self.largest, tensor.numel())
            self._enter(tensor.untyped_storage(), tensor.untyped_storage().nbytes())
        return result

    def __enter__(self) -> "MemoryMode":
        def resize(block: torch.UntypedStorage, size: int) -> None:
            self._resize_block(block, size)
            if block._cdata in self._sizes:
                self._change(block._cdata, size)

        self._resize_block: Callable = torch.UntypedStorage.resize_
        torch.UntypedStorage.resize_ = resize
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        torch.UntypedStorage.resize_ = self._resize_block

    def _enter(self, block: torch.UntypedStorage, size: int) -> None:
        key = block._cdata
        if key not in self._sizes:
            self._change(key, size)
            weakref.finalize(block, self._leave, key).atexit = False

    def _change(self, key: int, size: int) -> None:
        self.now += size - self._sizes.get(key, 0)
        self.peak = max(self.peak, self.now)
        self._sizes[key] = size

    def _leave(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _tensors(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
