"""Figure 1: training loss over tokens, for the four sizes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minillama.figures.runs import Rows, Run, Runs, short
from minillama.figures.style import HALO, add_legend, one_unit

WINDOW = 0.04
"""Smoothing window: this share of the longest run's tokens."""
TRANSIENT = 0.05
"""The frame of Figure 1 is set by the curves after this share of the longest run."""


def smooth(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the ``window`` steps around each step; of those that exist, at both ends."""
    count = len(values)
    sums = np.zeros(count + 1)
    np.cumsum(values, out=sums[1:])
    steps = np.arange(count)
    begin = np.maximum(steps - window // 2, 0)
    end = np.minimum(steps + (window + 1) // 2, count)
    return (sums[end] - sums[begin]) / (end - begin)


def draw_loss_figure(runs: Runs) -> tuple[Figure, Rows]:
    """Figure 1: training loss over tokens. Returns the figure and a row for each step."""
    longest = max(run.config.total_steps * run.config.batch_tokens for run in runs)
    figure = Figure(figsize=(6.5, 4.0), layout="constrained")
    axes = figure.add_subplot()
    rows, settled = [], []
    for run in runs:
        steps = loss_rows(run, WINDOW * longest)
        mean = np.array([row["loss_smoothed"] for row in steps])
        tokens = run.column("tokens")
        draw_loss(axes, run, tokens, mean)
        late = tokens >= TRANSIENT * longest
        settled.append(mean[late] if late.any() else mean)
        rows += steps
    # The frame leaves out the first steep fall.
    low = min(map(np.min, settled))
    high = max(map(np.max, settled))
    margin = high - low
    axes.set_ylim(low - 0.08 * margin, high + 0.04 * margin)
    axes.set_xlim(0, longest)
    axes.xaxis.set_major_formatter(one_unit(longest))
    axes.set_xlabel("Training tokens")
    axes.set_ylabel(f"Training loss (nats per token),\nmean over {short(WINDOW * longest)} tokens")
    add_legend(figure, runs, columns=2)
    return figure, rows


def loss_rows(run: Run, window_tokens: float) -> Rows:
    """What Figure 1 draws of a run: a row for each step."""
    window = max(1, round(window_tokens / run.config.batch_tokens))
    means = smooth(run.column("loss"), window)
    return [
        {
            "run": run.folder.name,
            "parameters": run.config.model.num_parameters(),
            "step": line["step"],
            "tokens": line["tokens"],
            "loss": line["loss"],
            "loss_smoothed": float(mean),
            "window_steps": window,
        }
        for line, mean in zip(run.metrics, means, strict=True)
    ]


def draw_loss(axes: Axes, run: Run, tokens: np.ndarray, mean: np.ndarray) -> None:
    """The curve as it was logged, faint, and its moving mean, with a marker at the end."""
    color = {"color": run.style["color"]}
    faint = {"alpha": 0.1, "linewidth": 0.5}
    line = {"linestyle": run.style["linestyle"], "linewidth": 1.6, "path_effects": [HALO]}
    mark = {"marker": run.style["marker"], "markersize": 5, "clip_on": False}
    axes.plot(tokens, run.column("loss"), zorder=2, **faint, **color)
    axes.plot(tokens, mean, zorder=3, **line, **color)
    axes.plot(tokens[-1], mean[-1], zorder=4, **mark, **color)
