"""AdamW and the cosine schedule of Section 2.3."""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from minillama.errors import ConfigError


@dataclass(frozen=True)
class OptimizerConfig:
    """Section 2.3 and Table 2; the defaults are the paper's."""

    lr: float = 3.0e-4
    """Peak learning rate, reached at the end of the warm-up."""
    beta1: float = 0.9
    """Decay of the running mean of the gradient."""
    beta2: float = 0.95
    """Decay of the running mean of its square."""
    eps: float = 1e-8
    """Added to the root of that mean; not stated in the paper."""
    weight_decay: float = 0.1
    """Of matrices; norm weights are not decayed."""
    clip: float = 1.0
    """Gradients are scaled down to this global norm."""
    warmup_steps: int = 2_000
    """Updates until the peak rate."""
    final_lr_fraction: float = 0.1
    """The cosine ends at this fraction of the peak."""

    def __post_init__(self) -> None:
        positive = {"lr": self.lr, "eps": self.eps, "clip": self.clip}
        for name, value in positive.items():
            if not value > 0:
                raise ConfigError(f"optimizer.{name} = {value}", f"{name} must be above 0")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"optimizer.{name} = {getattr(self, name)}", "it lies in [0, 1)")
        if not 0 <= self.final_lr_fraction <= 1:
            what = f"optimizer.final_lr_fraction = {self.final_lr_fraction}"
            raise ConfigError(what, "it lies in [0, 1]")
        if self.warmup_steps < 0 or self.weight_decay < 0:
            raise ConfigError("warmup_steps and weight_decay must not be negative", "use 0 or more")


def learning_rate(step: int, total_steps: int, config: OptimizerConfig) -> float:
    """The rate of update ``step`` (counted from 1): linear warm-up, then a cosine to 10%.

    Update 1 already moves (rate peak / warmup), update ``warmup_steps`` is the peak, and update
    ``total_steps`` is ``final_lr_fraction`` of it.
    """
    warmup, final = config.warmup_steps, config.final_lr_fraction
    if step <= warmup:
        return config.lr * step / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)  # 0 to 1
    angle = math.pi * min(1.0, progress)
    cosine = 0.5 * (1 + math.cos(angle))  # 1 to 0
    fraction = final + (1 - final) * cosine
    return config.lr * fraction


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov & Hutter, 2017) with weight decay on matrices and not on norm weights.

    The paper does not say what is decayed. Shrinking a norm's scale only fights the next matrix,
    so, like GPT-3 and most successors, vectors are left alone; embeddings are decayed.
    """
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=True)


def clip_gradients(model: nn.Module, max_norm: float) -> float:
    """Scale gradients so that their joint norm is at most ``max_norm``; return the norm before.

    The norm is that of the whole gradient, also if each process holds only a part of it.
    """
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    if not any(isinstance(grad, DTensor) for grad in grads):
        return float(nn.utils.clip_grad_norm_(model.parameters(), max_norm))
    norm = global_norm(grads)
    factor = torch.clamp(max_norm / (norm + 1e-6), max=1.0)  # as in clip_grad_norm_
    parts = [grad.to_local() for grad in grads]
    torch._foreach_mul_(parts, factor)
    return float(norm)


def global_norm(grads: list[DTensor]) -> Tensor:
    """The joint norm of tensors that are spread over all processes: a scalar, on all of them.

    Each process adds up the squares of its part, and one sum over the processes does the rest. What
    lies on n processes is counted n times, each time as one n-th.
    """
    total = torch.zeros((), dtype=torch.float64, device=grads[0].device)
    for grad in grads:
        assert not any(p.is_partial() for p in grad.placements), "a gradient that was not summed"
        shards = 1
        for size, placement in zip(grad.device_mesh.shape, grad.placements, strict=True):
            if not placement.is_replicate():
                shards *= size
        norm = torch.linalg.vector_norm(grad.to_local()).double()
        total += norm**2 * shards / dist.get_world_size()
    dist.all_reduce(total)
    return total.sqrt().float()
