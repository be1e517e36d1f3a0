"""Text generation: the key-value cache, sampling, and the engine that streams text."""

import sys
from types import ModuleType

from minillama.generate.batch import generate_tokens, row_seed
from minillama.generate.decoder import Decoder
from minillama.generate.engine import Completion, complete, generate
from minillama.generate.sampling import Sampling

__all__ = [
    "Completion", "Decoder", "Sampling", "complete", "generate", "generate_tokens", "row_seed",
]  # fmt: skip


# `minillama.generate` is this package and, for `from minillama import generate`, also a function. A
# module can be called if its class says how; so both work, whatever is imported first.
class _CallableModule(ModuleType):
    __call__ = staticmethod(generate)


sys.modules[__name__].__class__ = _CallableModule
