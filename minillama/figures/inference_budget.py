"""The paper's argument as a figure: which size reaches a loss at the least total cost?

Drawn from the validation losses that training has logged. A cosine schedule ends with its run, so
a loss on the way is worse than a run of just that length would reach. A size may therefore have
several runs of different lengths: ``nano-13b``, and beside it ``nano-13b-short``. Where each size
has at least two finished runs, only their last losses count, with a straight line over the
logarithm of tokens between two of them; otherwise, all that the ladder's runs logged on their way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minillama.analysis.inference_budget import TrainedModel, cheapest, tokens_to_reach
from minillama.figures.loss import TRANSIENT
from minillama.figures.runs import Run, short
from minillama.figures.style import HALO, key, one_unit
from minillama.train.config import read_config
from minillama.train.log import read_metrics

TARGETS = 81
"""Losses at which the map of the third panel is computed."""
BY_ENDS = "Large marks: ends of finished runs. Costs take only these, and straight lines between."
BY_CURVES = "No loss on the way has the schedule's end: larger sizes look worse than they are."


@dataclass(frozen=True)
class Size:
    """A rung with all its runs: the ladder's own, and others beside it of the same shape."""

    ladder: Run
    runs: list[Run]

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and validation losses at the ends of finished runs, shortest first."""
        done = [run for run in self.runs if run.metrics[-1]["step"] == run.config.total_steps]
        last = sorted((x[-1], y[-1]) for x, y in map(logged, done) if len(x))
        return tuple(np.array(last).reshape(-1, 2).T)

    def points(self, ends: bool, begin: float) -> tuple[np.ndarray, np.ndarray]:
        """What counts: the ends, or what the ladder's run logged from ``begin`` tokens on."""
        tokens, losses = self.ends if ends else logged(self.ladder)
        return tokens[tokens >= begin], losses[tokens >= begin]


def logged(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and validation losses, where a run has measured them."""
    lines = [line for line in run.metrics if line.get("valid_loss") is not None]
    return (np.array([line["tokens"] for line in lines], dtype=np.float64),
            np.array([line["valid_loss"] for line in lines]))  # fmt: skip


def sizes(ladder: Sequence[Run], published: Path | None = None) -> list[Size]:
    """The sizes; beside the ladder's run, each run counts that is named after it and comparable.

    Its model, seed, corpus, text length and measured tokens must be the same, or losses say
    nothing. They are looked for beside the ladder's, and else among the ``published`` ones.
    """
    found = []
    for run in ladder:
        places = [run.folder.parent, *([published] if published else [])]
        folders = {path.parent.name: path.parent for place in reversed(places)
                   for path in place.glob(f"{run.folder.name}-*/metrics.jsonl")}  # fmt: skip
        beside = [
            Run(run.rung, folder, read_config(folder / "config.toml"), read_metrics(folder))
            for _, folder in sorted(folders.items())
        ]
        same = [other for other in beside if other.metrics and _basis(other) == _basis(run)]
        found.append(Size(run, [run, *same]))
    return found


def _basis(run: Run) -> tuple[Any, ...]:
    config = run.config
    return config.model, config.seed, config.corpus, config.seq_len, config.eval_tokens


@dataclass(frozen=True)
class Comparison:
    """The sizes' points, and the losses at which they can be compared."""

    found: list[Size]
    ends: bool
    points: list[tuple[np.ndarray, np.ndarray]]
    lowest: float
    """The lowest loss that two sizes reached."""
    common: float
    """The lowest loss that all sizes reached."""
    highest: float
    """Above it, some size was there before its first point."""

    def models(self, target: float) -> list[TrainedModel | None]:
        """Each size, trained until it reaches ``target``; None where it does not."""
        reached = [tokens_to_reach(*points, target) for points in self.points]
        return [
            None if tokens is None
            else TrainedModel(size.ladder.config.model, tokens, size.ladder.config.seq_len)
            for size, tokens in zip(self.found, reached, strict=True)
        ]  # fmt: skip

    def rows(self, target: float) -> list[dict[str, Any]]:
        """What each size costs at ``target``, and between which served tokens it is cheapest."""
        models = self.models(target)
        intervals = cheapest([model for model in models if model])
        rows = []
        for size, model in zip(self.found, models, strict=True):
            if model:
                begin, end = intervals.get(model, (None, None))
                rows.append(row(size.ladder, tokens=model.trained, loss=target,
                                training_flops=model.training_flops,
                                flops_per_served_token=model.flops_per_token,
                                cheapest_from=begin, cheapest_to=end))  # fmt: skip
        return rows


def row(run: Run, **values: Any) -> dict[str, Any]:
    """One line of the csv; what is not given stays empty."""
    columns = ("tokens", "loss", "end_of_run", "training_flops", "flops_per_served_token",
               "cheapest_from", "cheapest_to")  # fmt: skip
    named = {"run": run.folder.name, "parameters": run.config.model.num_parameters()}
    return named | dict.fromkeys(columns) | values


def compare(ladder: Sequence[Run], published: Path | None = None) -> Comparison | None:
    """What can be compared; None while no two sizes have passed through the same loss."""
    found = sizes(ladder, published)
    found.sort(key=lambda size: size.ladder.config.model.num_parameters())
    ends = all(len(size.ends[0]) > 1 for size in found)
    begin = TRANSIENT * max(run.metrics[-1]["tokens"] for run in ladder)
    points = [size.points(ends, 0 if ends else begin) for size in found]
    if not all(len(losses) for _, losses in points):
        return None
    lows = sorted(losses.min() for _, losses in points)
    highest = min(losses[0] for _, losses in points)
    if lows[-1] >= highest:
        return None
    return Comparison(found, ends, points, lows[1], lows[-1], highest)


def inference_budget(
    ladder: Sequence[Run], published: Path | None = None
) -> tuple[Figure, list[dict[str, Any]], list[Run]] | None:
    """Total compute over served tokens, by size, at equal validation loss (the introduction).

    Returns:
        The figure, a row for each number drawn, and all runs used; None as in ``compare``.
    """
    comparison = compare(ladder, published)
    if comparison is None:
        return None
    used = [run for size in comparison.found for run in size.runs]
    rows = [
        row(run, tokens=tokens, loss=loss, end_of_run=tokens == run.metrics[-1]["tokens"])
        for run in used for tokens, loss in zip(*logged(run), strict=True)
    ]  # fmt: skip
    at_common = comparison.rows(comparison.common)
    targets = np.linspace(comparison.lowest, comparison.highest, TARGETS)
    mapped = [comparison.rows(target) for target in targets]
    figure = Figure(figsize=(9.75, 4.0), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    draw_losses(left, comparison)
    draw_costs(middle, comparison, at_common)
    draw_map(right, comparison, mapped)
    note = BY_ENDS if comparison.ends else BY_CURVES
    figure.supxlabel(note, fontsize=9, color="#555555")
    key(figure, [size.ladder for size in comparison.found], columns=4)
    return figure, rows + at_common + [row for rows in mapped for row in rows], used


def draw_losses(axes: Axes, comparison: Comparison) -> None:
    """Validation loss over tokens: every run's way, and the points that count."""
    for size, points in zip(comparison.found, comparison.points, strict=True):
        style = size.ladder.style
        for run in size.runs:
            axes.plot(*logged(run), color=style["color"], linewidth=0.7, alpha=0.55)
        marked = style | {"markersize": 5 if comparison.ends else 3, "linewidth": 1.5}
        axes.plot(*points, **marked, path_effects=[HALO], zorder=3)
    axes.axhline(comparison.common, color="#777777", linewidth=0.9, linestyle=(0, (6, 3)))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(one_unit(1e6))
    span = comparison.highest - comparison.lowest
    axes.set_ylim(comparison.lowest - 0.35 * span, comparison.highest + 0.6 * span)
    axes.set_title("(a) Tokens to a loss")
    axes.set_xlabel("Training tokens")
    axes.set_ylabel("Validation loss (nats per token)")


def draw_costs(axes: Axes, comparison: Comparison, rows: list[dict[str, Any]]) -> None:
    """Training and serving together, at the common loss; a ring where the cheapest size changes."""
    first, last = served_range(comparison)
    served = np.geomspace(first, last, 200)
    for run, mine in zip((size.ladder for size in comparison.found), rows, strict=True):
        style = run.style | {"marker": ""}
        total = mine["training_flops"] + mine["flops_per_served_token"] * served
        axes.plot(served, total, **style, linewidth=1.5, path_effects=[HALO])
        if mine["cheapest_from"]:
            begin = mine["cheapest_from"]
            at = mine["training_flops"] + mine["flops_per_served_token"] * begin
            axes.plot(begin, at, "o", markersize=9, markerfacecolor="none", color="#D55E00",
                      zorder=5)  # fmt: skip
            axes.annotate(f"{short(begin)} served", (begin, at), xytext=(4, -16), color="#D55E00",
                          textcoords="offset points", path_effects=[HALO])  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(first, last)
    axes.xaxis.set_major_formatter(one_unit(1e6))
    axes.set_title(f"(b) Total cost of loss {comparison.common:.2f}")
    axes.set_xlabel("Served tokens")
    axes.set_ylabel("FLOP, training and serving")


def draw_map(axes: Axes, comparison: Comparison, mapped: list[list[dict[str, Any]]]) -> None:
    """The cheapest size, by served tokens and loss."""
    first, last = served_range(comparison)
    step = (comparison.highest - comparison.lowest) / (TARGETS - 1)
    for size in comparison.found:
        mine = [r for rows in mapped for r in rows if r["run"] == size.ladder.folder.name]
        mine = [r for r in mine if r["cheapest_from"] is not None]
        if not mine:
            continue
        losses = np.repeat([r["loss"] for r in mine], 2) + np.tile([-step / 2, step / 2], len(mine))
        left = np.clip(np.repeat([r["cheapest_from"] for r in mine], 2), first, last)
        right = np.clip(np.repeat([r["cheapest_to"] for r in mine], 2), first, last)
        color = size.ladder.style["color"]
        axes.fill_betweenx(losses, left, right, color=color, alpha=0.25, linewidth=0)
        width = np.log(right / left)
        wide = np.flatnonzero(width >= 0.75 * width.max())
        at = wide[len(wide) // 2]  # the middle of the widest part holds the name
        axes.text(np.sqrt(left[at] * right[at]), losses[at], size.ladder.rung, color=color,
                  ha="center", va="center", path_effects=[HALO])  # fmt: skip
    axes.axhline(comparison.common, color="#777777", linewidth=0.9, linestyle=(0, (6, 3)))
    axes.set_xscale("log")
    axes.set_xlim(first, last)
    axes.set_ylim(comparison.lowest, comparison.highest)
    axes.xaxis.set_major_formatter(one_unit(1e6))
    axes.set_title("(c) Cheapest of those that got there")
    axes.set_xlabel("Served tokens")
    axes.set_ylabel("Validation loss (nats per token)")


def served_range(comparison: Comparison) -> tuple[float, float]:
    """Served tokens that are shown: from a tenth of the longest run's tokens to a hundred times."""
    longest = max(tokens[-1] for tokens, _ in comparison.points)
    return longest / 10, longest * 100
