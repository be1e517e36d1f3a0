"""The model of Section 2.2, one idea a file."""

from minillama.model.attention import Attention
from minillama.model.feedforward import FeedForward
from minillama.model.norm import RMSNorm
from minillama.model.rotary import (
    apply_rotary,
    attention_factor,
    model_table,
    rotary_angles,
    rotary_table,
    scaled_frequencies,
)
from minillama.model.transformer import Llama, TransformerBlock

__all__ = [
    "Attention",
    "FeedForward",
    "Llama",
    "RMSNorm",
    "TransformerBlock",
    "apply_rotary",
    "attention_factor",
    "model_table",
    "rotary_angles",
    "rotary_table",
    "scaled_frequencies",
]
