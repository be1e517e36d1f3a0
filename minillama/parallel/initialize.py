"""The same initial weights on every mesh, though no process ever holds the whole model.

A model that is built on the meta device has shapes and no numbers. Here each matrix is drawn whole,
in the order in which ``Llama(config)`` draws, and of each a process keeps its piece.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from minillama.model import Llama
from minillama.model.rotary import model_table


def initialize(model: Llama, device: torch.device | str, seed: int) -> None:
    """Give a (spread) model on the meta device the weights of ``manual_seed(seed); Llama(config)``.

    On a CPU they are the same bit for bit. A GPU draws other numbers, but the same on every mesh.
    Beside its own pieces, a process needs room for one whole matrix.
    """
    model.to_empty(device=device)
    model.rotary.copy_(model_table(model.config))
    torch.manual_seed(seed)
    for layer in model.modules():  # torch's layers draw when they are made, and are drawn again
        if isinstance(layer, nn.Embedding):
            nn.init.normal_(torch.empty(layer.weight.shape, device=device))
        elif isinstance(layer, nn.Linear):
            whole = torch.empty(layer.weight.shape, device=device)
            nn.init.kaiming_uniform_(whole, a=math.sqrt(5))
    Llama.init_weights(_OneByOne(model, device))


class _OneByOne:
    """What ``Llama.init_weights`` sees of a model: whole matrices, one at a time."""

    def __init__(self, model: Llama, device: torch.device | str) -> None:
        self.config, self._model, self._device = model.config, model, device

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each name with a buffer; what it holds at the next step is the weight."""
        for name, parameter in self._model.named_parameters():
            whole = torch.empty(parameter.shape, device=self._device)
            yield name, whole
            with torch.no_grad():
                keep_piece(parameter, whole)


def keep_piece(parameter: Tensor, whole: Tensor) -> None:
    """Copy into ``parameter`` what of ``whole``, of the same global shape, is this process's."""
    if not isinstance(parameter, DTensor):
        parameter.copy_(whole)
        return
    shape, offset = compute_local_shape_and_global_offset(
        parameter.shape, parameter.device_mesh, parameter.placements
    )
    for dim, (start, length) in enumerate(zip(offset, shape, strict=True)):
        whole = whole.narrow(dim, min(start, whole.shape[dim] - length), length)
    parameter.to_local().copy_(whole)
