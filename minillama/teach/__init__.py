"""Helpers for notebooks and classes: show the code, prove equality, check exercises."""

from minillama.teach.check_attention import (
    check_cache_bytes,
    check_sees_the_future,
    check_streaming_attention,
)
from minillama.teach.check_norm_feedforward import (
    check_hidden_dim,
    check_layer_norm,
    check_rms_norm_backward,
)
from minillama.teach.check_rotary import check_half_split, check_interpolation, check_slowest_turn
from minillama.teach.display import COLOURS, show, start
from minillama.teach.proof import agreement, relative_error

__all__ = [
    "COLOURS",
    "agreement",
    "check_cache_bytes",
    "check_half_split",
    "check_hidden_dim",
    "check_interpolation",
    "check_layer_norm",
    "check_rms_norm_backward",
    "check_sees_the_future",
    "check_slowest_turn",
    "check_streaming_attention",
    "relative_error",
    "show",
    "start",
]
