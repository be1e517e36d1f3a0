"""Two figures of Section 2.4: memory of attention over its length, and of a block's backwards.

They are drawn from what ``minillama bench attention`` and ``minillama bench block`` have measured.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from minillama.figures.provenance import provenance
from minillama.figures.runs import STYLES
from minillama.figures.style import RC, save_figure

Measured = dict[str, Any]
LOOKS = [
    STYLES[rung] | {"linewidth": width, "markersize": 2.5 * width}
    for rung, width in (("7b", 1.6), ("33b", 3.2), ("65b", 1.6))  # the last two often coincide
]
MARKS = [("#000000", "D"), ("#999999", "v"), ("#56B4E9", "s"), ("#E69F00", "o"), ("#009E73", "^")]
"""Okabe and Ito's colors; the first is what the others are compared with."""


def draw_attention_figure(rows: Sequence[Measured]) -> Figure:
    """Peak and saved bytes, and time, over the length; a row has the fields of ``bench``'s."""
    columns = (
        ("peak", 1e6, "(a) Peak of a step", "MB above the inputs"),
        ("saved", 1e6, "(b) Kept for the backward", "MB, inputs among them"),
        ("seconds", 1e-3, "(c) Time of a step", "Milliseconds"),
    )
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9.0, 3.6), layout="constrained")
        panels = figure.subplots(1, 3)
        for axes, (column, unit, title, label) in zip(panels, columns, strict=True):
            draw_over_length(axes, rows, column, unit)
            axes.set_title(title)
            axes.set_ylabel(label)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False)
    return figure


def draw_over_length(axes: Axes, rows: Sequence[Measured], column: str, unit: float) -> None:
    """One curve for each contender, both axes logarithmic."""
    names = dict.fromkeys(row["name"] for row in rows)
    for name, look in zip(names, LOOKS, strict=False):
        curve = [row for row in rows if row["name"] == name]
        lengths = [row["seq_len"] for row in curve]
        values = [row[column] / unit for row in curve]
        axes.plot(lengths, values, label=name, **look)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sorted({row["seq_len"] for row in rows}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("Sequence length T")


def draw_block_figure(rows: Sequence[Measured]) -> Figure:
    """What each backward saves, over the time that it takes, at each width."""
    widths = list(dict.fromkeys(row["width"] for row in rows))
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(3.2 * len(widths) + 0.6, 3.6), layout="constrained")
        panels = figure.subplots(1, len(widths), sharex=True, sharey=True, squeeze=False)[0]
        for axes, width in zip(panels, widths, strict=True):
            draw_exchange(axes, [row for row in rows if row["width"] == width])
            axes.set_title(f"Width {width}")
            axes.set_xlabel("Time of a step, to autograd's")
        panels[0].set_ylabel("Bytes kept for the backward,\nto autograd's")
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=5, frameon=False)
    return figure


def draw_exchange(axes: Axes, rows: Sequence[Measured]) -> None:
    """Relative memory over relative time, a mark for each contender."""
    for row, (color, marker) in zip(rows, MARKS, strict=False):
        look = {"color": color, "markersize": 7, "linestyle": "", "zorder": 3}
        axes.plot(row["slower"], 1 / row["fewer"], marker, label=row["name"], **look)
    # Autograd's time, and half of its memory.
    gray = {"color": "#777777"}
    axes.axvline(1, linewidth=0.8, **gray)
    axes.axhline(0.5, linewidth=0.8, linestyle=(0, (4, 2)), **gray)
    place = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "bottom"}
    axes.text(0.98, 0.51, "half", **place, **gray)
    axes.set_ylim(0, 1.1)


def bench_command(verb: str, settings: Measured) -> list[str]:
    """The command that sets these flags; a tuple is several values."""
    words = ["minillama", "bench", verb]
    for name, value in settings.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return words


def save_measurement(
    draw: Callable[[list[Measured]], Figure],
    rows: Sequence[Any],
    stem: Path,
    command: Sequence[str],
    settings: Measured,
) -> None:
    """Write png, svg, csv and json; the json tells command, code, machine and settings."""
    records = [asdict(row) for row in rows]
    figure = draw(records)
    origin = provenance(command)
    origin["settings"] = settings | {"threads": torch.get_num_threads()}
    for path in save_figure(figure, records, stem, origin):
        print(f"wrote {path}")
