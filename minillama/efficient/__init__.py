"""The efficient implementation of Section 2.4: attention in blocks, a block's backward by hand."""

from minillama.efficient.attention import blockwise_attention, naive_attention
from minillama.efficient.block_backward import BlockByHand, by_hand
from minillama.efficient.saved import saved_bytes

__all__ = ["BlockByHand", "blockwise_attention", "by_hand", "naive_attention", "saved_bytes"]
