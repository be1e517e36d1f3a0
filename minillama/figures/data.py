"""Section 2.1 as a figure: what each step of a recipe takes, and Table 1 beside the paper's.

A bar is all of a slice's bytes. Steps take from its right end, in their order, so that the left
edge of a step's piece is the share that is left after it; the dark rest is the corpus. Where the
files are packed, as Wikipedia's dump is, or text grows otherwise, the bar is what there was to
take or keep, not what lay on the disk.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from scipy.optimize import isotonic_regression

from minillama.corpus.mixture import epochs
from minillama.corpus.token_files import open_corpus
from minillama.errors import DataError
from minillama.figures.provenance import provenance
from minillama.figures.runs import Rows, Run
from minillama.figures.style import HALO, RC, one_unit, save_figure
from minillama.files import read_json, sha256
from minillama.paper import TABLE1

KEPT, MOST, OTHER = "#00507F", "#F0A830", "#E0E0E0"
"""Three shades that a gray print tells apart."""
NAMED = 0.03
"""Steps that take less than this share are drawn, not named."""
WIDTH, LEFT, BARS, SHARES, RIGHT = 8.0, 1.36, 3.76, 0.9, 0.1
"""Inches: the page, the slices' names, two of the three panels, and the margin."""
TOP, ROW, BOTTOM = 0.62, 0.53, 0.86
"""Inches: the titles, each slice, and the axes' labels with the note."""
DOWN = 0.14
"""How far below the middle of its row a bar lies, to leave a line for names."""
CAPTIONS = {
    "read": "markup, fields",
    "read commoncrawl": "HTML, other fields",
    "read arxiv": "preamble, comments",
    "heuristics c4": "C4's rules",
    "length": "too short",
    "length again": "too short",
    "line-level deduplication": "repeated lines",
    "language identification": "language",
    "perplexity buckets": "tail of perplexity",
    "reference classifier": "no reference",
    "three-sentence deduplication": "repeated spans",
    "paragraphs as lines": "line breaks",
    "licenses": "other licenses",
    "exact-match deduplication": "duplicates",
    "one edition of a play (ours)": "First Folio",
    "book-level deduplication": "near duplicates",
    "duplicates in all slices": "duplicates",
    "contamination by benchmarks": "benchmark text",
    "limit of a package": "package limit",
    "limit of the slice": "size limit",
    "near duplicates in all slices": "seen elsewhere",
}
"""What a step takes, in few words: by its name in the manifest, and the slice's where they differ;
others keep their names."""
NOTE = (
    "Under each name: megabytes as read and as kept, between them what packed files unpack to.\n"
    "Orange (darker in a gray print): the step that takes most. "
    f"Steps that take less than {NAMED:.0%} have no name."
)
COLUMNS = ("slice", "step", "documents_in", "documents_out", "bytes_in", "bytes_out",
           "share_taken", "share_left", "why", "tokens", "share", "epochs", "paper_share",
           "paper_epochs")  # fmt: skip


def data_waterfall(manifest: dict[str, Any], budget: int) -> tuple[Figure, Rows]:
    """Every slice's waterfall, and its share and epochs beside the paper's (Section 2.1, Table 1).

    Args:
        manifest: a built corpus's ``manifest.json``.
        budget: training tokens for which the epochs are.

    Returns:
        The figure; and a row for each step of each slice, and one for each slice's line of Table 1.
    """
    slices = manifest["slices"] | manifest["left_out"]
    names = list(TABLE1 | slices)
    steps = {name: waterfall_rows(name, slices[name]) if name in slices else [] for name in names}
    table = table_rows(names, manifest, budget)
    # Three panels side by side, a row for each slice, placed by the inch.
    height = TOP + BOTTOM + ROW * len(names)
    ends = (LEFT, LEFT + BARS, LEFT + BARS + SHARES, WIDTH - RIGHT)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(WIDTH, height), layout="none")
        for x, end in pairwise(ends):
            box = (x / WIDTH, BOTTOM / height, (end - x) / WIDTH, ROW * len(names) / height)
            axes = figure.add_axes(box)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
        bars, shares, dots = figure.axes
        draw_bars(bars, steps)
        draw_shares(shares, table)
        draw_epochs(dots, table)
        above(bars, 0, 26, "(a) What each step takes, from right to left", fontsize=10)
        above(shares, 0.1, 26, f"(b) Table 1, for {one_unit(budget)(budget)} tokens", fontsize=10)
        figure.text(0.01, 0.06 / height, NOTE, va="bottom", color="#555555", linespacing=1.3)
    rows = [row for name in slices for row in steps[name]] + table
    return figure, [dict.fromkeys(COLUMNS) | row for row in rows]


def above(axes: Axes, x: float, points: float, text: str, **look: Any) -> None:
    """A text some points above a panel, at a fraction of its width."""
    place = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(text, (x, 1), xytext=(0, points), **place, **look)


def waterfall_rows(name: str, part: dict[str, Any]) -> Rows:
    """What is left of a slice after each step, and why not the rest."""
    steps = part["waterfall"]
    # A step whose texts grow, as packed ones do when they are read, takes nothing.
    taken = [max(0, step["bytes_in"] - step["bytes_out"]) for step in steps]
    base = left = steps[-1]["bytes_out"] + sum(taken) or 1
    rows = []
    for step, size in zip(steps, taken, strict=True):
        left -= size
        reasons = [f"{count} {why}" for why, count in step["dropped"].items()]
        reasons += [f"{count} {kind} removed" for kind, count in step["removed"].items()]
        row = {key: step[key] for key in COLUMNS[1:6]}
        row |= {"share_taken": size / base, "share_left": left / base, "why": "; ".join(reasons)}
        rows.append({"slice": name} | row)
    return rows


def table_rows(names: Sequence[str], manifest: dict[str, Any], budget: int) -> Rows:
    """Table 1: share and epochs here and in the paper; empty where a slice is absent."""
    weights = manifest["weights"]
    tokens = {name: manifest["slices"][name]["train"]["tokens"] for name in weights}
    read = epochs(weights, tokens, budget)
    rows = []
    for name in names:
        paper = TABLE1.get(name, {})
        row = {"slice": name, "step": "Table 1", "tokens": tokens.get(name)}
        row |= {"share": weights.get(name), "epochs": read.get(name)}
        row |= {"paper_share": paper.get("share"), "paper_epochs": paper.get("epochs")}
        rows.append(row)
    return rows


def draw_bars(axes: Axes, steps: dict[str, Rows]) -> None:
    """A bar for each slice, with its name and megabytes on the left."""
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f}"))
    axes.set_xlabel("Share of a slice's bytes that is left (%)")
    look = {"textcoords": "offset points", "ha": "right"}
    for y, (name, rows) in enumerate(steps.items()):
        label = TABLE1[name]["label"] if name in TABLE1 else name
        axes.annotate(label, (0, y + DOWN), xytext=(-7, 3), fontweight="bold", **look)
        axes.annotate(sizes(rows), (0, y + DOWN), xytext=(-7, -9), **look)
        if rows:
            draw_bar(axes, y + DOWN, rows)
        else:
            axes.text(0.01, y + DOWN, "no package has it", va="center", fontstyle="italic")


def sizes(steps: Rows) -> str:
    """Megabytes read and kept, between them what they unpack to, if that is more."""
    if not steps:
        return "absent"
    first, last = steps[0]["bytes_in"], steps[-1]["bytes_out"]
    most = max(step["bytes_out"] for step in steps)
    if not last:
        return f"{megabytes(max(first, most))} MB, absent"
    shown = [megabytes(first), megabytes(last)]
    if most > max(first, last):
        shown = [megabytes(size, 0) for size in (first, most, last)]
    return " → ".join(shown) + " MB"


def megabytes(size: int, digits: int = 1) -> str:
    """One or two digits after the point, ``digits`` from 10 on, or as many as it takes."""
    number = size / 1e6
    for least, form in ((9.95, f".{digits}f"), (0.95, ".1f"), (0.0095, ".2f")):
        if number >= least:
            return format(number, form)
    return f"{number:.1g}"


def draw_bar(axes: Axes, y: float, steps: Rows) -> None:
    """The kept part dark; each step's piece named in it, or above it where it is narrow."""
    shape: dict[str, Any] = {"height": 0.56, "edgecolor": "white", "linewidth": 1.2}
    look: dict[str, Any] = {"ha": "center", "va": "center", "linespacing": 0.95}
    kept = steps[-1]["share_left"]
    axes.barh(y, kept, color=KEPT, **shape)
    for label in (f"kept {kept:.0%}", f"{kept:.0%}"):
        text = axes.text(kept / 2, y, label, color="white", fontweight="bold", **look)
        if width(axes, text) < kept:
            break
        text.remove()
    # The pieces, from right to left; names that don't fit are kept for later.
    largest = max(step["share_taken"] for step in steps)
    outside = []
    for step in steps:
        name, share = step["step"], step["share_taken"]
        if not share:
            continue
        color = MOST if share == largest else OTHER
        axes.barh(y, share, left=step["share_left"], color=color, **shape)
        caption = CAPTIONS.get(f"{name} {step['slice']}") or CAPTIONS.get(name, name)
        center = step["share_left"] + share / 2
        text = axes.text(center, y, f"{caption}\n{share:.0%}", **look)
        if width(axes, text) > share:
            text.remove()
            if share >= NAMED:
                label = f"{caption} {share:.0%}"
                text = axes.text(0, y - 0.3 - DOWN, label, ha="center", va="center")
                outside.append((center, width(axes, text), text))
    # Names above the bar keep apart, each with a line to its piece.
    outside.sort(key=lambda name: name[0])
    centers = [center for center, _, _ in outside]
    places = spread(centers, [wide for _, wide, _ in outside], gap=0.03)
    for (center, wide, text), place in zip(outside, places, strict=True):
        text.set_x(place)
        end = min(max(center, place - wide / 2), place + wide / 2)
        axes.plot([center, end], [y - 0.28, y - 0.19 - DOWN], color="#555555", linewidth=0.7)


def spread(centers: Sequence[float], widths: Sequence[float], gap: float) -> np.ndarray:
    """Move labels in a row from 0 to 1 as little as keeps every two neighbors ``gap`` apart.

    The labels have sorted ``centers``. Returns the new ones.
    """
    sizes = np.asarray(widths, dtype=float)
    if not len(sizes):
        return sizes
    # Less the room of the labels before it, a label's place must not decrease.
    half = sizes / 2
    room = np.zeros(len(sizes))
    room[1:] = np.cumsum(half[:-1] + half[1:] + gap)
    places = isotonic_regression(centers - room).x
    # The first and the last stay on the page.
    places = np.maximum(places, half[0])
    places = np.minimum(places, 1 - half[-1] - room[-1])
    return places + room


def width(axes: Axes, text: Text) -> float:
    """How wide a text is, in units of the x axis, which goes from 0 to 1."""
    return text.get_window_extent().width / axes.get_window_extent().width


def draw_shares(axes: Axes, table: Rows) -> None:
    """Two columns of numbers."""
    axes.set_axis_off()
    above(axes, 0.97, 15, "Share of text", ha="right")
    for x, key, head, weight in (
        (0.52, "share", "here", "bold"),
        (0.97, "paper_share", "paper", "normal"),
    ):
        look = {"ha": "right", "fontweight": weight}
        above(axes, x, 3, head, **look)
        for y, row in enumerate(table):
            text = "–" if row[key] is None else f"{100 * row[key]:.2g}%"
            axes.text(x, y + DOWN, text, va="center", **look)


def draw_epochs(axes: Axes, table: Rows) -> None:
    """How often a slice is read: here a full mark, in the paper a hollow one."""
    both = [row[key] for row in table for key in ("epochs", "paper_epochs") if row[key]]
    axes.set_xscale("log")
    axes.set_xlim(min(both) / 9, max(both) * 7)
    axes.axvline(1, color="#999999", linewidth=0.9)
    hollow = {"color": "black", "markerfacecolor": "white"}
    full = {"color": KEPT, "zorder": 3}
    for y, row in enumerate(table):
        here, paper = row["epochs"] or 0, row["paper_epochs"] or 0
        if here and paper:
            axes.plot([here, paper], [y + DOWN, y + DOWN], color="#777777", linewidth=1.2)
        # The larger of the two has its number on the right.
        for times, mark, weight, right in (
            (paper, hollow, "normal", paper >= here),
            (here, full, "bold", here > paper),
        ):
            if times:
                axes.plot(times, y + DOWN, "o", markersize=6, **mark)
                look = {"va": "center", "path_effects": [HALO], "fontweight": weight}
                place = {"xytext": (6 if right else -6, 0), "ha": "left" if right else "right"}
                text = f"{times:.2f}" if times < 10 else f"{times:.1f}"
                point = (times, y + DOWN)
                axes.annotate(text, point, textcoords="offset points", **place, **look)
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("Times read (log scale)")
    above(axes, 0.5, 15, "Epochs", ha="center")
    above(axes, 0.42, 3, "● here", ha="right", color=KEPT, fontweight="bold")
    above(axes, 0.54, 3, "○ paper")


def draw_corpus(run: Run, out: Path, command: Sequence[str]) -> list[str]:
    """Write data_waterfall of the corpus of a run; returns a line for each file, or why not."""
    path = Path(run.config.corpus) / "manifest.json"
    try:
        corpus = open_corpus(path.parent, verify=False)
        figure, rows = data_waterfall(read_json(path), run.config.tokens)
    except DataError as error:
        return [f"data_waterfall is not drawn: {error}"]
    except KeyError as error:
        return [f"data_waterfall is not drawn: {path} is of an older version (no {error})"]
    origin = provenance(command)
    origin["corpus"] = {
        "name": path.parent.name,
        "recipe": corpus.manifest.get("recipe"),
        "manifest_sha256": sha256(path),
        "data_sha256": corpus.fingerprint,  # that of the runs trained on it
        "sources": corpus.manifest.get("sources"),
    }
    return [f"wrote {path}" for path in save_figure(figure, rows, out / "data_waterfall", origin)]
