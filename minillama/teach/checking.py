"""The frame of every exercise check: it never raises, and says what is wrong in words."""

import builtins
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from minillama.teach.proof import relative_error


class NotYet(Exception):
    """An answer that is not right yet; the message is a hint, not the solution."""


def expect(condition: bool, hint: str) -> None:
    """Go on if ``condition`` holds, or end the check with ``hint``."""
    if not condition:
        raise NotYet(hint)


def exercise(check: Callable[[Callable], str]) -> Callable[[Callable], None]:
    """Turn ``check(answer) -> praise`` into a function that prints the outcome.

    It prints ``correct: <praise>``, or ``not yet: <hint>`` when the check raises ``NotYet`` or the
    answer itself stops with an error.
    """

    @functools.wraps(check)
    def run(answer: Callable) -> None:
        try:
            print(f"correct: {check(answer)}")
        except NotYet as hint:
            print(f"not yet: {hint}")
        except Exception as error:  # noqa: BLE001  (a student's code may raise anything)
            print(f"not yet: {_name(answer)} stopped with {type(error).__name__}: {error}")

    return run


def _name(answer: Callable) -> str:
    return getattr(answer, "__name__", "your answer")


def same_tensor(actual: Any, expected: Tensor, what: str, tolerance: float = 1e-5) -> None:
    """Expect a tensor of the same shape and, within a relative ``tolerance``, the same values."""
    expect(actual is not None, f"{what} is None; replace `return None` by your answer")
    is_tensor = isinstance(actual, Tensor)
    expect(is_tensor, f"{what} should be a tensor but is a {type(actual).__name__}")
    shapes = f"{tuple(actual.shape)} but should have {tuple(expected.shape)}"
    expect(actual.shape == expected.shape, f"{what} has shape {shapes}")
    expect(bool(actual.isfinite().all()), f"{what} holds infinite or undefined numbers")
    expect(close(actual, expected, tolerance), f"{what} has the right shape but not the values")


def close(actual: Any, expected: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether ``actual`` is a tensor equal to ``expected`` up to a relative tolerance."""
    if not isinstance(actual, Tensor) or actual.shape != expected.shape:
        return False
    return relative_error(actual.detach().double(), expected.detach().double()) <= tolerance


def same_number(actual: Any, expected: float, what: str, tolerance: float = 1e-9) -> None:
    """Expect a number within a relative ``tolerance`` of the right one."""
    expect(actual is not None, f"{what} is None; replace `return None` by your answer")
    if isinstance(actual, Tensor) and actual.numel() == 1:
        actual = actual.item()
    numeric = isinstance(actual, int | float) and not isinstance(actual, bool)
    expect(numeric, f"{what} should be a number but is a {type(actual).__name__}")
    right = abs(actual - expected) <= tolerance * max(abs(expected), 1.0)
    expect(right, f"{what} is {actual:,} and should be {expected:,}")


def is_number(actual: Any, expected: float) -> bool:
    """Whether ``actual`` is that number, up to rounding; for telling typical mistakes apart."""
    return isinstance(actual, int | float) and math.isclose(actual, expected, rel_tol=1e-9)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    """A fixed random float64 tensor, independent of torch's global state."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@contextmanager
def without_string_hash() -> Iterator[None]:
    """Forbid ``hash(str)``, whose value changes from one Python process to the next.

    Raises ``NotYet`` in the block if it is called.
    """
    original = builtins.hash

    def guarded(value: object) -> int:
        if isinstance(value, str | bytes):
            raise NotYet(
                "hash() of a string differs from one Python process to the next: the "
                "split would change on every run; use hashlib"
            )
        return original(value)

    builtins.hash = guarded
    try:
        yield
    finally:
        builtins.hash = original
