"""The checks of notebooks 03, 04 and 05: right answers pass, typical mistakes are named."""

import math
from collections.abc import Callable

import torch
from exercises import *  # noqa: F403
from torch import Tensor

from minillama.model import rotary_angles, rotary_table


def norm_backward(mistake: str) -> Callable:
    def answer(x: Tensor, weight: Tensor, eps: float, upstream: Tensor) -> tuple[Tensor, Tensor]:
        root = (x**2).mean(-1, keepdim=True).add(eps).sqrt()
        unit, g = x / root, upstream * weight
        projection = (g * unit).sum(-1, keepdim=True) / (1 if mistake == "sum" else x.shape[-1])
        grad_x = g / root if mistake == "constant" else (g - unit * projection) / root
        grad_weight = upstream * unit
        if mistake != "batch":
            grad_weight = grad_weight.view(-1, x.shape[-1]).sum(0)
        return grad_x, grad_weight

    return answer


def half_split(kind: str) -> Callable:
    def answer(weight: Tensor, n_heads: int) -> Tensor:
        half = weight.shape[0] // n_heads // 2
        if kind == "inverse":
            return weight.unflatten(0, (n_heads, 2, half)).transpose(1, 2).flatten(0, 2)
        if kind == "columns":
            return weight.T.unflatten(0, (n_heads, half, 2)).transpose(1, 2).flatten(0, 2).T
        if kind == "heads":
            return torch.cat((weight[::2], weight[1::2]))
        if kind == "right":
            return weight.unflatten(0, (n_heads, half, 2)).transpose(1, 2).flatten(0, 2)
        return weight

    return answer


def interpolation(kind: str) -> Callable:
    def answer(head_dim: int, positions: int, trained: int) -> Tensor:
        scale = trained / positions
        if kind == "plain":
            return rotary_table(head_dim, positions)
        if kind == "shrunk":
            return rotary_table(head_dim, positions) * scale
        scale = 1 / scale if kind == "faster" else scale
        angles = rotary_angles(head_dim, positions) * scale
        return torch.stack((angles.cos(), angles.sin()), -1)

    return answer


def attention(causal: bool = True, scaled: bool = True) -> Callable:
    def answer(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q @ k.T / (q.shape[-1] ** 0.5 if scaled else 1.0)
        if causal:
            scores = scores + torch.full_like(scores, -math.inf).triu(1)
        return scores.softmax(-1) @ v

    return answer


def overflowing(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows = []
    for m, query in enumerate(q):
        shares = (k[: m + 1] @ query / len(query) ** 0.5).exp()
        rows.append(shares @ v[: m + 1] / shares.sum())
    return torch.stack(rows)


def last_only(layer: Callable, x: Tensor) -> bool:
    changed = x.clone()
    changed[:, -1] += 1
    return not torch.equal(layer(changed)[:, :-1], layer(x)[:, :-1])


def slowest_turn(head_dim: int, theta: float) -> float:
    return 2 * math.pi * theta ** (1 - 2 / head_dim)


def streaming(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows = []
    for m, query in enumerate(q):
        shares = (k[: m + 1] @ query / len(query) ** 0.5).softmax(0)
        rows.append(shares @ v[: m + 1])
    return torch.stack(rows)


def any_position(layer: Callable, x: Tensor) -> bool:
    before, seen = layer(x), False
    for position in range(1, x.shape[1]):
        changed = x.clone()
        changed[:, position:] += torch.randn(changed[:, position:].shape, dtype=x.dtype)
        seen |= not torch.equal(layer(changed)[:, :position], before[:, :position])
    return seen


RIGHT: list[tuple[str, Callable]] = [
    ("check_rms_norm_backward", norm_backward("none")),
    ("check_layer_norm", lambda x, norm: norm(x - x.mean(-1, keepdim=True))),
    ("check_hidden_dim", lambda d, m: -(8 * d // 3 // -m) * m),
    ("check_slowest_turn", slowest_turn),
    ("check_half_split", half_split("right")),
    ("check_interpolation", interpolation("right")),
    ("check_streaming_attention", streaming),
    ("check_cache_bytes", lambda c, b, s, n: 2 * c.n_layers * b * s * c.dim * n),
    ("check_sees_the_future", any_position),
]

MISTAKES: list[tuple[str, Callable, str]] = [
    ("check_rms_norm_backward", norm_backward("constant"), "root mean square constant"),
    ("check_rms_norm_backward", norm_backward("sum"), "needs a mean where you sum"),
    ("check_rms_norm_backward", norm_backward("batch"), "sum its gradient"),
    ("check_layer_norm", lambda x, norm: norm(x), "center the vector first"),
    ("check_layer_norm", lambda x, norm: norm(x - x.mean()), "one mean for the whole tensor"),
    ("check_layer_norm", lambda x, norm: norm(x) - norm(x).mean(-1, keepdim=True), "order matters"),
    ("check_hidden_dim", lambda d, m: 4 * d, "ReLU layer"),
    ("check_hidden_dim", lambda d, m: 8 * d // 3 // m * m, "round up"),
    ("check_hidden_dim", lambda d, m: 8 * d // 3, "not a multiple of 256"),
    ("check_hidden_dim", lambda d, m: 8 * d / 3, "whole number"),
    ("check_slowest_turn", lambda h, t: t ** ((h - 2) / h), "2 pi radians"),
    ("check_slowest_turn", lambda h, t: 2 * math.pi * t, "short of 1"),
    ("check_slowest_turn", lambda h, t: 2 * math.pi, "fastest pair"),
    ("check_half_split", half_split("none"), "old order"),
    ("check_half_split", half_split("inverse"), "the other way"),
    ("check_half_split", half_split("columns"), "not columns"),
    ("check_half_split", half_split("heads"), "one head to another"),
    ("check_interpolation", interpolation("plain"), "nothing was squeezed"),
    ("check_interpolation", interpolation("shrunk"), "no rotation"),
    ("check_interpolation", interpolation("faster"), "faster, not slower"),
    ("check_streaming_attention", attention(), "that is T x T"),
    ("check_streaming_attention", attention(causal=False), "looks at later ones"),
    ("check_streaming_attention", attention(scaled=False), "not divided"),
    ("check_streaming_attention", overflowing, "overflow"),
    ("check_cache_bytes", lambda c, b, s, n: c.n_layers * b * s * c.dim * n, "values too"),
    ("check_cache_bytes", lambda c, b, s, n: 2 * b * s * c.dim * n, "every layer"),
    ("check_sees_the_future", lambda layer, x: True, "you accuse"),
    ("check_sees_the_future", last_only, "only position 2 reads position 3"),
]
