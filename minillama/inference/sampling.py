"""How the next token is drawn: a penalty on repeats, temperature, top-k, and Meta's top-p.

Both cuts remove the long tail of unlikely tokens, in which a model's errors add up: top-k by
number, top-p (nucleus sampling; Holtzman et al., 2020) by probability. The penalty (CTRL; Keskar
et al., 2019) makes tokens that are already there less likely.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from minillama.errors import ConfigError, DataError

HEAD = 1024
"""So many of the likeliest tokens are looked at first: sorting all takes longer than the model."""


@dataclass(frozen=True)
class Sampling:
    """The settings; each is checked when it is made. Raises ``ConfigError``."""

    temperature: float = 0.8
    """Divides the logits: below 1 sharper, above 1 flatter, 0 takes the likeliest token."""
    top_k: int | None = None
    """Keep this many of the likeliest tokens."""
    top_p: float | None = 0.95
    """Keep a token unless all likelier ones together already exceed this probability."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of ids in the prompt or output, and multiplies the negative."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ConfigError(f"temperature = {self.temperature}", "choose 0 or a positive number")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k = {self.top_k}", "keep at least one token, or None for all")
        if self.top_p is not None and not 0 <= self.top_p <= 1:
            raise ConfigError(f"top_p = {self.top_p}", "choose a probability, or None for all")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ConfigError(
                f"repetition_penalty = {self.repetition_penalty}", "choose a positive number"
            )

    def penalized(self, logits: Tensor, seen: Sequence[int]) -> Tensor:
        """``logits (vocab_size,)`` with the penalty on the ids that were ``seen``, each once."""
        ids = torch.tensor(seen, dtype=torch.int64, device=logits.device)
        there = logits[ids]
        there = torch.where(
            there < 0, there * self.repetition_penalty, there / self.repetition_penalty
        )
        return logits.index_put((ids,), there.nan_to_num())  # 0 / 0 is 0; infinite, the largest

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the tokens that are kept, largest first, and their ids.

        Args:
            logits: ``(vocab_size,)``; the temperature must be above 0.

        Returns:
            ``(kept,)`` float64, which sum to 1, and ``(kept,)`` int64.
        """
        logits, everything = logits.double(), self.top_p in (None, 1)
        head = min(self.top_k or HEAD, len(logits))
        top, ids = logits.topk(head)
        if self.top_k is None:
            weights = torch.exp((logits - top[0]) / self.temperature)
            p = torch.exp((top - top[0]) / self.temperature) / weights.sum()
            if everything or p.sum() <= self.top_p:  # the others matter too
                top, ids = logits.sort(descending=True, stable=True)
                p = torch.softmax((top - top[0]) / self.temperature, dim=-1)
        else:
            p = torch.softmax((top - top[0]) / self.temperature, dim=-1)
        if not everything:
            p = p[p.cumsum(-1) - p <= self.top_p]  # so the token that crosses the line is kept
        return p / p.sum(), ids[: len(p)]

    def choose(self, logits: Tensor, generator: torch.Generator, seen: Sequence[int] = ()) -> int:
        """Draw a token id from ``logits (vocab_size,)``; ``seen`` are the ids before it.

        Raises:
            DataError: the logits are not numbers.
        """
        return self.choose_each(logits[None], [generator], [seen])[0]

    def choose_each(
        self,
        logits: Tensor,
        generators: Sequence[torch.Generator],
        seen: Sequence[Sequence[int]],
    ) -> list[int]:
        """Draw an id from each row of ``logits (rows, vocab_size)``, with a generator of its own.

        Raises:
            DataError: the logits are not numbers.
        """
        logits = logits.cpu()  # where a seed means the same for every device
        if not logits.amax(-1).isfinite().all():
            raise DataError(
                "the model's output is not finite",
                "its weights are damaged or its training diverged: take an earlier checkpoint",
            )
        if self.repetition_penalty != 1:
            rows = (self.penalized(*pair) for pair in zip(logits, seen, strict=True))
            logits = torch.stack(list(rows))
        if self.temperature == 0:
            if logits.dtype not in (torch.float32, torch.float64):
                logits = logits.float()
            return logits.numpy().argmax(-1).tolist()  # torch's takes ten times as long
        return [
            self._draw(row, generator) for row, generator in zip(logits, generators, strict=True)
        ]

    def _draw(self, logits: Tensor, generator: torch.Generator) -> int:
        p, ids = self.candidates(logits)
        return int(ids[torch.multinomial(p, 1, generator=generator)])
