"""minillama: the LLaMA paper (Touvron et al., 2023) as one executable course."""

from minillama.config import ModelConfig
from minillama.errors import MinillamaError
from minillama.model import Llama

__all__ = ["Llama", "MinillamaError", "ModelConfig"]
__version__ = "0.1.0"
