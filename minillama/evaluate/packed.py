"""Log-likelihoods of many completions at once, with no position computed twice or in vain.

The completions of a question share its context: they stand behind it in one row, each sees the
context and itself, and no other. Rows of all lengths lie end to end for the matrix products, so
that nothing is filled up; only attention pads them.
"""

import os

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minillama.model import Llama
from minillama.model.rotary import apply_rotary


class Bundle:
    """Completions that begin alike: what they share, then what each has of its own.

    Args:
        parts: ids, how many of the last ones are scored, and the number of the request.
    """

    def __init__(self, parts: list[tuple[list[int], int, int]]) -> None:
        inputs = [ids[:-1] for ids, _, _ in parts]  # the last id is only predicted
        shared = len(os.path.commonprefix(inputs))
        self.numbers = [number for _, _, number in parts]
        self.scored = [scored for _, scored, _ in parts]
        self.tokens = inputs[0][:shared]
        self.positions, self.part = list(range(shared)), [0] * shared
        self.read: list[int] = []  # the places in the row from which an id is predicted
        self.targets: list[int] = []
        for part, (own, (ids, scored, _)) in enumerate(zip(inputs, parts, strict=True), start=1):
            begin = len(self.tokens)
            places = [*range(shared), *range(begin, begin + len(own) - shared)]
            self.tokens += own[shared:]
            self.positions += range(shared, len(own))
            self.part += [part] * (len(own) - shared)
            self.read += places[len(own) - scored :]
            self.targets += ids[len(ids) - scored :]

    def __len__(self) -> int:
        return len(self.tokens)


def score_rows(model: Llama, rows: list[Bundle]) -> list[tuple[float, bool]]:
    """Total log-probability of each request, and whether all its ids are the likeliest."""
    device = model.output.weight.device
    longest = max(map(len, rows))
    flat = torch.tensor([i for row in rows for i in row.tokens], device=device)
    positions = torch.tensor([p for row in rows for p in row.positions], device=device)
    part = torch.full((len(rows), longest), -1)
    for i, row in enumerate(rows):
        part[i, : len(row)] = torch.tensor(row.part)
    inside = (part >= 0).flatten().nonzero().squeeze(1).to(device)
    part = part.to(device)
    sees = (part[:, None, :] == 0) | (part[:, None, :] == part[:, :, None])
    mask = sees.tril()[:, None]  # (rows, 1, longest, longest)
    x = model.tok_embeddings(flat)[None]  # (1, all positions, dim)
    table = model.rotary[positions]
    for layer in model.layers:
        x = x + attend(layer.attention, layer.attention_norm(x), table, mask, inside)
        x = x + layer.feed_forward(layer.ffn_norm(x))
    starts = [0]
    for row in rows:
        starts.append(starts[-1] + len(row))
    read = [start + i for start, row in zip(starts, rows, strict=False) for i in row.read]
    targets = torch.tensor([i for row in rows for i in row.targets], device=device)
    logits = model.output(model.norm(x[0, torch.tensor(read, device=device)])).float()
    log_p = -F.cross_entropy(logits, targets, reduction="none").double()
    likeliest = logits.argmax(-1) == targets
    sizes = [n for row in rows for n in row.scored]
    parts = zip(log_p.split(sizes), likeliest.split(sizes), strict=True)
    return [(float(values.sum()), bool(best.all())) for values, best in parts]


def attend(
    attention: nn.Module, x: Tensor, table: Tensor, mask: Tensor, inside: Tensor
) -> Tensor:  # fmt: skip
    """``Attention.forward`` for rows that lie end to end ``(1, all positions, dim)``."""
    heads = (-1, attention.head_dim)
    rows, _, longest, _ = mask.shape

    def spread(flat: Tensor) -> Tensor:
        full = flat.new_zeros(rows * longest, *flat.shape[2:])
        full[inside] = flat[0]
        return full.unflatten(0, (rows, longest)).transpose(1, 2)

    q = spread(apply_rotary(attention.wq(x).unflatten(-1, heads), table))
    k = spread(apply_rotary(attention.wk(x).unflatten(-1, heads), table))
    v = spread(attention.wv(x).unflatten(-1, heads))
    mixed = F.scaled_dot_product_attention(q, k, v, mask)
    return attention.wo(mixed.transpose(1, 2).flatten(-2).flatten(0, 1)[inside][None])
