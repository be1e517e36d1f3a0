"""Two figures of Section 2.4: memory of attention over its length, and of a block's backwards.

They are drawn from what ``minillama bench attention`` and ``minillama bench block`` have measured.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from minillama.figures.provenance import provenance
from minillama.figures.runs import STYLES
from minillama.figures.style import RC, save

Measured = dict[str, Any]
Drawn = tuple[Figure, list[Measured]]
LOOKS = [
    STYLES[rung] | {"linewidth": width, "markersize": 2.5 * width}
    for rung, width in (("7b", 1.6), ("33b", 3.2), ("65b", 1.6))  # the last two often coincide
]
MARKS = [("#000000", "D"), ("#999999", "v"), ("#56B4E9", "s"), ("#E69F00", "o"), ("#009E73", "^")]
"""Okabe and Ito's colors; the first is what the others are compared with."""


def attention_memory(rows: Sequence[Measured]) -> Drawn:
    """Peak and saved bytes, and time, over the length; a row has the fields of ``bench``'s."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        panels = figure.subplots(1, 3)
        columns = (("peak", 1e6), ("saved", 1e6), ("seconds", 1e-3))
        titles = ("(a) Peak of a step", "(b) Kept for the backward", "(c) Time of a step")
        labels = ("MB above the inputs", "MB, inputs among them", "Milliseconds")
        for axes, (column, unit), title, label in zip(panels, columns, titles, labels, strict=True):
            draw_over_length(axes, rows, column, unit)
            axes.set_title(title)
            axes.set_ylabel(label)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False)
    return figure, list(rows)


def draw_over_length(axes: Axes, rows: Sequence[Measured], column: str, unit: float) -> None:
    """One curve for each contender, both axes logarithmic."""
    for name, look in zip(dict.fromkeys(row["name"] for row in rows), LOOKS, strict=False):
        mine = [row for row in rows if row["name"] == name]
        values = [row[column] / unit for row in mine]
        axes.plot([row["seq_len"] for row in mine], values, label=name, **look)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted({row["seq_len"] for row in rows}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("Sequence length T")


def block_memory(rows: Sequence[Measured]) -> Drawn:
    """What each backward saves, over the time that it takes, at each width."""
    widths = list(dict.fromkeys(row["width"] for row in rows))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(3.2 * len(widths) + 0.6, 3.6), layout="constrained")
        panels = figure.subplots(1, len(widths), sharex=True, sharey=True, squeeze=False)[0]
        for axes, width in zip(panels, widths, strict=True):
            mine = [row for row in rows if row["width"] == width]
            draw_exchange(axes, mine)
            axes.set_title(f"Width {width}")
            axes.set_xlabel("Time of a step, to autograd's")
        panels[0].set_ylabel("Bytes kept for the backward,\nto autograd's")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=5, frameon=False)
    return figure, list(rows)


def draw_exchange(axes: Axes, rows: Sequence[Measured]) -> None:
    """Relative memory over relative time, a mark for each contender."""
    for row, (color, marker) in zip(rows, MARKS, strict=False):
        axes.plot(row["slower"], 1 / row["fewer"], marker, color=color, markersize=7, zorder=3,
                  linestyle="", label=row["name"])  # fmt: skip
    axes.axvline(1, color="#777777", linewidth=0.8)
    axes.axhline(0.5, color="#777777", linewidth=0.8, linestyle=(0, (4, 2)))
    axes.text(0.98, 0.51, "half", transform=axes.get_yaxis_transform(), ha="right", va="bottom",
              color="#777777")  # fmt: skip
    axes.set_ylim(0, 1.1)


def flags(settings: dict[str, Any]) -> list[str]:
    """A command's flags, ``--name value``, that set these."""
    return [
        part
        for name, value in settings.items()
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]


def save_figure(
    drawn: Drawn, stem: Path, command: Sequence[str], settings: dict[str, Any]
) -> list[Path]:
    """Write png, svg, csv and json; the json tells command, code, machine and settings."""
    figure, rows = drawn
    origin = provenance(command, {})
    del origin["runs"]
    with matplotlib.rc_context(RC):
        origin["settings"] = settings | {"threads": torch.get_num_threads()}
        return save(figure, rows, stem, origin)
