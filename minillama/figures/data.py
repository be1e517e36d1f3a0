"""Section 2.1 as a figure: what each step of a recipe takes, and Table 1 beside the paper's.

A bar is all of a slice's bytes. Steps take from its right end, in their order, so that the left
edge of a step's piece is the share that is left after it; the dark rest is the corpus. Where the
files are packed, as Wikipedia's dump is, or text grows otherwise, the bar is what there was to
take or keep, not what lay on the disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from minillama.corpus.mixture import epochs
from minillama.errors import DataError
from minillama.figures.provenance import describe_corpus, provenance
from minillama.figures.runs import Run
from minillama.figures.style import HALO, RC, one_unit, save
from minillama.files import read_json
from minillama.paper import TABLE1

KEPT, MOST, OTHER = "#00507F", "#F0A830", "#E0E0E0"
"""Three shades that a gray print tells apart."""
NAMED = 0.01
"""Steps that take less than this share are drawn, not named."""
WIDTH, LEFT, BARS, SHARES, RIGHT = 8.0, 1.36, 3.76, 0.9, 0.1
"""Inches: the page, the slices' names, two of the three panels, and the margin."""
TOP, ROW, BOTTOM = 0.62, 0.53, 0.86
"""Inches: the titles, each slice, and the axes' labels with the note."""
DOWN = 0.14
"""How far below the middle of its row a bar lies, to leave a line for names."""
CAPTIONS = {
    "read": "markup",
    "read commoncrawl": "HTML and menus",
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
    "limit of the slice": "size limit",
}
"""What a step takes, in few words: by its name in the manifest, and the slice's where they differ;
others keep their names."""
NOTE = (
    "Under each name: megabytes as read and as kept, between them what packed files unpack to.\n"
    "Orange (darker in a gray print): the step that takes most. "
    f"Steps that take less than {NAMED:.0%} have no name."
)
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Taken:
    """One step's piece of a bar: from the share ``left`` after it, ``share`` wide."""

    caption: str
    left: float
    share: float
    most: bool


def data_waterfall(manifest: dict[str, Any], budget: int) -> tuple[Figure, Rows]:
    """Every slice's waterfall, and its share and epochs beside the paper's (Section 2.1, Table 1).

    Args:
        manifest: a built corpus's ``manifest.json``.
        budget: training tokens for which the epochs are.

    Returns:
        The figure; and a row for each step of each slice, and one for each slice's line of Table 1.
    """
    rows = waterfall_rows(manifest) + table_rows(manifest, budget)
    names = list(dict.fromkeys([*TABLE1, *manifest["slices"], *manifest["left_out"]]))
    height = TOP + BOTTOM + ROW * len(names)
    part = ROW * len(names) / height
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(WIDTH, height), layout="none")
        ends = (LEFT, LEFT + BARS, LEFT + BARS + SHARES, WIDTH - RIGHT)
        bars, shares, dots = panels = [
            figure.add_axes((x / WIDTH, BOTTOM / height, (end - x) / WIDTH, part))
            for x, end in pairwise(ends)
        ]
        for axes in panels:
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
        draw_bars(bars, names, rows)
        table = [row for row in rows if row["step"] == "Table 1"]
        draw_shares(shares, names, table)
        draw_epochs(dots, names, table)
        above(bars, 0, 26, "(a) What each step takes, from right to left", fontsize=10)
        above(shares, 0.1, 26, f"(b) Table 1, for {one_unit(budget)(budget)} tokens", fontsize=10)
        figure.text(0.01, 0.06 / height, NOTE, va="bottom", color="#555555", linespacing=1.3)
    return figure, rows


def above(axes: Axes, x: float, points: float, text: str, **look: Any) -> None:
    """A text some points above a panel, at a fraction of its width."""
    axes.annotate(text, (x, 1), xycoords="axes fraction", xytext=(0, points),
                  textcoords="offset points", **look)  # fmt: skip


def waterfall_rows(manifest: dict[str, Any]) -> Rows:
    """What is left after each step, and why not the rest, in the order of the recipes."""
    rows = []
    for name, told in (manifest["slices"] | manifest["left_out"]).items():
        steps = told["waterfall"]
        base = steps[-1]["bytes_out"] + sum(map(loss, steps)) or 1
        left = base
        for step in steps:
            left -= loss(step)
            kinds = [f"{count} {kind} removed" for kind, count in step["removed"].items()]
            rows.append(row(
                name, step["step"], documents_in=step["documents_in"],
                documents_out=step["documents_out"], bytes_in=step["bytes_in"],
                bytes_out=step["bytes_out"], share_taken=loss(step) / base, share_left=left / base,
                why="; ".join([f"{count} {why}" for why, count in step["dropped"].items()] + kinds),
            ))  # fmt: skip
    return rows


def loss(step: dict[str, Any]) -> int:
    """The bytes that a step takes; none if its texts grow, as packed ones do when they are read."""
    return max(0, step["bytes_in"] - step["bytes_out"])


def table_rows(manifest: dict[str, Any], budget: int) -> Rows:
    """Table 1: share and epochs here and in the paper; empty where a slice is absent."""
    weights = manifest["weights"]
    tokens = {name: manifest["slices"][name]["train"]["tokens"] for name in weights}
    read = epochs(weights, tokens, budget)
    names = dict.fromkeys([*TABLE1, *manifest["slices"], *manifest["left_out"]])
    return [
        row(name, "Table 1", tokens=tokens.get(name), share=weights.get(name),
            epochs=read.get(name), paper_share=TABLE1.get(name, {}).get("share"),
            paper_epochs=TABLE1.get(name, {}).get("epochs"))
        for name in names
    ]  # fmt: skip


def row(name: str, step: str, **values: Any) -> dict[str, Any]:
    """One line of the csv; what is not given stays empty."""
    columns = ("documents_in", "documents_out", "bytes_in", "bytes_out", "share_taken",
               "share_left", "why", "tokens", "share", "epochs", "paper_share",
               "paper_epochs")  # fmt: skip
    return {"slice": name, "step": step} | dict.fromkeys(columns) | values


def pieces(steps: Rows) -> list[Taken]:
    """The pieces of a slice's bar, of those steps that take something."""
    largest = max(steps, key=lambda step: step["share_taken"])
    return [
        Taken(caption(step), step["share_left"], step["share_taken"], step is largest)
        for step in steps
        if step["share_taken"] > 0
    ]


def caption(step: dict[str, Any]) -> str:
    """What a step takes, in few words."""
    name = step["step"]
    return CAPTIONS.get(f"{name} {step['slice']}") or CAPTIONS.get(name, name)


def draw_bars(axes: Axes, names: Sequence[str], rows: Rows) -> None:
    """A bar for each slice, with its name and megabytes on the left."""
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:.0f}"))
    axes.set_xlabel("Share of a slice's bytes that is left (%)")
    for y, name in enumerate(names):
        steps = [row for row in rows if row["slice"] == name and row["step"] != "Table 1"]
        label = TABLE1[name]["label"] if name in TABLE1 else name
        look = {"textcoords": "offset points", "ha": "right"}
        axes.annotate(label, (0, y + DOWN), xytext=(-7, 3), fontweight="bold", **look)
        axes.annotate(sizes(steps), (0, y + DOWN), xytext=(-7, -9), **look)
        if steps:
            draw_bar(axes, y, pieces(steps), steps[-1]["share_left"])
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
    if most > max(first, last):
        return " → ".join(megabytes(size, 0) for size in (first, most, last)) + " MB"
    return f"{megabytes(first)} → {megabytes(last)} MB"


def megabytes(size: int, digits: int = 1) -> str:
    """One or two digits after the point, ``digits`` from 10 on, or as many as it takes."""
    number = size / 1e6
    if number >= 0.95:
        return f"{number:.{digits if number >= 9.95 else 1}f}"
    return f"{number:.2f}" if number >= 0.0095 else f"{number:.1g}"


def draw_bar(axes: Axes, y: int, taken: Sequence[Taken], kept: float) -> None:
    """The kept part dark; each step's piece named in it, or above it where it is narrow."""
    shape: dict[str, Any] = {"height": 0.56, "edgecolor": "white", "linewidth": 1.2}
    look: dict[str, Any] = {"ha": "center", "va": "center", "linespacing": 0.95}
    middle, outside = y + DOWN, []
    axes.barh(middle, kept, color=KEPT, **shape)
    for told in (f"kept {kept:.0%}", f"{kept:.0%}"):
        text = axes.text(kept / 2, middle, told, color="white", fontweight="bold", **look)
        if width(axes, text) < kept:
            break
        text.remove()
    for piece in taken:
        color, center = MOST if piece.most else OTHER, piece.left + piece.share / 2
        axes.barh(middle, piece.share, left=piece.left, color=color, **shape)
        text = axes.text(center, middle, f"{piece.caption}\n{piece.share:.0%}", **look)
        if width(axes, text) > piece.share:
            text.remove()
            if piece.share >= NAMED:
                told = f"{piece.caption} {piece.share:.0%}"
                outside.append((center, axes.text(0, y - 0.3, told, va="center")))
    outside.sort(key=lambda pair: pair[0])
    widths = [width(axes, text) for _, text in outside]
    lefts = spread([center for center, _ in outside], widths)
    for (center, text), left, wide in zip(outside, lefts, widths, strict=True):
        text.set_x(left)
        end = min(max(center, left), left + wide)
        axes.plot([center, end], [middle - 0.28, y - 0.19], color="#555555", linewidth=0.7)


def width(axes: Axes, text: Text) -> float:
    """How wide a text is, in units of the x axis, which goes from 0 to 1."""
    return text.get_window_extent().width / axes.get_window_extent().width


def spread(centers: Sequence[float], widths: Sequence[float], gap: float = 0.03) -> list[float]:
    """Left ends of texts in a row from 0 to 1, near their centers, none over another.

    Where there is no room for all, the row begins below 0.
    """
    lefts, at = [], 0.0
    for center, wide in zip(centers, widths, strict=True):
        lefts.append(max(at, center - wide / 2))
        at = lefts[-1] + wide + gap
    at = 1.0
    for i in reversed(range(len(lefts))):
        lefts[i] = min(lefts[i], at - widths[i])
        at = lefts[i] - gap
    return lefts


def draw_shares(axes: Axes, names: Sequence[str], table: Rows) -> None:
    """Two columns of numbers."""
    axes.set_axis_off()
    above(axes, 0.97, 15, "Share of text", ha="right")
    for x, key, head in ((0.52, "share", "here"), (0.97, "paper_share", "paper")):
        weight = "bold" if key == "share" else "normal"
        above(axes, x, 3, head, ha="right", fontweight=weight)
        for row in table:
            told = "–" if row[key] is None else f"{100 * row[key]:.2g}%"
            axes.text(x, names.index(row["slice"]) + DOWN, told, ha="right", va="center",
                      fontweight=weight)  # fmt: skip


def draw_epochs(axes: Axes, names: Sequence[str], table: Rows) -> None:
    """How often a slice is read: here a full mark, in the paper a hollow one."""
    both = [row[key] for row in table for key in ("epochs", "paper_epochs") if row[key]]
    axes.set_xscale("log")
    axes.set_xlim(min(both) / 9, max(both) * 7)
    axes.axvline(1, color="#999999", linewidth=0.9)
    for row in table:
        y, here, paper = names.index(row["slice"]) + DOWN, row["epochs"], row["paper_epochs"]
        if here and paper:
            axes.plot([here, paper], [y, y], color="#777777", linewidth=1.2)
        if paper:
            axes.plot(paper, y, "o", color="black", markerfacecolor="white", markersize=6)
            beside(axes, paper, y, right=not here or paper >= here)
        if here:
            axes.plot(here, y, "o", color=KEPT, markersize=6, zorder=3)
            beside(axes, here, y, right=bool(paper) and here > paper, fontweight="bold")
    axes.xaxis.set_major_locator(LogLocator(numticks=5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("Times read (log scale)")
    above(axes, 0.5, 15, "Epochs", ha="center")
    above(axes, 0.42, 3, "● here", ha="right", color=KEPT, fontweight="bold")
    above(axes, 0.54, 3, "○ paper")


def beside(axes: Axes, x: float, y: float, right: bool, **look: Any) -> None:
    """The number of a mark, on one side of it."""
    axes.annotate(f"{x:.2f}" if x < 10 else f"{x:.1f}", (x, y), xytext=(6 if right else -6, 0),
                  textcoords="offset points", ha="left" if right else "right", va="center",
                  path_effects=[HALO], **look)  # fmt: skip


def draw_corpus(run: Run, out: Path, command: Sequence[str]) -> list[str]:
    """Write data_waterfall of the corpus of a run; returns a line for each file, or why not."""
    path = Path(run.config.corpus) / "manifest.json"
    try:
        origin = provenance(command, {}) | {"corpus": describe_corpus(path.parent)}
        figure, rows = data_waterfall(read_json(path), run.config.tokens)
    except DataError as error:
        return [f"data_waterfall is not drawn: {error}"]
    except KeyError as error:
        return [f"data_waterfall is not drawn: {path} is of an older version (no {error})"]
    del origin["runs"]
    with matplotlib.rc_context(RC):
        return [f"wrote {path}" for path in save(figure, rows, out / "data_waterfall", origin)]
