"""Validation loss and bits per byte of a finished model: the formulas are training's own."""

import numpy as np

from minillama.model import Llama
from minillama.train.backend import LocalBackend
from minillama.train.validation import (
    BATCH_TOKENS,
    batches,
    score,
    target_bytes,
    valid_bits_per_byte,
    windows,
    windows_log_prob,
)

__all__ = [
    "BATCH_TOKENS",
    "batches",
    "model_log_prob",
    "score",
    "target_bytes",
    "valid_bits_per_byte",
    "windows",
]


def model_log_prob(model: Llama, parts: list[np.ndarray]) -> float:
    """Total log-probability in nats that a model gives to the targets of the windows."""
    return windows_log_prob(model, parts, LocalBackend(next(model.parameters()).device))
