"""Text generation: the key-value cache, sampling, and the engine that streams text."""

from minillama.inference.decoder import Decoder
from minillama.inference.engine import generate_tokens, row_seed
from minillama.inference.sampling import Sampling
from minillama.inference.text import Completion, complete, generate

__all__ = [
    "Completion", "Decoder", "Sampling", "complete", "generate", "generate_tokens", "row_seed",
]  # fmt: skip
