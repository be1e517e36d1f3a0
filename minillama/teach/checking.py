"""The frame of every exercise check: it never raises, and says what is wrong in words."""

import builtins
import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from minillama.teach.proof import relative_error


class NotYet(Exception):
    """An answer that is not right yet; the message is a hint, not the solution."""


def expect(condition: object, hint: str) -> None:
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
            name = getattr(answer, "__name__", "your answer")
            print(f"not yet: {name} stopped with {type(error).__name__}: {error}")

    return run


def returned(given: Any, what: str) -> Any:
    """Expect something else than None, which an unsolved exercise returns."""
    expect(given is not None, f"your function returned None; return {what}")
    return given


def several(given: Any, n: int, what: str) -> Any:
    """Expect ``n`` results in a tuple or list."""
    complete = isinstance(returned(given, what), tuple | list) and len(given) == n
    expect(complete, f"return {what}: {'a pair' if n == 2 else n}, not a {type(given).__name__}")
    return given


def diagnose(
    call: str,
    given: Any,
    right: Any,
    wrong: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
) -> None:
    """Expect the ``right`` number, tensor, text or list.

    Args:
        call: the call or the result, in words.
        given: what the student's function returned.
        wrong: hints, each with the result of the typical mistake that it names.
        tolerance: of numbers, relative to the right one or to 1; of tensors, as ``close`` says.
    """
    expect(given is not None, f"{call} is None; replace `return None` by your answer")
    for hint, mistake in (wrong or {}).items():
        known = same(given, mistake, tolerance) and not same(right, mistake, tolerance)
        expect(not known, f"{call}: {hint}")
    if isinstance(right, Tensor):
        _expect_shape(call, given, right)
        expect(same(given, right, tolerance), f"{call} has the right shape but not the values")
    elif number(right) is not None:
        value = number(given)
        expect(value is not None, f"{call} should be a number but is a {type(given).__name__}")
        expect(same(value, right, tolerance), f"{call} is {value:,} and should be {right:,}")
    else:
        kind = {str: "text"}.get(type(right), type(right).__name__)
        fits = isinstance(given, type(right))
        expect(fits, f"{call} should be a {kind} but is a {type(given).__name__}")
        expect(given == right, f"{call} is {given!r} and should be {right!r}")


def _expect_shape(call: str, given: Any, right: Tensor) -> None:
    is_tensor = isinstance(given, Tensor)
    expect(is_tensor, f"{call} should be a tensor but is a {type(given).__name__}")
    shapes = f"{tuple(given.shape)} but should have {tuple(right.shape)}"
    expect(given.shape == right.shape, f"{call} has shape {shapes}")
    expect(given.isfinite().all(), f"{call} holds infinite or undefined numbers")


def same(actual: Any, expected: Any, tolerance: float | None = None) -> bool:
    """Whether two results are equal: tensors and numbers up to rounding, all else exactly."""
    if isinstance(expected, Tensor):
        return close(actual, expected, tolerance or 1e-5)
    value, target = number(actual), number(expected)
    if target is None:
        return isinstance(actual, type(expected)) and actual == expected
    return value is not None and abs(value - target) <= (tolerance or 1e-9) * max(abs(target), 1.0)


def close(actual: Any, expected: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether ``actual`` is a tensor equal to ``expected`` up to a relative tolerance."""
    if not isinstance(actual, Tensor) or actual.shape != expected.shape:
        return False
    return relative_error(actual.double(), expected.double()) <= tolerance


def number(value: Any) -> int | float | None:
    """Return a number of Python, NumPy or torch as Python's own, or None if it is no number."""
    if isinstance(value, Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        value = value.item()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else None


def seeded(*shape: int, seed: int = 0) -> Tensor:
    """Return a fixed random float64 tensor, independent of torch's global state."""
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
