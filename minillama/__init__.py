"""minillama: the LLaMA paper (Touvron et al., 2023) as one executable course."""

from importlib import import_module
from typing import Any

from minillama.config import ModelConfig
from minillama.errors import MinillamaError

__all__ = ["Llama", "MinillamaError", "ModelConfig", "Tokenizer", "generate"]
__version__ = "0.1.0"

_LATER = {
    "Llama": "minillama.model",
    "Tokenizer": "minillama.tokenizer",
    "generate": "minillama.inference",
}


def __getattr__(name: str) -> Any:
    """Import on first use: without torch the command line answers in a tenth of a second."""
    if name not in _LATER:
        raise AttributeError(f"module 'minillama' has no attribute '{name}'")
    return globals().setdefault(name, getattr(import_module(_LATER[name]), name))
