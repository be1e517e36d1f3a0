"""Log-likelihoods of many completions at once, with no position computed twice or in vain.

The completions of a question share its context: they stand behind it in one row, and each sees the
context and itself, but no other. A context of three ids with two completions of two is the row

    part        0 0 0 1 1 2 2
    position    0 1 2 3 4 3 4      where each id stands in its own text

      0 0       x . . . . . .      x: what each id (a line) may look at
      0 1       x x . . . . .
      0 2       x x x . . . .
      1 3       x x x x . . .
      1 4       x x x x x . .
      2 3       x x x . . x .
      2 4       x x x . . x x

Rows of all lengths lie end to end for the matrix products, so that nothing is filled up; only
attention pads them.
"""

import os
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from minillama.model import Llama


@dataclass(frozen=True)
class Window:
    """A stretch of a request that fits the model."""

    request: int
    """Number of the request."""
    ids: list[int]
    """Context first; the last id is only predicted."""
    scored: int
    """How many of the last ids are predicted."""


class PackedRow:
    """Windows that begin alike: what they share, then what each has of its own."""

    def __init__(self, windows: list[Window]) -> None:
        self.windows = windows
        shared = len(os.path.commonprefix([window.ids[:-1] for window in windows]))
        self.tokens = windows[0].ids[:shared]
        self.positions = list(range(shared))
        self.part = [0] * shared
        self.read: list[int] = []
        """The places in the row from which an id is predicted."""
        self.targets: list[int] = []
        """The ids that are predicted there."""
        for part, window in enumerate(windows, start=1):
            own = window.ids[shared:-1]
            begin = len(self.tokens)
            self.tokens += own
            self.positions += range(shared, shared + len(own))
            self.part += [part] * len(own)
            places = [*range(shared), *range(begin, begin + len(own))]
            self.read += places[len(places) - window.scored :]
            self.targets += window.ids[-window.scored :]

    def __len__(self) -> int:
        return len(self.tokens)


class RowMask:
    """Where the ids of rows that lie end to end stand in a padded batch, and what they see."""

    def __init__(self, rows: list[PackedRow], device: torch.device) -> None:
        longest = max(map(len, rows))
        part = torch.full((len(rows), longest), -1)  # -1: padding
        for i, row in enumerate(rows):
            part[i, : len(row)] = torch.tensor(row.part)
        self.shape = part.shape
        self.inside = (part >= 0).flatten().nonzero().squeeze(1).to(device)
        part = part.to(device)
        shared = part[:, None, :] == 0
        same = part[:, None, :] == part[:, :, None]
        self.sees = (shared | same).tril()[:, None]  # (rows, 1, longest, longest)

    def attention(self, _: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention of every row by itself, ``(all positions, heads, head_dim)`` to the same."""
        q, k, v = self.pad(q), self.pad(k), self.pad(v)
        mixed = F.scaled_dot_product_attention(q, k, v, self.sees)
        return rearrange(mixed, "r h t d -> (r t) h d")[self.inside]

    def pad(self, flat: Tensor) -> Tensor:
        """``(all positions, heads, head_dim)`` to ``(rows, heads, longest, head_dim)``."""
        padded = flat.new_zeros(self.shape.numel(), *flat.shape[1:])
        padded[self.inside] = flat
        return rearrange(padded, "(r t) h d -> r h t d", r=self.shape[0])


def score_rows(model: Llama, rows: list[PackedRow]) -> list[tuple[float, bool]]:
    """Total log-probability of each window, and whether all its ids are the likeliest."""
    device = model.output.weight.device

    # All rows end to end.
    tokens, positions, read, targets = [], [], [], []
    for row in rows:
        read += [len(tokens) + place for place in row.read]
        targets += row.targets
        tokens += row.tokens
        positions += row.positions

    # The model, but for what each position may look at.
    mask = RowMask(rows, device)
    tokens, positions, read = (torch.tensor(t, device=device) for t in (tokens, positions, read))
    x = model.hidden_states(tokens, mask.attention, positions)  # (positions, dim)
    logits = model.output(x[read]).float()  # (targets, vocab_size)

    # Each window has its share of the targets.
    target = torch.tensor(targets, device=device)
    log_p = -F.cross_entropy(logits, target, reduction="none").double()
    likeliest = logits.argmax(-1) == target
    sizes = [window.scored for row in rows for window in row.windows]
    return [
        (float(values.sum()), bool(best.all()))
        for values, best in zip(log_p.split(sizes), likeliest.split(sizes), strict=True)
    ]
