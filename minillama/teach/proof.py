"""How notebooks prove that two implementations are one: in value and in gradient."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest absolute difference, as a share of the largest expected number."""
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {tuple(actual.shape)} and {tuple(expected.shape)}")
    scale = expected.abs().max().clamp_min(torch.finfo(expected.dtype).tiny)
    return float((actual - expected).abs().max() / scale)


def agreement(
    naive: Callable[[], Tensor], package: Callable[[], Tensor], wrt: Sequence[Tensor]
) -> tuple[float, float]:
    """How far two computations of the same tensor are apart.

    Args:
        naive, package: functions without arguments; each computes the result from ``wrt``.
        wrt: the inputs and weights to differentiate by; all must require gradients.

    Returns:
        The relative error of the value, and the worst one among the gradients with respect to
        ``wrt`` of the result's product with one fixed random tensor.
    """
    mine, theirs = naive(), package()
    if mine is theirs:
        raise ValueError("both sides are the same tensor: nothing is proved")
    noise = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1234))
    upstream = noise.to(theirs.dtype)
    ours = torch.autograd.grad(mine, wrt, upstream)
    reference = torch.autograd.grad(theirs, wrt, upstream)
    worst = max(relative_error(a, b) for a, b in zip(ours, reference, strict=True))
    return relative_error(mine.detach(), theirs.detach()), worst
