"""``minillama figures``: Figures 1 and 2, the inference budget and the corpus, from run folders.

Each is written as png, svg, csv (the numbers drawn) and json (where they come from).
"""

from pathlib import Path

import matplotlib

from minillama.apps.samples import PUBLISHED
from minillama.figures.benchmarks import (
    benchmarks,
    collect,
    correlation_table,
    correlations,
    seeds_of,
)
from minillama.figures.data import draw_corpus
from minillama.figures.inference_budget import inference_budget
from minillama.figures.loss import loss_vs_tokens
from minillama.figures.provenance import provenance
from minillama.figures.runs import load_runs
from minillama.figures.style import RC, save


def figures(
    runs: Path = Path("runs"),
    ladder: str = "nano",
    out: Path = Path("figures"),
    published: Path = PUBLISHED,
) -> str:
    """Draw Figures 1 and 2, and the inference budget, from the runs of a ladder, finished or not.

    Beside them the waterfall of the corpus that they were trained on, if it is there; else the
    answer says so.

    Args:
        runs: where the run folders are.
        ladder: nano, mini or full.
        out: where the figures go.
        published: where further runs of the same sizes are looked for, if not in ``runs``: other
            seeds of the smallest, and other lengths.

    Raises:
        ConfigError: an unknown ladder.
        DataError: a run or all evaluations are missing; the message says what to run. Figure 1,
            the inference budget and the waterfall need no evaluations and are written first.
    """
    loaded = load_runs(runs, ladder)
    seeds = seeds_of(loaded[0], runs, published)
    command = ["minillama", "figures", "--runs", str(runs), "--ladder", ladder, "--out", str(out)]
    origin = provenance(command, {run.folder.name: run.folder for run in (*loaded, *seeds)})
    lines = draw_corpus(loaded[-1], out, command)
    with matplotlib.rc_context(RC):
        figure, rows = loss_vs_tokens(loaded)
        written = save(figure, rows, out / "figure1_loss_vs_tokens", origin)
        if (budget := inference_budget(loaded, published)) is not None:
            figure, rows, used = budget
            origin_of_all = provenance(command, {run.folder.name: run.folder for run in used})
            written += save(figure, rows, out / "inference_budget", origin_of_all)
        rows = collect(loaded, seeds)
        found = correlations(loaded, rows)
        for stem, x in (("figure2_perplexity", "perplexity"), ("figure2_benchmarks", "tokens")):
            figure = benchmarks(loaded, rows, x)
            written += save(figure, rows, out / stem, origin | {"spearman": found})
    lines += [f"wrote {path}" for path in written]
    return "\n".join([*lines, "", correlation_table(found)])
