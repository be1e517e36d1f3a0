"""Helpers for notebooks and classes: show the code, prove equality, check exercises.

``teach.check_…`` are the checks of the exercises, from the modules ``check_*.py``, one a lesson.
"""

import importlib
import pkgutil
from functools import cache

from minillama.teach.display import COLORS as COLORS
from minillama.teach.display import published_run as published_run
from minillama.teach.display import show as show
from minillama.teach.display import start as start
from minillama.teach.proof import agreement as agreement
from minillama.teach.proof import prove as prove
from minillama.teach.proof import relative_error as relative_error


@cache
def checks() -> dict[str, object]:
    """Return the checks of all exercises by name."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if module.name.startswith("check_"):
            found |= vars(importlib.import_module(f"{__name__}.{module.name}"))
    return {name: value for name, value in found.items() if name.startswith("check_")}


def __getattr__(name: str) -> object:
    if not name.startswith("check_") or name not in checks():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return checks()[name]
