"""Text generation: the key-value cache, sampling, and the engine that streams text."""

from minillama.inference.batch import generate_tokens, row_seed
from minillama.inference.decoder import Decoder
from minillama.inference.engine import Completion, complete, generate
from minillama.inference.sampling import Sampling

__all__ = [
    "Completion", "Decoder", "Sampling", "complete", "generate", "generate_tokens", "row_seed",
]  # fmt: skip
