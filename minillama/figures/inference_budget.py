"""The paper's argument as a figure: which size reaches a loss at the least total cost?

Drawn from the validation losses that training has logged. A cosine schedule ends with its run, so
a loss on the way is worse than a run of just that length would reach. Every size therefore needs
two or more finished runs of different lengths: ``nano-13b``, and beside it ``nano-13b-short``. Only
their last losses count, with a straight line over the logarithm of tokens between two of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minillama.analysis.inference_budget import TrainedModel, cheapest, tokens_to_reach
from minillama.figures.runs import Rows, Run, Runs, find_variants, short
from minillama.figures.style import HALO, add_legend, one_unit

TARGETS = 81
"""Losses at which the map of the third panel is computed."""
NOTE = "Large marks: ends of finished runs. Costs take only these, and straight lines between."
COLUMNS = ("run", "parameters", "tokens", "loss", "end_of_run", "training_flops",
           "flops_per_served_token", "cheapest_from", "cheapest_to")  # fmt: skip
DASHED = {"color": "#777777", "linewidth": 0.9, "linestyle": (0, (6, 3))}


@dataclass(frozen=True)
class Size:
    """A rung with all its runs: the ladder's own, and others beside it of the same shape."""

    ladder: Run
    runs: list[Run]

    @property
    def ends(self) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and validation losses at the ends of finished runs, shortest first."""
        last = []
        for run in self.runs:
            tokens, losses = logged(run)
            finished = run.metrics[-1]["step"] == run.config.total_steps
            if finished and len(tokens):
                last.append((tokens[-1], losses[-1]))
        table = np.array(sorted(last)).reshape(-1, 2)
        return table[:, 0], table[:, 1]


def logged(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and validation losses, where a run has measured them."""
    lines = [line for line in run.metrics if line.get("valid_loss") is not None]
    tokens = np.array([line["tokens"] for line in lines], dtype=np.float64)
    return tokens, np.array([line["valid_loss"] for line in lines])


def find_sizes(ladder: Runs, published: Path | None = None) -> list[Size]:
    """The sizes; beside the ladder's run, each run counts that is named after it and comparable.

    Its model, seed, corpus, text length and measured tokens must be the same, or losses say
    nothing. They are looked for beside the ladder's, and else among the ``published`` ones.
    """

    def basis(run: Run) -> tuple[Any, ...]:
        config = run.config
        return config.model, config.seed, config.corpus, config.seq_len, config.eval_tokens

    sizes = []
    for run in ladder:
        folders = [run.folder.parent]
        if published:
            folders.append(published)
        variants = find_variants(run, folders)
        same = [other for other in variants if basis(other) == basis(run)]
        sizes.append(Size(run, [run, *same]))
    return sorted(sizes, key=lambda size: size.ladder.config.model.num_parameters())


@dataclass(frozen=True)
class Comparison:
    """The sizes' points, and the losses at which they can be compared."""

    found: list[Size]
    points: list[tuple[np.ndarray, np.ndarray]]
    lowest: float
    """The lowest loss that two sizes reached."""
    common: float
    """The lowest loss that all sizes reached."""
    highest: float
    """Above it, some size was there before its first point."""

    def models(self, target: float) -> list[TrainedModel | None]:
        """Each size, trained until it reaches ``target``; None where it does not."""
        models = []
        for size, points in zip(self.found, self.points, strict=True):
            tokens = tokens_to_reach(*points, target)
            config = size.ladder.config
            reached = tokens is not None
            models.append(TrainedModel(config.model, tokens, config.seq_len) if reached else None)
        return models

    def rows(self, target: float) -> Rows:
        """What each size costs at ``target``, and between which served tokens it is cheapest."""
        models = self.models(target)
        intervals = cheapest([model for model in models if model])
        rows = []
        for size, model in zip(self.found, models, strict=True):
            if model is None:
                continue
            begin, end = intervals.get(model, (None, None))
            row = {
                "run": size.ladder.folder.name,
                "parameters": model.config.num_parameters(),
                "tokens": model.trained,
                "loss": target,
                "training_flops": model.training_flops,
                "flops_per_served_token": model.flops_per_token,
                "cheapest_from": begin,
                "cheapest_to": end,
            }
            rows.append(row)
        return rows

    @property
    def served(self) -> tuple[float, float]:
        """Served tokens that are shown, from a tenth of the longest run's to a hundred times."""
        longest = max(tokens[-1] for tokens, _ in self.points)
        return longest / 10, longest * 100


def compare_sizes(ladder: Runs, published: Path | None = None) -> Comparison | None:
    """What can be compared; None while no two sizes have passed through the same loss."""
    found = find_sizes(ladder, published)
    points = [size.ends for size in found]
    if any(len(losses) < 2 for _, losses in points):
        return None
    lows = sorted(losses.min() for _, losses in points)
    highest = min(losses[0] for _, losses in points)
    if lows[-1] >= highest:
        return None
    return Comparison(found, points, lows[1], lows[-1], highest)


def draw_budget_figure(
    ladder: Runs, published: Path | None = None
) -> tuple[Figure, Rows, list[Run]] | None:
    """Total compute over served tokens, by size, at equal validation loss (the introduction).

    Returns:
        The figure, a row for each number drawn, and all runs used; None as in ``compare_sizes``.
    """
    comparison = compare_sizes(ladder, published)
    if comparison is None:
        return None
    # The numbers: every logged loss, the costs at the common loss, and those of the map.
    used, rows = [], []
    for size in comparison.found:
        used += size.runs
    for run in used:
        last = run.metrics[-1]["tokens"]
        named = {"run": run.folder.name, "parameters": run.config.model.num_parameters()}
        for tokens, loss in zip(*logged(run), strict=True):
            rows.append(named | {"tokens": tokens, "loss": loss, "end_of_run": tokens == last})
    at_common = comparison.rows(comparison.common)
    mapped = []
    for target in np.linspace(comparison.lowest, comparison.highest, TARGETS):
        mapped += comparison.rows(target)
    rows = [dict.fromkeys(COLUMNS) | row for row in rows + at_common + mapped]
    # The panels.
    figure = Figure(figsize=(9.75, 4.0), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    draw_losses(left, comparison)
    draw_costs(middle, comparison, at_common)
    draw_map(right, comparison, mapped)
    figure.supxlabel(NOTE, fontsize=9, color="#555555")
    add_legend(figure, [size.ladder for size in comparison.found], columns=4)
    return figure, rows, used


def scale_tokens(axes: Axes, title: str, x: str, y: str) -> None:
    """A logarithmic axis of tokens, and what is written on the panel."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(one_unit(1e6))
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def draw_losses(axes: Axes, comparison: Comparison) -> None:
    """Validation loss over tokens: every run's way, and the points that count."""
    marks = {"markersize": 5, "linewidth": 1.5}
    for size, points in zip(comparison.found, comparison.points, strict=True):
        style = size.ladder.style
        for run in size.runs:
            axes.plot(*logged(run), color=style["color"], linewidth=0.7, alpha=0.55)
        axes.plot(*points, **style, **marks, path_effects=[HALO], zorder=3)
    axes.axhline(comparison.common, **DASHED)
    span = comparison.highest - comparison.lowest
    axes.set_ylim(comparison.lowest - 0.35 * span, comparison.highest + 0.6 * span)
    scale_tokens(
        axes, "(a) Tokens to a loss", "Training tokens", "Validation loss (nats per token)"
    )


def draw_costs(axes: Axes, comparison: Comparison, rows: Rows) -> None:
    """Training and serving together, at the common loss; a ring where the cheapest size changes."""
    served = np.geomspace(*comparison.served, 200)
    orange = {"color": "#D55E00"}
    for size, row in zip(comparison.found, rows, strict=True):
        training, each = row["training_flops"], row["flops_per_served_token"]
        style = size.ladder.style | {"marker": ""}
        axes.plot(served, training + each * served, **style, linewidth=1.5, path_effects=[HALO])
        begin = row["cheapest_from"]
        if begin:
            point = (begin, training + each * begin)
            axes.plot(*point, "o", markersize=9, markerfacecolor="none", zorder=5, **orange)
            place = {"xytext": (4, -16), "textcoords": "offset points", "path_effects": [HALO]}
            axes.annotate(f"{short(begin)} served", point, **place, **orange)
    axes.set_yscale("log")
    axes.set_xlim(*comparison.served)
    title = f"(b) Total cost of loss {comparison.common:.2f}"
    scale_tokens(axes, title, "Served tokens", "FLOP, training and serving")


def draw_map(axes: Axes, comparison: Comparison, mapped: Rows) -> None:
    """The cheapest size, by served tokens and loss."""
    half = (comparison.highest - comparison.lowest) / (TARGETS - 1) / 2
    for size in comparison.found:
        name, color = size.ladder.folder.name, size.ladder.style["color"]
        rows = [row for row in mapped if row["run"] == name and row["cheapest_from"] is not None]
        if not rows:
            continue
        # Stairs: from and to which served tokens, at the lower and upper edge of each loss.
        table = [(row["loss"], row["cheapest_from"], row["cheapest_to"]) for row in rows]
        losses, left, right = np.repeat(table, 2, axis=0).T
        losses += np.tile([-half, half], len(rows))
        left, right = (np.clip(edge, *comparison.served) for edge in (left, right))
        axes.fill_betweenx(losses, left, right, color=color, alpha=0.25, linewidth=0)
        # The middle of the widest part holds the name.
        width = np.log(right / left)
        wide = np.flatnonzero(width >= 0.75 * width.max())
        middle = wide[len(wide) // 2]
        x = np.sqrt(left[middle] * right[middle])
        look = {"ha": "center", "va": "center", "path_effects": [HALO]}
        axes.text(x, losses[middle], size.ladder.rung, color=color, **look)
    axes.axhline(comparison.common, **DASHED)
    axes.set_xlim(*comparison.served)
    axes.set_ylim(comparison.lowest, comparison.highest)
    title = "(c) Cheapest of those that got there"
    scale_tokens(axes, title, "Served tokens", "Validation loss (nats per token)")
