"""How many bytes a forward pass leaves for its backward."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def saved_bytes(forward: Callable[[], object], leave_out: Iterable[Tensor] = ()) -> int:
    """Bytes of activations that ``forward()`` keeps for its backward.

    A memory block that several operations keep, or keep views of, counts once. Of a tensor that is
    divided over processes, this process's piece counts.

    Args:
        forward: runs the forward pass and returns its result, which lives until it is counted.
        leave_out: tensors that are there anyhow, such as the parameters.
    """

    def piece(tensor: Tensor) -> Tensor:
        return getattr(tensor, "_local_tensor", tensor)  # a DTensor has no storage of its own

    elsewhere = {piece(tensor).untyped_storage().data_ptr() for tensor in leave_out}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = piece(tensor).untyped_storage()
        if storage.data_ptr() not in elsewhere:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()
    del result  # not earlier: an address that is free again may be given to another tensor
    return sum(found.values())
