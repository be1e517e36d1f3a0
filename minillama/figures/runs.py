"""The four runs of a ladder, as they lie in their folders: what the figures are drawn from."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minillama.errors import ConfigError, DataError, nearest
from minillama.evaluate.scoring import read_record
from minillama.paper import PARAMETERS
from minillama.train.config import TrainConfig, read_config
from minillama.train.log import read_metrics

LADDERS = {"nano": "nano-", "mini": "mini-", "full": ""}
STYLES: dict[str, dict[str, Any]] = {
    "7b": {"color": "#E69F00", "marker": "o", "linestyle": (0, (1, 1))},
    "13b": {"color": "#009E73", "marker": "s", "linestyle": (0, (4, 1, 1, 1))},
    "33b": {"color": "#0072B2", "marker": "^", "linestyle": (0, (5, 1))},
    "65b": {"color": "#000000", "marker": "D", "linestyle": "-"},
}
"""Each size keeps one color, dash and marker everywhere; the colors are Okabe and Ito's for
color-blind readers, ordered from light to dark, so that a gray print tells them apart too."""
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Run:
    """One rung of a ladder, finished or not."""

    rung: str
    folder: Path
    config: TrainConfig
    metrics: list[dict[str, Any]]

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

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        """What ``minillama evaluate`` has written, with whatever limit, in step order.

        Left out is what was measured on an earlier training in the same folder.
        """
        logged = {line["step"]: line.get("valid_loss") for line in self.metrics}
        paths = sorted(self.folder.glob("evaluations/step-*.json"))
        return [
            record for record in map(read_record, paths)
            if record["step"] in logged and alike(logged[record["step"]], record["valid_loss"])
        ]  # fmt: skip

    def column(self, key: str) -> np.ndarray:
        """One quantity over all steps."""
        return np.array([line[key] for line in self.metrics], dtype=np.float64)


def alike(first: float | None, second: float | None) -> bool:
    """Whether two losses are one, but for the rounding by which two machines differ."""
    if first is None or second is None:
        return first is second
    return math.isclose(first, second, rel_tol=1e-6)


def short(number: float) -> str:
    """At most three digits and a unit: ``0.161M``, ``1.51M``, ``32.5B``."""
    size, unit = next(((s, u) for s, u in UNITS if number >= s / 10), (1, ""))
    return f"{number / size:.3g}{unit}"


def load_runs(runs: Path, ladder: str) -> list[Run]:
    """The four runs, smallest first. Raises as ``figures`` does."""
    if ladder not in LADDERS:
        raise ConfigError(f"unknown ladder '{ladder}'", nearest(ladder, LADDERS))
    names = {rung: f"{LADDERS[ladder]}{rung}" for rung in PARAMETERS}
    missing = [name for name in names.values() if not _started(runs / name)]
    if missing:
        commands = ", ".join(f"`minillama train --preset {name}`" for name in missing)
        raise DataError(f"{runs} has no run {', '.join(missing)}", f"run {commands}")
    return [
        Run(rung, runs / name, read_config(runs / name / "config.toml"), read_metrics(runs / name))
        for rung, name in names.items()
    ]


def _started(run: Path) -> bool:
    return (run / "metrics.jsonl").exists() and bool(read_metrics(run))
