"""``minillama figures``: all figures of the paper's results, drawn from run folders.

Each is written as png, svg, csv (the numbers drawn) and json (where they come from).
"""

from pathlib import Path

import matplotlib

from minillama.analysis.benchmark_figure import (
    benchmarks,
    collect,
    correlation_table,
    correlations,
    seeds_of,
)
from minillama.analysis.drawing import RC, save
from minillama.analysis.ladder import load_runs
from minillama.analysis.loss_figure import loss_vs_tokens
from minillama.analysis.provenance import provenance
from minillama.analysis.samples import PUBLISHED


def figures(
    runs: Path = Path("runs"),
    ladder: str = "nano",
    out: Path = Path("figures"),
    published: Path = PUBLISHED,
) -> str:
    """Draw Figures 1 and 2 from the four runs of a ladder, finished or not.

    Args:
        runs: where the run folders are.
        ladder: nano, mini or full.
        out: where the figures go.
        published: where further seeds of the smallest size are looked for, if not in ``runs``.

    Raises:
        ConfigError: an unknown ladder.
        DataError: a run or all evaluations are missing; the message says what to run. Figure 1
            needs no evaluations and is written first.
    """
    loaded = load_runs(runs, ladder)
    seeds = seeds_of(loaded[0], runs, published)
    command = ["minillama", "figures", "--runs", str(runs), "--ladder", ladder, "--out", str(out)]
    origin = provenance(command, {run.folder.name: run.folder for run in (*loaded, *seeds)})
    with matplotlib.rc_context(RC):
        figure, rows = loss_vs_tokens(loaded)
        written = save(figure, rows, out / "figure1_loss_vs_tokens", origin)
        rows = collect(loaded, seeds)
        found = correlations(loaded, rows)
        for stem, x in (("figure2_perplexity", "perplexity"), ("figure2_benchmarks", "tokens")):
            figure = benchmarks(loaded, rows, x)
            written += save(figure, rows, out / stem, origin | {"spearman": found})
    return "\n".join([*(f"wrote {path}" for path in written), "", correlation_table(found)])
