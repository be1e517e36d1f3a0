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
        penalty = self.repetition_penalty
        ids = torch.tensor(seen, dtype=torch.int64, device=logits.device)
        old = logits[ids]
        new = torch.where(old < 0, old * penalty, old / penalty)
        new = new.nan_to_num()  # 0 / 0 is 0; infinite, the largest
        return logits.index_put((ids,), new)

    def candidates(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of the tokens that are kept, largest first, and their ids.

        Args:
            logits: ``(vocab_size,)``; the temperature must be above 0.

        Returns:
            ``(kept,)`` float64, which sum to 1, and ``(kept,)`` int64.
        """
        logits = logits.double()
        all_p = self.top_p is None or self.top_p == 1
        head = min(self.top_k or HEAD, len(logits))
        top, ids = logits.topk(head)
        scaled = (top - top[0]) / self.temperature

        # probabilities among the top k, or among all tokens
        if self.top_k is not None:
            p = torch.softmax(scaled, dim=-1)
        else:
            total = torch.exp((logits - top[0]) / self.temperature).sum()
            p = torch.exp(scaled) / total
            if all_p or p.sum() <= self.top_p:  # the others matter too
                top, ids = logits.sort(descending=True, stable=True)
                p = torch.softmax((top - top[0]) / self.temperature, dim=-1)

        # the token that crosses the line is kept
        if not all_p:
            before = p.cumsum(-1) - p
            p = p[before <= self.top_p]
        return p / p.sum(), ids[: len(p)]

    def choose_each(
        self,
        logits: Tensor,
        generators: Sequence[torch.Generator],
        seen: Sequence[Sequence[int]],
    ) -> list[int]:
        """Draw an id from each row of ``logits (rows, vocab_size)``, with a generator of its own.

        Args:
            logits: of the next token of each row.
            generators: one for each row.
            seen: the ids of each row so far, for the penalty.

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
            rows = zip(logits, seen, strict=True)
            logits = torch.stack([self.penalized(row, ids) for row, ids in rows])
        if self.temperature == 0:
            wide = torch.promote_types(logits.dtype, torch.float32)
            return logits.to(wide).numpy().argmax(-1).tolist()  # torch's takes ten times as long

        tokens = []
        for row, generator in zip(logits, generators, strict=True):
            p, ids = self.candidates(row)
            drawn = torch.multinomial(p, 1, generator=generator)
            tokens.append(int(ids[drawn]))
        return tokens
