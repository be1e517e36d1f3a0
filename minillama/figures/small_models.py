"""A further row for Figure 2: what models of a few million parameters can do.

The paper's six benchmarks ask for facts and common sense, which no small model has. The questions
here can be answered earlier: science for children (ARC-easy), the last word of a passage (LAMBADA),
and which of two sentences is English (minimal pairs, ours), with a panel for each point of grammar.
"""

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from minillama.evaluate.tasks import GROUPS
from minillama.figures.benchmarks import (
    checkpoint_columns,
    common_questions,
    draw_panels,
    questions_of,
    read_evaluations,
)
from minillama.figures.runs import Row, Rows, Run, Runs
from minillama.figures.style import add_legend

SMALL_PANELS = GROUPS["small-models"]
PAIRS = "minimal_pairs"
STAGGER = 0.16
"""How far apart the markers of two runs are, of the distance between two points of grammar."""


def phenomenon_rows(runs: Runs) -> Rows:
    """The accuracy on each phenomenon of the minimal pairs, of each run's last checkpoint."""
    questions = common_questions(runs)
    rows = []
    for run in runs:
        for record in reversed(read_evaluations(run)):
            if questions_of(record) == questions and PAIRS in record["tasks"]:
                rows += last_phenomena(run, record)
                break
    return rows


def last_phenomena(run: Run, record: Row) -> Rows:
    """A row for each phenomenon of one checkpoint, in the columns of ``collect``."""
    result = record["tasks"][PAIRS]
    null = result.get("null") or {}
    rows = []
    for phenomenon, group in result["groups"].items():
        n, accuracy = group["n"], group["accuracy"]
        counted = null.get("groups", {}).get(phenomenon, {})
        row = checkpoint_columns(run, record)
        row["task"] = f"{PAIRS}: {phenomenon}"
        row["style"] = record["settings"]["style"]
        row |= {"n": n, "accuracy": accuracy}
        row["se"] = math.sqrt(accuracy * (1 - accuracy) / n)
        row |= {"chance": result["chance"], "majority": result["majority"]}
        row["gold_bpb"] = None
        row["null_accuracy"] = counted.get("accuracy")
        row["null_gold_bpb"] = None
        rows.append(row)
    return rows


def draw_small_models_figure(runs: Runs, rows: Rows) -> tuple[Figure, Rows]:
    """The panels of Figure 2 for other benchmarks; ``rows`` are those of ``collect`` for them.

    Returns the figure, and the rows with those of the phenomena behind.
    """
    found = {row["task"] for row in rows}
    tasks = [task for task in SMALL_PANELS if task in found]
    phenomena = phenomenon_rows(runs)
    # A column for each task, and a wider one for the phenomena
    widths = [2.5] * len(tasks)
    if phenomena:
        widths.append(4.5)
    figure = Figure(figsize=(sum(widths), 5.6), layout="constrained")
    layout = figure.add_gridspec(2, len(widths), width_ratios=widths)
    grid = np.empty((2, len(tasks)), dtype=object)
    for column in range(len(tasks)):
        lower = figure.add_subplot(layout[1, column])
        upper = figure.add_subplot(layout[0, column], sharex=lower)
        upper.tick_params(labelbottom=False)
        grid[:, column] = upper, lower
    # What is in them
    draw_panels(grid, runs, rows, tasks, "tokens")
    grid[0, 0].set_ylabel("Right answers (%)")
    if phenomena:
        draw_phenomena(figure.add_subplot(layout[:, -1]), runs, phenomena)
    add_legend(figure, runs, columns=4 if len(widths) > 2 else 2)
    return figure, rows + phenomena


def draw_phenomena(axes: Axes, runs: Runs, rows: Rows) -> None:
    """A line for each phenomenon: the accuracy of each run and of the 5-gram model."""
    # The one that the largest run does best is uppermost
    of_largest = {row["task"]: row["accuracy"] for row in rows}
    heights = {}
    for height, task in enumerate(sorted(of_largest, key=of_largest.__getitem__)):
        heights[task] = height
    # Guessing
    n = min(row["n"] for row in rows)
    half_width = 196 * math.sqrt(0.25 / n)
    axes.axvspan(50 - half_width, 50 + half_width, color="#ececec", zorder=0)
    axes.axvline(50, color="#777777", linewidth=0.9, linestyle=(0, (6, 3)), zorder=1)
    # The runs, from below in the order of their sizes, and the 5-gram below them
    for i, run in enumerate(runs):
        own = [row for row in rows if row["run"] == run.folder.name]
        accuracies = {row["task"]: row["accuracy"] for row in own}
        look = {"color": run.style["color"], "marker": run.style["marker"], "markersize": 4.5}
        draw_accuracies(axes, accuracies, heights, STAGGER * (i - 1), look)
    counted = {}
    for row in rows:
        if row["null_accuracy"] is not None:
            counted[row["task"]] = row["null_accuracy"]
    look = {"color": "#CC79A7", "marker": "X", "label": "5-gram"}
    draw_accuracies(axes, counted, heights, -2 * STAGGER, look)
    # Names
    names = [task.removeprefix(f"{PAIRS}: ") for task in heights]
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 100)
    axes.set_xlabel("Right (%), last checkpoint")
    axes.set_title("Minimal pairs by phenomenon")
    axes.legend(loc="upper left", frameon=False, labelcolor="linecolor", handletextpad=0.1)


def draw_accuracies(
    axes: Axes, accuracies: dict[str, float], heights: dict[str, int], shift: float, look: Row
) -> None:
    """A model's accuracy on each phenomenon, as a marker a little off the line's height."""
    x = [100 * accuracy for accuracy in accuracies.values()]
    y = [heights[task] + shift for task in accuracies]
    axes.plot(x, y, linestyle="none", **look)
