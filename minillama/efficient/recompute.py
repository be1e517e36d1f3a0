"""Computing activations again in the backward instead of keeping them (Chen et al., 2016).

``full`` keeps a block's input and runs the whole block again when its gradients are due: the least
memory, for a third more arithmetic. ``selective`` (Korthikanti et al., 2022; Section 2.4) keeps
"the activations that are expensive to compute, such as the outputs of linear layers", and
computes the cheap rest again: by torch's own checkpointing here, written out by hand in
``efficient.block_backward``. Values and gradients are the same to the bit: the same operations run,
some of them twice.
"""

from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from minillama.efficient.block_backward import BlockByHand
from minillama.errors import ConfigError
from minillama.model.transformer import Llama, TransformerBlock

Recompute = Literal["none", "selective", "full"]
"""What of a block is computed again in the backward pass."""

aten = torch.ops.aten
PRODUCTS = {aten.mm.default, aten.addmm.default}
ATTENTION = {
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
}


def recompute_blocks(model: Llama, choice: Recompute) -> Llama:
    """Make every block of ``model`` recompute, in place, and return the model.

    Parameters and their names stay as they are. Call it once, after matrices were split and before
    ``fully_shard``.

    Raises:
        ConfigError: ``selective`` for blocks with the hand-written backward.
    """
    if choice == "none":
        return model
    if choice == "selective" and any(isinstance(layer, BlockByHand) for layer in model.layers):
        raise ConfigError(
            "recompute = selective with backward = by_hand: that backward is selective already",
            "choose recompute = none or full, or backward = autograd",
        )
    options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}  # no dropout
    if choice == "selective":
        policy = partial(_keep_products, model.config.hidden_dim)
        options["context_fn"] = partial(create_selective_checkpoint_contexts, policy)
    for number, layer in enumerate(model.layers):
        model.layers[number] = RecomputedBlock(layer, options)
    return model


class RecomputedBlock(nn.Module):
    """Runs a block's forward, and once more in the backward; parameters keep their names."""

    def __init__(self, block: TransformerBlock, options: dict[str, Any]) -> None:
        super().__init__()
        for name, child in block.named_children():
            self.add_module(name, child)
        self.run, self.options = block.forward, options

    def forward(self, *args: Any) -> Tensor:
        """As in ``TransformerBlock``."""
        return checkpoint(self.run, *args, **self.options)

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """As ``nn.Module.compile``; with ``full``, what runs twice and not the running twice.

        (torch 2.13 fails to divide such a graph in forward and backward where DTensors are in it.)
        """
        if "context_fn" in self.options:
            super().compile(*args, **kwargs)
        else:
            self.run = torch.compile(self.run, *args, **kwargs)


def _keep_products(
    hidden_dim: int, _: SelectiveCheckpointContext, operation: Any, *args: Any, **__: Any
) -> CheckpointPolicy:
    """Keep what is expensive, except w2's output: it is only added to the residual stream.

    w2's product is the one whose rows have ``hidden_dim`` numbers. What is kept is 6d + 2f numbers
    a token, as in the backward by hand. With matrices split over processes wo's product is kept
    as each has it, not yet summed: all d numbers a token, where the backward by hand keeps a part.
    """
    product = operation in PRODUCTS and args[-2].shape[1] != hidden_dim
    if product or operation in ATTENTION:
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
