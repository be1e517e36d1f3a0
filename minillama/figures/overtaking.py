"""Where a Transformer overtakes counting: bits per byte over tokens read, by size.

The rival is a 5-gram model that has counted what the Transformers had read by then. It needs no
gradient and is good at once; but it sees four pieces back, and the rest of what a text says it
cannot use. A larger model overtakes it after fewer tokens.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from minillama.figures.runs import Row, Rows, Run, Runs, short
from minillama.figures.style import HALO, add_legend, one_unit
from minillama.files import read_json
from minillama.tables import text_table

COLOR = "#CC79A7"
"""The 5-gram's, in every figure."""
RIVALS = {
    "curve": "5-gram of the tokens read so far",
    "all": "5-gram of all text",
    "bytes": "5-gram of bytes, all text",
}
"""What the runs are compared with: keys of ``evaluate.baselines.ladder_baselines``."""
DASHES = {"curve": (0, (1, 1.5)), "all": (0, (6, 3)), "bytes": (0, (2, 2))}
Curve = tuple[np.ndarray, np.ndarray]
"""Tokens, and bits per byte."""


def read_rivals(path: Path) -> dict[str, Curve] | None:
    """The curves of ``RIVALS`` from LADDER-5gram.json; None if they have not been counted."""
    counted = read_json(path) if path.exists() else {}
    if not counted.get("curve"):
        return None
    lines = {
        "curve": counted["curve"],
        "all": [counted["all"]],
        "bytes": [counted["bytes"]],
    }
    return {name: curve_of(lines[name], "bpb") for name in RIVALS}


def curve_of(lines: Rows, key: str) -> Curve:
    """The lines that have ``key`` as a curve of it."""
    tokens, bpb = [], []
    for line in lines:
        if line.get(key) is not None:
            tokens.append(line["tokens"])
            bpb.append(line[key])
    return np.array(tokens), np.array(bpb)


def read_validation(run: Run) -> Curve:
    """A run's bits per byte, wherever it was measured."""
    return curve_of(run.metrics, "valid_bpb")


def find_crossing(curve: Curve, rival: Curve) -> tuple[float, float] | None:
    """Where a curve gets below its rival for good: tokens, and bits per byte.

    Both are taken as linear in log(tokens) between their points, and where both have some; a
    rival of one point is that high everywhere. None if the curve does not end below.
    """
    if not len(curve[0]):  # a run that has just begun
        return None
    # Both curves, at the points of either, as far as both go
    tokens = curve[0]
    if len(rival[0]) > 1:
        tokens = np.union1d(tokens, rival[0])
        first = max(curve[0][0], rival[0][0])
        last = min(curve[0][-1], rival[0][-1])
        tokens = tokens[(tokens >= first) & (tokens <= last)]
    own = interpolate(curve, tokens)
    gap = own - interpolate(rival, tokens)
    if not len(tokens) or gap[-1] >= 0:
        return None
    # The last point behind, and the next
    behind = np.flatnonzero(gap >= 0)
    if not len(behind):
        return float(tokens[0]), float(own[0])
    i = behind[-1]
    share = gap[i] / (gap[i] - gap[i + 1])
    log_tokens = np.log(tokens[i : i + 2])
    x = log_tokens[0] + share * np.diff(log_tokens)[0]
    y = own[i] + share * (own[i + 1] - own[i])
    return float(np.exp(x)), float(y)


def interpolate(curve: Curve, tokens: np.ndarray) -> np.ndarray:
    """The height of a curve at some tokens: linear in their logarithm."""
    x, y = curve
    return np.interp(np.log(tokens), np.log(x), y)


def find_crossings(runs: Runs, rivals: dict[str, Curve]) -> Rows:
    """For each run, the tokens after which it is ahead of each rival, and how it ends.

    ``ahead_of_all`` is by how much its last bits per byte are fewer than those of the 5-gram of
    all text, as a fraction; negative if they are more.
    """
    rows = []
    for run in runs:
        curve = read_validation(run)
        if not len(curve[0]):
            continue
        tokens, bpb = curve[0][-1], curve[1][-1]
        row: Row = {"run": run.folder.name}
        row["parameters"] = run.config.model.num_parameters()
        for name, rival in rivals.items():
            crossing = find_crossing(curve, rival)
            at = None if crossing is None else round(crossing[0])
            row[f"overtakes_{name}_at"] = at
        row["tokens"] = int(tokens)
        row["bpb"] = float(bpb)
        _, of_all_text = rivals["all"]
        row["ahead_of_all"] = float(1 - bpb / of_all_text[-1])
        rows.append(row)
    return rows


def draw_overtaking_figure(runs: Runs, rivals: dict[str, Curve]) -> tuple[Figure, Rows]:
    """Bits per byte over tokens read. Returns the figure and a row for each point."""
    figure = Figure(figsize=(6.5, 4.4), layout="constrained")
    axes = figure.add_subplot()
    rows = []
    # The 5-gram models
    for name, label in RIVALS.items():
        tokens, bpb = rivals[name]
        rows += point_rows(label, None, tokens, bpb)
        draw_rival(axes, name, tokens, bpb)
    # The runs
    for run in runs:
        tokens, bpb = read_validation(run)
        rows += point_rows(run.folder.name, run.config.model.num_parameters(), tokens, bpb)
        marks = {"markersize": 3.6, "markeredgecolor": "white", "markeredgewidth": 0.4}
        axes.plot(tokens, bpb, linewidth=1.4, zorder=3, **run.style, **marks)
    scale_axes(axes, rows)
    # Where they overtake the 5-gram of the same tokens
    axes.set_ylim(axes.get_ylim())
    for i, run in enumerate(runs):
        crossing = find_crossing(read_validation(run), rivals["curve"])
        if crossing is not None:
            draw_crossing(axes, run, crossing, height=0.18 - 0.05 * i)
    axes.legend(loc="upper right", labelcolor="#8F3F6B", frameon=False, handlelength=3)
    add_legend(figure, runs, columns=2)
    return figure, rows


def point_rows(
    model: str, parameters: int | None, tokens: Sequence[int], bpb: Sequence[float]
) -> Rows:
    """What is drawn of a model: a row for each point."""
    rows = []
    for x, y in zip(tokens, bpb, strict=True):
        row = {"model": model, "parameters": parameters}
        row["tokens"] = int(x)
        row["bpb"] = float(y)
        rows.append(row)
    return rows


def draw_rival(axes: Axes, name: str, tokens: np.ndarray, bpb: np.ndarray) -> None:
    """Marked points for the 5-gram of the tokens read; for the others a line across."""
    look: Row = {"color": COLOR, "linewidth": 1.1}
    look["linestyle"] = DASHES[name]
    look["label"] = RIVALS[name]
    if name == "curve":
        look |= {"marker": "X", "markersize": 7, "markeredgecolor": "white"}
        axes.plot(tokens, bpb, zorder=2.5, **look)
    else:
        axes.axhline(bpb[0], zorder=1, **look)


def draw_crossing(axes: Axes, run: Run, crossing: tuple[float, float], height: float) -> None:
    """A ring, and from it a line down to the tokens, at ``height`` above the axis (of 1)."""
    tokens, bpb = crossing
    color, dashes = run.style["color"], run.style["linestyle"]
    # The ring
    ring = {"marker": "o", "markersize": 10, "markeredgewidth": 1.6}
    ring |= {"markerfacecolor": "none", "markeredgecolor": color}
    axes.plot(tokens, bpb, linestyle="none", zorder=4, **ring)
    # The line
    floor, _ = axes.get_ylim()
    axes.vlines(tokens, floor, bpb, color=color, linewidth=0.8, linestyle=dashes)
    # The tokens
    place = {"transform": axes.get_xaxis_transform(), "ha": "right"}
    look = {"color": color, "fontweight": "bold", "path_effects": [HALO]}
    axes.text(tokens, height, f"{short(tokens)} ", **place, **look)


def scale_axes(axes: Axes, rows: Rows) -> None:
    """Tokens in one unit on a logarithmic axis."""
    axes.set_xscale("log")
    axes.set_xlabel("Tokens read")
    axes.set_ylabel("Validation bits per byte")
    longest = max(row["tokens"] for row in rows)
    axis = axes.xaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(one_unit(longest))
    axis.set_minor_formatter(NullFormatter())


def crossings_table(crossings: Rows) -> str:
    """``find_crossings`` as text."""
    lines = []
    for row in crossings:
        cells = []
        for name in RIVALS:
            tokens = row[f"overtakes_{name}_at"]
            cells.append("not yet" if tokens is None else short(tokens))
        end, ahead = f"{row['bpb']:.3f}", f"{row['ahead_of_all']:+.1%}"
        lines.append([row["run"], *cells, end, ahead])
    header = ["tokens read to overtake", *RIVALS.values(), "at the end", "ahead of all text"]
    return text_table(header, lines)
