"""How notebooks prove that two implementations are one: in value and in gradient."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

FLOOR = 1e-3
"""No error is relative to less than this share of what went in.

Where a result is zero, both sides hold nothing but rounding, and rounding relative to nothing is
1. This floor is some 10,000 units of float32's rounding: what passes below it is smaller still.
"""


def relative_error(actual: Tensor, expected: Tensor, scale: float | None = None) -> float:
    """Return the largest absolute difference as a share of ``scale``.

    ``scale`` is the largest expected number, or ``FLOOR`` if that is more, unless it is given.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"shapes differ: {tuple(actual.shape)} and {tuple(expected.shape)}")
    if scale is None:
        scale = max(largest([expected]), FLOOR)
    return largest([actual - expected]) / scale


def largest(tensors: Iterable[Tensor]) -> float:
    """Return the largest absolute number of all ``tensors``."""
    return max(float(tensor.detach().abs().max()) for tensor in tensors)


def agreement(
    naive: Callable[[], Tensor], package: Callable[[], Tensor], wrt: Sequence[Tensor]
) -> tuple[float, float]:
    """How far two computations of the same tensor are apart.

    Args:
        naive, package: functions without arguments; each computes the result from ``wrt``.
        wrt: the inputs and weights to differentiate by; all must require gradients.

    Returns:
        The relative error of the value, and that of the gradients with respect to ``wrt`` of the
        result's product with one fixed random tensor: the largest difference of any, as a share
        of the largest gradient of all.
    """
    value, expected = naive(), package()
    if value is expected:
        raise ValueError("both sides are the same tensor: nothing is proved")
    noise = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1234))
    upstream = noise.to(expected.dtype)
    gradients = torch.autograd.grad(value, wrt, upstream)
    reference = torch.autograd.grad(expected, wrt, upstream)

    # One scale for all, which cannot vanish: with one position, wq and wk have no gradient.
    scale = max(largest(reference), FLOOR * largest([upstream]))
    pairs = zip(gradients, reference, strict=True)
    worst = max(relative_error(actual, right, scale) for actual, right in pairs)
    return relative_error(value.detach(), expected.detach()), worst


def prove(words: str, condition: object) -> None:
    """Print ``words`` and True.

    Raises:
        AssertionError: ``condition`` is false; so no lesson is stored that goes on regardless.
    """
    if not condition:
        raise AssertionError(f"not true: {words}")
    print(f"{words}: True")
