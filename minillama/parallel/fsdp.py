"""The plan of Section 2.4, put around a vanilla model: split, recompute, compile, shard.

Fully sharded data parallelism (Rajbhandari et al., 2020; Zhao et al., 2023) cuts every weight,
with its gradient and its moments, into ``shard`` pieces, one for each process. A block's weights
are gathered just before they are used and freed right after, and its gradients are summed and cut
again as soon as they are known, while the next block computes. On a mesh of ``replicate`` x
``shard`` processes that happens within groups of ``shard``, and only summed gradients travel
between the groups (hybrid sharding).
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from minillama.efficient import differentiate_by_hand
from minillama.efficient.recompute import recompute_blocks
from minillama.model import Llama
from minillama.parallel.mesh import ParallelConfig


def parallelize(
    model: Llama,
    config: ParallelConfig,
    mesh: DeviceMesh,
    dtype: Literal["float32", "bfloat16"] = "float32",
    compile: bool = False,
    by_hand: bool = False,
) -> nn.Module:
    """Spread ``model`` over a mesh of ``build_mesh``, in place, and return it.

    Its parameters become DTensors under the same names, of which each process holds a piece. A
    model on the meta device stays there: see ``initialize``.

    Args:
        dtype: of the products, and of the weights while they are gathered. The pieces that the
            optimizer moves, and the sums of gradients, are float32 either way.
        compile: each block by itself, so that one graph serves all of them.
        by_hand: the hand-written backward of ``efficient.block_backward``.
    """
    if by_hand:
        differentiate_by_hand(model)
    if mesh["tensor"].size() > 1:
        from minillama.parallel.tensor import split_matrices

        split_matrices(model, mesh["tensor"], config.sequence)
    recompute_blocks(model, config.recompute)
    if compile:
        for layer in model.layers:
            layer.compile()
    # Inputs are not cast: the rotary table has to stay float32.
    products = torch.bfloat16 if dtype == "bfloat16" else None
    policy = MixedPrecisionPolicy(products, torch.float32, cast_forward_inputs=False)
    around = mesh["shard"] if mesh["replicate"].size() == 1 else mesh["replicate", "shard"]
    free = config.gather == "micro_batch"
    for layer in model.layers:
        fully_shard(layer, mesh=around, mp_policy=policy, reshard_after_forward=free)
    fully_shard(model, mesh=around, mp_policy=policy, reshard_after_forward=False)
    if mesh.device_type == "cpu":  # gloo has no mean: sum, then divide
        for module in (*model.layers, model):
            module.set_force_sum_reduction_for_comms(True)
    return model


def send_gradients(model: nn.Module, config: ParallelConfig, last: bool) -> AbstractContextManager:
    """What a micro-batch's backward sends, as a context around its forward and backward.

    Before the ``last`` micro-batch of a step the gradients are not needed, only their sum is. Plain
    data parallelism and hybrid sharding average it over the replicas once a step. Within a shard
    group every micro-batch's gradients are summed, as only a piece of them can be kept; with
    ``gather = "step"`` they are kept whole, with the whole weights, and nothing at all is sent.
    """
    if not isinstance(model, FSDPModule):
        return nullcontext() if last or not hasattr(model, "no_sync") else model.no_sync()
    model.set_is_last_backward(last)
    model.set_requires_all_reduce(last)
    if config.gather == "step":
        model.set_requires_gradient_sync(last)
        model.set_reshard_after_backward(last)
    return nullcontext()
