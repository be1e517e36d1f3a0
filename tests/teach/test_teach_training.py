"""The checks of notebooks 00 and 06: they accept right answers and name the usual mistakes."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from exercises import (  # noqa: F401
    pytest_generate_tests,
    test_a_mistake_is_named,
    test_a_right_answer_is_accepted,
    test_an_empty_answer_is_no_answer,
)
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
    ("check_windows", shifted_inside, "nobody's targets"),
    ("check_windows", lambda i, n: (i.unfold(0, n, 1)[:-1], i.unfold(0, n, 1)[1:]), "more than"),
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
    ("check_trapezoid", lambda s, *a: trapezoid(s - 1, *a), "update 1 has rate 0"),
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


def test_every_check_of_these_notebooks_is_tested_both_ways() -> None:
    import minillama.teach.check_training as module

    names = {name for name in vars(module) if name.startswith("check_")}
    assert names == {name for name, _ in RIGHT} == {name for name, *_ in MISTAKES}
    assert names <= set(teach.checks())


def test_a_published_run_is_found_or_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "data" / "runs" / "nano-7b"
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    monkeypatch.chdir(tmp_path)
    found = teach.published_run("nano-7b")
    assert (found / "metrics.jsonl").resolve() == (run / "metrics.jsonl").resolve()
    with pytest.raises(DataError, match="nano-8b.*complete checkout"):
        teach.published_run("nano-8b")
