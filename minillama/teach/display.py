"""What notebooks share so that lessons look alike: production code, looks, published runs."""

import inspect
import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from cycler import cycler

from minillama.errors import DataError

COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
"""Okabe and Ito's palette: told apart by readers with any kind of color vision."""
PUBLISHED = Path("data/runs")
"""Logs of published runs, seen from the project's folder, where ``start`` puts a lesson."""


def show(*objects: object) -> None:
    """Print the source of functions or classes, each under the name of the file it stands in.

    The printed text is stored in the notebook and compared when the notebook is tested, so a lesson
    that shows yesterday's code fails.
    """
    for number, shown in enumerate(objects):
        module = inspect.getmodule(shown)
        if module is None:
            raise TypeError(f"{shown!r} has no Python source: pass a function, class or module")
        if number:
            print("\n")
        print(f"# {module.__name__.replace('.', '/')}.py")
        print(inspect.getsource(shown).rstrip())


def start(seed: int = 0) -> None:
    """Make a notebook repeatable: seed torch, use one thread, work in the project's folder.

    One thread fixes the order in which sums are taken; the lessons' tensors are too small to gain
    from a second one. The project's folder is the nearest parent that holds ``pyproject.toml``, so
    that ``data/`` and ``runs/`` mean the same here as on the command line.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").exists():
            os.chdir(folder)
            break
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    plt.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=COLORS),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.alpha": 0.25,
            "image.cmap": "viridis",
            "figure.figsize": (7.0, 3.2),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "lines.linewidth": 1.8,
            "legend.frameon": False,
        }
    )
    print(f"ready: seed {seed}, one thread")


def published_run(name: str) -> Path:
    """Where a published run lies, such as ``nano-65b``, or a file such as ``nano-5gram.json``.

    Raises:
        DataError: it is not there.
    """
    path = PUBLISHED / name
    if not path.exists():
        raise DataError(
            f"there is no published run {path}",
            "it comes with the repository: get a complete checkout, and call teach.start() first",
        )
    return path
