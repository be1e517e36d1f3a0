"""The same initial weights on every mesh, though no process ever holds the whole model.

A model that is built on the meta device has shapes and no numbers. Here each matrix is drawn whole,
in the order in which ``Llama(config)`` draws, and of each a process keeps its shard.
"""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from minillama.model import Llama
from minillama.model.rotary import model_table


def initialize(model: Llama, device: torch.device | str, seed: int) -> None:
    """Give a (spread) model on the meta device the weights of ``manual_seed(seed); Llama(config)``.

    On a CPU they are the same bit for bit. A GPU draws other numbers, but the same on every mesh.
    Beside its own shards, a process needs room for one whole matrix.
    """
    model.to_empty(device=device)
    model.rotary.copy_(model_table(model.config))
    torch.manual_seed(seed)
    for layer in model.modules():  # torch's layers draw when they are made, and are drawn again
        if isinstance(layer, nn.Embedding):
            nn.Embedding(*layer.weight.shape, device=device)
        elif isinstance(layer, nn.Linear):
            nn.Linear(layer.in_features, layer.out_features, bias=False, device=device)
    for name, parameter in model.named_parameters():
        whole = torch.empty(parameter.shape, device=device)
        model.init_weight(name, whole)
        keep_shard(parameter, whole)


@torch.no_grad()
def keep_shard(tensor: Tensor, whole: Tensor) -> None:
    """Copy into ``tensor`` what of ``whole``, of the same global shape, is this process's."""
    if not isinstance(tensor, DTensor):
        tensor.copy_(whole)
        return
    shape, offset = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    for dim, (start, length) in enumerate(zip(offset, shape, strict=True)):
        start = min(start, whole.shape[dim] - length)  # of an empty shard
        whole = whole.narrow(dim, start, length)
    tensor.to_local().copy_(whole)
