"""The frame of every exercise check: it never raises, and says what is wrong in words."""

import builtins
import copy
import functools
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from minillama.teach.proof import relative_error

Check = Callable[[Callable], None]


class NotYet(Exception):
    """An answer that is not right yet; the message is a hint, not the solution."""


def expect(condition: object, hint: str) -> None:
    """Go on if ``condition`` holds, or end the check with ``hint``."""
    if not condition:
        raise NotYet(hint)


def exercise(check: Callable[[Callable], str]) -> Check:
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


def diagnose(
    answer: Callable,
    arguments: tuple,
    right: Any,
    wrong: Mapping[str, Any],
    tolerance: float | None = None,
) -> None:
    """Call the student's function with a copy of ``arguments`` and ``compare`` what it returns."""
    shown = ", ".join(map(_brief, arguments))
    call = f"{_name(answer)}({shown})"
    handed = copy.deepcopy(arguments)
    given = answer(*handed)
    untouched = repr(handed) == repr(arguments)
    expect(untouched, f"{call} changed what it was given: work on a copy")
    compare(call, given, right, wrong, tolerance)


def _name(answer: Callable) -> str:
    return getattr(answer, "__name__", "your answer")


def _brief(value: Any) -> str:
    if callable(value):
        return _name(value)
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} {tuple(value.shape)}"
    text = f"{value:g}" if isinstance(value, float) else repr(value)
    return text if len(text) <= 60 else f"{text[:40]}…"


def returned(given: Any, what: str) -> Any:
    """Expect something else than None, which an unsolved exercise returns."""
    expect(given is not None, f"your function returned None; return {what}")
    return given


def several(given: Any, n: int, what: str) -> Any:
    """Expect ``n`` results in a tuple or list."""
    complete = isinstance(returned(given, what), tuple | list) and len(given) == n
    expect(complete, f"return {what}: {'a pair' if n == 2 else n}, not a {type(given).__name__}")
    return given


ANYTHING_ELSE = object()
"""In place of the result of a mistake: the hint for any wrong result."""


def compare(
    call: str,
    given: Any,
    right: Any,
    wrong: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
) -> None:
    """Expect the ``right`` number, tensor, text or list, or end the check with a hint.

    ``wrong`` has hints, each with the result of the typical mistake that it names. ``tolerance`` of
    numbers is relative to the right one or to 1 if that is more; of tensors to the largest number.
    """
    expect(given is not None, f"{call} is None; replace `return None` by your answer")
    given = _in_the_form_of(right, given)
    if same(given, right, tolerance):
        return
    # Typical mistakes.
    for hint, mistake in (wrong or {}).items():
        known = mistake is ANYTHING_ELSE or same(given, mistake, tolerance)
        expect(not known, f"{call}: {hint}")
    # Others.
    if isinstance(right, Tensor):
        _expect_shape(call, given, right)
        raise NotYet(f"{call} has the right shape but not the values")
    kind = {str: "text"}.get(type(right), type(right).__name__)
    fits = isinstance(given, type(right))
    if number(right) is not None:
        kind = "number"
        fits = number(given) is not None
    expect(fits, f"{call} should be a {kind} but is a {type(given).__name__}")
    raise NotYet(f"{call} is {given!r} and should be {right!r}")


def _in_the_form_of(right: Any, given: Any) -> Any:
    if isinstance(right, list) and isinstance(given, tuple | np.ndarray | Tensor):
        return list(given)
    if isinstance(right, Tensor) and isinstance(given, list | tuple | np.ndarray):
        return torch.tensor(np.array(given, dtype=float))
    return given


def _expect_shape(call: str, given: Any, right: Tensor) -> None:
    shape, kind = tuple(right.shape), type(given).__name__
    is_tensor = isinstance(given, Tensor)
    expect(is_tensor, f"{call} should be a tensor of shape {shape} but is a {kind}")
    expect(given.shape == right.shape, f"{call} has shape {tuple(given.shape)}, not {shape}")
    expect(
        given.isfinite().all(),
        f"{call} holds infinite or undefined numbers: do you divide by 0, or does exp() overflow? "
        "(Subtract the largest number before taking it.)",
    )


def same(actual: Any, expected: Any, tolerance: float | None = None) -> bool:
    """Whether two results are equal: tensors and numbers up to rounding, all else exactly."""
    if isinstance(expected, Tensor):
        return close(actual, expected, tolerance or 1e-5)
    value, target = number(actual), number(expected)
    if target is None:
        return isinstance(actual, type(expected)) and actual == expected
    if value is None or value == target or math.isinf(target):
        return value == target
    return abs(value - target) <= (tolerance or 1e-9) * max(abs(target), 1.0)


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


def without_string_hash() -> AbstractContextManager:
    """Forbid ``hash(str)``, whose value changes from one Python process to the next.

    Raises ``NotYet`` in the block if it is called.
    """
    original = builtins.hash

    def guarded(value: object) -> int:
        differs = "hash() of a string differs from one Python process to the next"
        text = isinstance(value, str | bytes)
        expect(not text, f"{differs}: the split would change on every run; use hashlib")
        return original(value)

    return mock.patch.object(builtins, "hash", guarded)
