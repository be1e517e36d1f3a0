"""The checks of notebooks 00, 06 and 09: right answers pass, typical mistakes are named."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exercises import *  # noqa: F403
from torch import Tensor

from minillama import teach
from minillama.errors import DataError


def windows(ids: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
    rows = range(0, len(ids) - 1, seq_len)
    parts = [ids[i : i + seq_len + 1] for i in rows]
    return torch.stack([p[:-1] for p in parts]), torch.stack([p[1:] for p in parts])


def shifted_inside(ids: Tensor, seq_len: int) -> tuple[Tensor, Tensor]:
    rows = ids[:-1].view(-1, seq_len)
    return rows, rows.roll(-1, 1)


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    if temperature == 0:
        return F.one_hot(logits.argmax(), len(logits)).to(logits.dtype)
    weights = ((logits - logits.max()) / temperature).exp()
    return weights / weights.sum()


def half_life(beta: float) -> float:
    return -1 / math.log2(beta)


def trapezoid(step: int, total: int, warmup: int, decay: int, peak: float) -> float:
    if step < warmup:
        return peak * step / warmup
    if step <= total - decay:
        return peak
    return peak + (0.1 * peak - peak) * (step - (total - decay)) / decay


def to_zero(step: int, total: int, warmup: int, decay: int, peak: float) -> float:
    late = step - (total - decay)
    return peak * (1 - late / decay) if late > 0 else trapezoid(step, total, warmup, decay, peak)


def early(step: int, total: int, warmup: int, decay: int, peak: float) -> float:
    return trapezoid(step, total, warmup, 2 * decay, peak)


def curved(step: int, total: int, warmup: int, decay: int, peak: float) -> float:
    late = step - (total - decay)
    if late <= 0:
        return trapezoid(step, total, warmup, decay, peak)
    return peak * (0.1 + 0.45 * (1 + math.cos(math.pi * late / decay)))


def accumulate(kind: str) -> Callable:
    def answer(model: torch.nn.Module, parts: list[tuple[Tensor, Tensor]]) -> None:
        total = sum(int((targets >= 0).sum()) for _, targets in parts)
        for tokens, targets in parts:
            share = {
                "right": int((targets >= 0).sum()) / total,
                "sum": 1.0,
                "last": 1.0,
                "means": 1 / len(parts),
            }[kind]
            if kind == "last":
                model.zero_grad()
            (model(tokens, targets=targets) * share).backward()

    return answer


def loss_gradient(kind: str) -> Callable:
    def answer(logits: Tensor, targets: Tensor) -> Tensor:
        counts = (targets >= 0)[:, None]
        shift = 0.0 if kind == "overflow" else logits.amax(-1, keepdim=True)
        weights = (logits - shift).exp()
        share = weights / weights.sum(-1, keepdim=True)
        true = F.one_hot(targets.clamp(min=0), logits.shape[1]).to(share.dtype)
        if kind == "no one-hot":
            return share / len(targets)
        if kind == "unmasked":
            return (share - true) / counts.sum()
        gradient = (share - true) * counts
        scale = {"sum": 1, "all": len(targets), "sign": -int(counts.sum())}
        return gradient / scale.get(kind, counts.sum())

    return answer


RIGHT: list[tuple[str, Callable]] = [
    ("check_windows", windows),
    ("check_temperature", probabilities),
    ("check_half_life", half_life),
    ("check_trapezoid", trapezoid),
    ("check_accumulate", accumulate("right")),
    ("check_loss_gradient", loss_gradient("right")),
]

MISTAKES: list[tuple[str, Callable, str]] = [
    ("check_windows", lambda i, n: (i[:-1].view(-1, n), i[:-1].view(-1, n)), "*next* id"),
    ("check_windows", lambda i, n: windows(i, n)[::-1], "changed places"),
    ("check_windows", shifted_inside, "first input of the next"),
    ("check_windows", lambda i, n: (i.unfold(0, n, 1)[:-1], i.unfold(0, n, 1)[1:]), "shape"),
    ("check_windows", lambda i, n: i, "a pair"),
    ("check_temperature", lambda z, t: z.softmax(-1), "ignores the temperature"),
    ("check_temperature", lambda z, t: (z * t).softmax(-1), "turned round"),
    ("check_temperature", lambda z, t: z.softmax(-1) / t, "divide the logits"),
    ("check_temperature", lambda z, t: z / t, "take the softmax"),
    ("check_temperature", lambda z, t: (z / t).softmax(-1), "divide by 0"),
    ("check_half_life", lambda b: 1 / (1 - b), "mean age"),
    ("check_half_life", lambda b: math.log(2) / math.log(b), "the sign"),
    ("check_half_life", lambda b: math.log(b) / math.log(0.5), "upside down"),
    ("check_half_life", lambda b: math.ceil(half_life(b) - 0.5), "do not round"),
    ("check_trapezoid", lambda s, *a: trapezoid(s - 1, *a), "update 1 is lost"),
    ("check_trapezoid", lambda s, *a: trapezoid(s + 1, *a), "peak / warmup"),
    ("check_trapezoid", to_zero, "a tenth of the peak is left"),
    ("check_trapezoid", early, "between warm-up and decay"),
    ("check_trapezoid", curved, "straight line"),
    ("check_accumulate", accumulate("sum"), "no mean any more"),
    ("check_accumulate", accumulate("last"), "only the last part"),
    ("check_accumulate", accumulate("means"), "mean of the means"),
    ("check_loss_gradient", loss_gradient("sum"), "divide by the number"),
    ("check_loss_gradient", loss_gradient("sign"), "sign"),
    ("check_loss_gradient", loss_gradient("no one-hot"), "true piece is missing"),
    ("check_loss_gradient", loss_gradient("all"), "not by all"),
    ("check_loss_gradient", loss_gradient("unmasked"), "row of the gradient is zero"),
    ("check_loss_gradient", loss_gradient("overflow"), "overflow"),
]


def test_a_published_run_is_found_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "data" / "runs" / "nano-7b"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    monkeypatch.chdir(tmp_path)
    found = teach.published_run("nano-7b")
    assert (found / "metrics.jsonl").resolve() == (run / "metrics.jsonl").resolve()
    with pytest.raises(DataError, match="nano-8b.*complete checkout"):
        teach.published_run("nano-8b")


def exponential_mean(values: np.ndarray, alpha: float) -> list[float]:
    """By the definition: every mean is a weighted sum over all values so far."""
    means = []
    for step in range(1, len(values) + 1):
        weights = [alpha * (1 - alpha) ** (step - 1 - i) for i in range(step)]
        means.append(sum(w * v for w, v in zip(weights, values, strict=False)) / sum(weights))
    return means


def recursive(values: np.ndarray, alpha: float, first: float) -> list[float]:
    means = [first]
    for value in values:
        means.append((1 - alpha) * means[-1] + alpha * value)
    return means[1:]


def step_noise(losses: np.ndarray) -> float:
    jumps = losses[1:] - losses[:-1]
    return math.sqrt(float((jumps**2).mean()) / 2)


def power_law(tokens: np.ndarray, losses: np.ndarray, beta: float) -> np.ndarray:
    columns = np.stack([np.ones_like(tokens), tokens**-beta], axis=1)
    return np.linalg.solve(columns.T @ columns, columns.T @ losses)


def turned(tokens: np.ndarray, losses: np.ndarray, beta: float) -> np.ndarray:
    return power_law(1 / tokens, losses, beta)


def without_floor(tokens: np.ndarray, losses: np.ndarray, beta: float) -> tuple[float, float]:
    x = tokens**-beta
    return 0.0, float(x @ losses / (x @ x))


def from_the_ends(tokens: np.ndarray, losses: np.ndarray, beta: float) -> tuple[float, float]:
    x = tokens**-beta
    scale = (losses[0] - losses[-1]) / (x[0] - x[-1])
    return losses[0] - scale * x[0], scale


def tokens_to_reach(loss: float, floor: float, scale: float, beta: float) -> float:
    return math.exp(math.log(scale / (loss - floor)) / beta) if loss > floor else math.inf


def best_size(kind: str) -> Callable:
    def answer(flops: float, curves: dict) -> str | None:
        found = {}
        for name, (parameters, tokens, losses) in curves.items():
            count = flops / (6 * parameters) if kind != "tokens" else flops / 6
            if kind == "nearest" and tokens[0] <= count <= tokens[-1]:
                found[name] = losses[np.abs(tokens - count).argmin()]
            elif kind == "continued" or tokens[0] <= count <= tokens[-1]:
                found[name] = np.interp(count, tokens, losses)
        if kind == "first":
            return next(iter(curves))
        return min(found, key=lambda name: found[name]) if found or kind == "no None" else None

    return answer


RIGHT += [
    ("check_exponential_mean", exponential_mean),
    ("check_exponential_mean", lambda v, a: np.array(exponential_mean(v, a))),
    ("check_noise", step_noise),
    ("check_noise", lambda losses: np.std(np.diff(losses)) / 2**0.5),
    ("check_power_law", power_law),
    ("check_power_law", lambda d, y, b: tuple(np.polyfit(d**-b, y, 1)[::-1])),
    ("check_tokens_to_reach", tokens_to_reach),
    ("check_best_size", best_size("right")),
]

MISTAKES += [
    ("check_exponential_mean", lambda v, a: None, "is None"),
    ("check_exponential_mean", lambda v, a: exponential_mean(v, a)[-1], "tensor of shape (5,)"),
    ("check_exponential_mean", lambda v, a: recursive(v, a, 0.0), "first means are too small"),
    ("check_exponential_mean", lambda v, a: recursive(v, a, v[0]), "started from the first"),
    ("check_exponential_mean", lambda v, a: exponential_mean(v, 1 - a), "changed places"),
    ("check_exponential_mean", lambda v, a: np.cumsum(v) / np.arange(1, len(v) + 1), "the values"),
    ("check_noise", lambda losses: None, "return None"),
    ("check_noise", lambda losses: losses.std(), "holds its fall"),
    ("check_noise", lambda losses: math.sqrt(2) * step_noise(losses), "noise of two steps"),
    ("check_noise", lambda losses: step_noise(losses) / math.sqrt(2), "not by 2"),
    ("check_noise", lambda losses: step_noise(losses) ** 2, "the variance"),
    ("check_power_law", lambda d, y, b: None, "is None"),
    ("check_power_law", lambda d, y, b: 2.0, "two numbers"),
    ("check_power_law", lambda d, y, b: power_law(d, y, b)[::-1], "changed places"),
    ("check_power_law", turned, "MINUS beta"),
    ("check_power_law", without_floor, "left the floor out"),
    ("check_power_law", from_the_ends, "smaller misses"),
    ("check_tokens_to_reach", lambda x, e, b, beta: None, "return None"),
    ("check_tokens_to_reach", lambda x, e, b, beta: (b / x) ** (1 / beta), "subtract the floor"),
    ("check_tokens_to_reach", lambda x, e, b, beta: (b / (x - e)) ** beta, "not with beta"),
    ("check_tokens_to_reach", lambda x, e, b, beta: ((x - e) / b) ** (1 / beta), "upside down"),
    ("check_tokens_to_reach", lambda x, e, b, beta: abs(b / (x - e)) ** (1 / beta), "Zero"),
    ("check_tokens_to_reach",
     lambda x, e, b, beta: tokens_to_reach(x, e, b, beta) if x != e else 0.0, "never reached"),
    ("check_best_size", lambda flops, curves: None, "your answer is None"),
    ("check_best_size", best_size("continued"), "np.interp"),
    ("check_best_size", best_size("tokens"), "four times as many"),
    ("check_best_size", best_size("nearest"), "straight line"),
    ("check_best_size", best_size("first"), "end of its curve"),
    ("check_best_size", best_size("no None"), "ValueError"),
    ("check_best_size", lambda flops, curves: 0, "return a name"),
]  # fmt: skip
