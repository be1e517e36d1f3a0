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
from minillama.figures.runs import Rows, Run, Runs
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


def last_phenomena(run: Run, record: dict) -> Rows:
    """A row for each phenomenon of one checkpoint, in the columns of ``collect``."""
    result = record["tasks"][PAIRS]
    null = (result.get("null") or {}).get("groups", {})
    rows = []
    for phenomenon, group in result["groups"].items():
        n, accuracy = group["n"], group["accuracy"]
        row = checkpoint_columns(run, record)
        row |= {"task": f"{PAIRS}: {phenomenon}", "style": record["settings"]["style"], "n": n}
        row |= {"accuracy": accuracy, "se": math.sqrt(accuracy * (1 - accuracy) / n)}
        row |= {"chance": result["chance"], "majority": result["majority"], "gold_bpb": None}
        row |= {"null_accuracy": null.get(phenomenon, {}).get("accuracy"), "null_gold_bpb": None}
        rows.append(row)
    return rows


def draw_small_models_figure(runs: Runs, rows: Rows) -> tuple[Figure, Rows]:
    """The panels of Figure 2 for other benchmarks; ``rows`` are those of ``collect`` for them.

    Returns the figure, and the rows with those of the phenomena behind.
    """
    tasks = [task for task in SMALL_PANELS if any(row["task"] == task for row in rows)]
    phenomena = phenomenon_rows(runs)
    columns = len(tasks) + bool(phenomena)
    figure = Figure(figsize=(2.5 * columns + bool(phenomena) * 2, 5.6), layout="constrained")
    ratios = [1.0] * len(tasks) + [1.3] * bool(phenomena)
    layout = figure.add_gridspec(2, columns, width_ratios=ratios)
    grid = np.empty((2, len(tasks)), dtype=object)
    for column in range(len(tasks)):
        grid[1, column] = figure.add_subplot(layout[1, column])
        grid[0, column] = figure.add_subplot(layout[0, column], sharex=grid[1, column])
        grid[0, column].tick_params(labelbottom=False)
    draw_panels(grid, runs, rows, tasks, "tokens")
    grid[0, 0].set_ylabel("Right answers (%)")
    if phenomena:
        draw_phenomena(figure.add_subplot(layout[:, -1]), runs, phenomena)
    add_legend(figure, runs, columns=4 if columns > 2 else 2)
    return figure, rows + phenomena


def draw_phenomena(axes: Axes, runs: Runs, rows: Rows) -> None:
    """A line for each phenomenon: the accuracy of each run and of the 5-gram model."""
    names = list(dict.fromkeys(row["task"] for row in rows))
    by_largest = {row["task"]: row["accuracy"] for row in rows}  # the last run's
    names.sort(key=by_largest.__getitem__)
    # Guessing
    n = min(row["n"] for row in rows)
    half_width = 1.96 * math.sqrt(0.25 / n)
    axes.axvspan(50 - 100 * half_width, 50 + 100 * half_width, color="#ececec", zorder=0)
    axes.axvline(50, color="#777777", linewidth=0.9, linestyle=(0, (6, 3)), zorder=1)
    # Runs, the largest uppermost, and the 5-gram below
    for i, run in enumerate(runs):
        own = {row["task"]: row for row in rows if row["run"] == run.folder.name}
        shown = [name for name in names if name in own]
        heights = [names.index(name) + STAGGER * (i - 1) for name in shown]
        values = [100 * own[name]["accuracy"] for name in shown]
        color, marker = run.style["color"], run.style["marker"]
        axes.plot(values, heights, linestyle="none", color=color, marker=marker, markersize=4.5)
    null = {row["task"]: row["null_accuracy"] for row in rows if row["null_accuracy"] is not None}
    heights = [names.index(name) - 2 * STAGGER for name in null]
    values = [100 * value for value in null.values()]
    axes.plot(values, heights, linestyle="none", color="#CC79A7", marker="X", label="5-gram")
    # Names
    axes.set_yticks(range(len(names)), [name.removeprefix(f"{PAIRS}: ") for name in names])
    axes.set_xlim(0, 100)
    axes.set_xlabel("Right (%), last checkpoint")
    axes.set_title("Minimal pairs by phenomenon")
    axes.legend(loc="upper left", frameon=False, labelcolor="linecolor", handletextpad=0.1)
