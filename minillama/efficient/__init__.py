"""The efficient implementation of Section 2.4: attention in blocks, a block's backward by hand."""

from minillama.efficient.block_backward import BlockByHand, differentiate_by_hand
from minillama.efficient.flash_attention import blockwise_attention, full_attention
from minillama.efficient.recompute import recompute_blocks
from minillama.efficient.saved_tensors import saved_bytes

__all__ = [
    "BlockByHand",
    "blockwise_attention",
    "differentiate_by_hand",
    "full_attention",
    "recompute_blocks",
    "saved_bytes",
]
