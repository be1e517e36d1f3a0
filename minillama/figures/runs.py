"""The runs of a ladder, as they lie in their folders: what the figures are drawn from.

Only config.toml and metrics.jsonl are read, so that drawing a curve needs no code of training.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from minillama.config import ModelConfig, RopeScaling
from minillama.errors import ConfigError, DataError, nearest
from minillama.train.log import read_metrics

PUBLISHED = Path("data/runs")
"""Where the logs of published runs are, seen from the project's folder."""
LADDERS = {"nano": "nano-", "small": "small-", "mini": "mini-", "full": ""}
STYLES: dict[str, dict[str, Any]] = {
    "7b": {"color": "#E69F00", "marker": "o", "linestyle": (0, (1, 1))},
    "13b": {"color": "#009E73", "marker": "s", "linestyle": (0, (4, 1, 1, 1))},
    "33b": {"color": "#0072B2", "marker": "^", "linestyle": (0, (5, 1))},
    "65b": {"color": "#000000", "marker": "D", "linestyle": "-"},
}
"""Each size keeps one color, dash and marker everywhere; the colors are Okabe and Ito's for
color-blind readers, ordered from light to dark, so that a gray print tells them apart too."""
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
Row = dict[str, Any]
Rows = list[Row]


@dataclass(frozen=True)
class Run:
    """One rung of a ladder, finished or not."""

    rung: str
    folder: Path
    config: SimpleNamespace
    """The fields of config.toml, which ``train.config`` explains, and ``total_steps``."""
    metrics: Rows

    @property
    def style(self) -> dict[str, Any]:
        """Color, dash and marker."""
        return STYLES[self.rung]

    @property
    def label(self) -> str:
        """Name, parameters, and what is done of an unfinished run: ``nano-7b, 0.16M (9% done)``."""
        done = self.metrics[-1]["step"] / self.config.total_steps
        progress = "" if done >= 1 else f" ({100 * done:.0f}% done)"
        return f"{self.folder.name}, {short(self.config.model.num_parameters())}{progress}"

    def column(self, key: str) -> np.ndarray:
        """One quantity over all steps."""
        return np.array([line[key] for line in self.metrics], dtype=np.float64)


Runs = Sequence[Run]


def short(number: float) -> str:
    """At most three digits and a unit: ``0.161M``, ``1.51M``, ``32.5B``."""
    for size, unit in UNITS:
        if number >= size / 10:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"


def has_metrics(folder: Path) -> bool:
    """Whether a run has logged a step."""
    return (folder / "metrics.jsonl").exists() and bool(read_metrics(folder))


def read_run(folder: Path, rung: str) -> Run:
    """Read a run's settings and log.

    Raises:
        ConfigError: config.toml is missing or damaged.
        DataError: metrics.jsonl is.
    """
    path = folder / "config.toml"
    try:
        config = SimpleNamespace(**tomllib.loads(path.read_text(encoding="utf-8")))
        scaling = config.model.pop("rope_scaling", None)
        config.model = ModelConfig(**config.model, rope_scaling=scaling and RopeScaling(**scaling))
        config.total_steps = round(config.tokens / config.batch_tokens)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        message = f"{path} holds no settings of a run ({error})"
        raise ConfigError(message, "train the run again") from None
    return Run(rung, folder, config, read_metrics(folder))


def load_runs(runs: Path, ladder: str) -> list[Run]:
    """The four runs, smallest first. Raises as ``draw_figures`` does."""
    if ladder not in LADDERS:
        raise ConfigError(f"unknown ladder '{ladder}'", nearest(ladder, LADDERS))
    prefix = LADDERS[ladder]
    folders = {rung: runs / f"{prefix}{rung}" for rung in STYLES}
    missing = [folder.name for folder in folders.values() if not has_metrics(folder)]
    if missing:
        commands = [f"`minillama train --preset {name}`" for name in missing]
        message = f"{runs} has no run {', '.join(missing)}"
        raise DataError(message, f"run {', '.join(commands)}")
    return [read_run(folder, rung) for rung, folder in folders.items()]


def find_variants(run: Run, folders: Sequence[Path]) -> list[Run]:
    """The runs that are named after one, such as ``nano-7b-seed1``, by name.

    Where two of the folders have a run of that name, the first counts.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        for path in folder.glob(f"{run.folder.name}-*/config.toml"):
            variant = path.parent
            if has_metrics(variant):
                found.setdefault(variant.name, variant)
    return [read_run(found[name], run.rung) for name in sorted(found)]
