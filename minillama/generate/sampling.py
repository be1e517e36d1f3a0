"""How the next token is drawn: temperature, top-k, and Meta's rule for top-p.

Both cuts remove the long tail of unlikely tokens, in which a model's errors add up: top-k by
number, top-p (nucleus sampling; Holtzman et al., 2020) by probability.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from minillama.errors import ConfigError, DataError


@dataclass(frozen=True)
class Sampling:
    """The settings; each is checked when it is made. Raises ``ConfigError``."""

    temperature: float = 0.8
    """Divides the logits: below 1 sharper, above 1 flatter, 0 takes the likeliest token."""
    top_k: int | None = None
    """Keep this many of the likeliest tokens."""
    top_p: float | None = 0.95
    """Keep a token unless all likelier ones together already exceed this probability."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature = {self.temperature}", "choose 0 or a positive number")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k = {self.top_k}", "keep at least one token, or None for all")
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise ConfigError(f"top_p = {self.top_p}", "choose a probability, or None for all")

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the tokens that are kept, largest first, and their ids.

        Args:
            logits: ``(vocab_size,)``; the temperature must be above 0.

        Returns:
            ``(kept,)`` float64, which sum to 1, and ``(kept,)`` int64.
        """
        logits, ids = logits.double().sort(descending=True, stable=True)
        p = torch.softmax((logits[: self.top_k] - logits[0]) / self.temperature, dim=-1)
        if self.top_p is not None:
            p = p[p.cumsum(-1) - p <= self.top_p]  # so the token that crosses the line is kept
        return p / p.sum(), ids[: len(p)]

    def choose(self, logits: Tensor, generator: torch.Generator) -> int:
        """Draw a token id from ``logits (vocab_size,)``.

        Raises:
            DataError: the logits are not numbers.
        """
        logits = logits.cpu()  # where a seed means the same for every device
        if not logits.max().isfinite():
            raise DataError(
                "the model's output is not finite",
                "its weights are damaged or its training diverged: take an earlier checkpoint",
            )
        if self.temperature == 0:
            return int(logits.argmax())
        p, ids = self.candidates(logits)
        return int(ids[torch.multinomial(p, 1, generator=generator)])
