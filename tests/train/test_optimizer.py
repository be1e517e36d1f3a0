"""Section 2.3: AdamW, clipping and the cosine, each against a formula written out here."""

import math

import pytest
import torch
from torch import nn

from minillama.config import ModelConfig
from minillama.errors import ConfigError
from minillama.model import Llama
from minillama.train.optimizer import (
    OptimizerConfig,
    build_optimizer,
    clip_gradients,
    learning_rate,
)

SMALL = ModelConfig(dim=16, n_layers=2, n_heads=2, vocab_size=64, multiple_of=8, max_seq_len=32)


def test_the_defaults_are_the_papers():
    config = OptimizerConfig()
    assert (config.beta1, config.beta2, config.weight_decay, config.clip) == (0.9, 0.95, 0.1, 1.0)
    assert (config.warmup_steps, config.final_lr_fraction) == (2_000, 0.1)


@pytest.mark.parametrize("total, warmup", [(100, 10), (12, 3), (350_000, 2_000), (5, 1), (7, 0)])
def test_the_schedule_at_its_corners(total, warmup):
    config = OptimizerConfig(lr=3e-4, warmup_steps=warmup)
    assert learning_rate(1, total, config) == (
        3e-4 / warmup if warmup else pytest.approx(3e-4, 0.1)
    )
    assert learning_rate(1, total, config) > 0
    if warmup:
        assert learning_rate(warmup, total, config) == 3e-4
    assert learning_rate(total, total, config) == pytest.approx(3e-5, rel=1e-12)


def test_the_schedule_in_between():
    """With 10 of 110 steps of warm-up: a quarter, half and three quarters down the cosine."""
    config = OptimizerConfig(lr=1.0, warmup_steps=10)
    rates = [learning_rate(step, 110, config) for step in range(1, 111)]
    assert rates[:10] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    half = math.sqrt(0.5)  # cos(pi / 4)
    assert rates[34] == pytest.approx(0.1 + 0.9 * (1 + half) / 2)
    assert rates[59] == pytest.approx(0.55)
    assert rates[84] == pytest.approx(0.1 + 0.9 * (1 - half) / 2)
    assert rates[9:] == sorted(rates[9:], reverse=True)


def test_the_schedule_against_torch():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=0.05)
    config = OptimizerConfig(lr=0.5, warmup_steps=10)
    for step in range(10, 101):
        assert learning_rate(step, 100, config) == pytest.approx(cosine.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        cosine.step()


def test_a_run_that_is_all_warm_up():
    config = OptimizerConfig(lr=1.0, warmup_steps=8)
    assert [learning_rate(s, 4, config) for s in (1, 2, 4)] == [0.125, 0.25, 0.5]
    assert learning_rate(8, 8, config) == 1.0


def adamw_by_hand(weight, gradients, rates, config, decay):
    """Algorithm 2 of Loshchilov and Hutter (2017), in float64."""
    weight = weight.double().clone()
    first, second = torch.zeros_like(weight), torch.zeros_like(weight)
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), 1):
        g = gradient.double()
        first = config.beta1 * first + (1 - config.beta1) * g
        second = config.beta2 * second + (1 - config.beta2) * g**2
        corrected = first / (1 - config.beta1**t)
        scale = (second / (1 - config.beta2**t)).sqrt() + config.eps
        weight = weight - rate * corrected / scale - rate * decay * weight
    return weight


def test_adamw_by_hand():
    torch.manual_seed(0)
    config = OptimizerConfig(lr=0.02, warmup_steps=3)
    model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = {name: torch.randn(8, *p.shape) for name, p in model.named_parameters()}
    rates = [learning_rate(step, 8, config) for step in range(1, 9)]
    optimizer = build_optimizer(model, config)
    for t, rate in enumerate(rates):
        for name, parameter in model.named_parameters():
            parameter.grad = gradients[name][t].clone()
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    for name, parameter in model.named_parameters():
        decay = 0.1 if parameter.ndim == 2 else 0.0
        expected = adamw_by_hand(start[name], gradients[name], rates, config, decay)
        torch.testing.assert_close(parameter.double(), expected, rtol=1e-5, atol=1e-6)


def test_what_decays():
    """With no gradient, a step shrinks matrices by 1 - rate x decay and leaves norms alone."""
    model = Llama(SMALL)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        factor = 1.0 if name.endswith("norm.weight") else 1 - 0.5 * 0.1
        torch.testing.assert_close(parameter, before[name] * factor)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(before)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_clipping_by_hand(scale):
    torch.manual_seed(0)
    model = Llama(SMALL)
    for parameter in model.parameters():
        parameter.grad = scale * torch.randn_like(parameter)
    gradients = [p.grad.double().clone() for p in model.parameters()]
    norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    assert clip_gradients(model, 1.0) == pytest.approx(norm, rel=1e-5)
    factor = min(1.0, 1.0 / norm)
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad.double(), gradient * factor, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    "setting, told",
    [
        ({"lr": 0.0}, "lr = 0.0"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"clip": -1.0}, "clip = -1.0"),
        ({"eps": 0.0}, "eps = 0.0"),
        ({"beta2": 1.5}, "beta2 = 1.5"),
        ({"final_lr_fraction": -0.1}, "final_lr_fraction = -0.1"),
        ({"warmup_steps": -1}, "warmup_steps"),
        ({"weight_decay": -0.1}, "weight_decay"),
    ],
)
def test_settings_out_of_range(setting, told):
    with pytest.raises(ConfigError, match=told):
        OptimizerConfig(**setting)
