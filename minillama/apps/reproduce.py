"""``make reproduce``: from packages of public text to both figures, stage by stage.

Every stage skips what is done and goes on where it was stopped, so the command may be interrupted
at any moment and run again.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from minillama.apps.evaluate import evaluate
from minillama.apps.samples import publish, write_samples
from minillama.corpus.token_files import open_corpus
from minillama.evaluate.baselines import byte_ngram_bits_per_byte, ngram_bits_per_byte
from minillama.figures.benchmarks import PANELS
from minillama.figures.draw import draw_figures
from minillama.files import read_json, write_json
from minillama.scale.build_corpus import build
from minillama.scale.runtime import train_distributed
from minillama.scale.sources import fetch
from minillama.tables import text_table
from minillama.train.config import load_preset
from minillama.train.dataloader import StatelessDataLoader
from minillama.train.log import read_metrics

RUNGS = ("7b", "13b", "33b", "65b")
QUESTIONS = 100
"""Questions per benchmark and checkpoint; `minillama evaluate` without a limit asks them all."""


def reproduce(
    ladder: Literal["nano", "mini"] = "nano",
    runs: Path = Path("runs"),
    out: Path = Path("figures"),
    questions: int = QUESTIONS,
    seeds: int = 1,
    publish_logs: bool = False,
) -> None:
    """Fetch, build, train the ladder, evaluate, draw Figures 1 and 2, and write samples.

    Args:
        ladder: which ladder: nano (two CPU cores, minutes) or mini (one GPU).
        runs: where the run folders are.
        out: where the figures go.
        questions: asked in each benchmark of Figure 2, at each of 12 checkpoints of a run.
        seeds: trainings of the smallest size, for the band of noise in Figure 2.
        publish_logs: copy the runs' logs into data/runs, where the notebooks read them.
    """
    began = time.monotonic()
    presets = [f"{ladder}-{rung}" for rung in RUNGS]
    configs = [load_preset(preset) for preset in presets]
    configs += [
        replace(configs[0], seed=seed, name=f"{presets[0]}-seed{seed}") for seed in range(1, seeds)
    ]
    names = [config.name for config in configs]
    stage("1 fetch", fetch)
    print(stage("2 build", lambda: corpus(ladder)))
    for config in configs:
        stage(f"3 train {config.name}", lambda config=config: train_distributed(config))
    counted = stage("4 baseline", lambda: baseline(ladder, runs))
    for name in names:
        table = stage(
            f"5 evaluate {name}",
            lambda name=name: evaluate(runs / name, PANELS, limit=questions, checkpoints="all"),
        )
        print(table)
    drawn = out / "figure2_benchmarks.json"  # the last file that draw_figures() writes
    logs = [path for name in names for path in (runs / name).rglob("*.json*")]
    inputs = [path for path in logs if path.name != "samples.json"]
    inputs.append(Path(configs[0].corpus) / "manifest.json")
    if newer(drawn, inputs) and (out / "data_waterfall.json").exists():
        print(f"=== 6 figures: {out} is up to date")
    else:
        print(stage("6 figures", lambda: draw_figures(runs=runs, ladder=ladder, out=out)))
    if newer(runs / presets[-1] / "samples.json", [runs / presets[-1] / "metrics.jsonl"]):
        print(f"=== 7 samples: {runs / presets[-1] / 'samples.json'} is up to date")
    else:
        print(stage("7 samples", lambda: write_samples(runs / presets[-1])))
    print(summary(counted, presets, runs))
    if publish_logs:
        publish(runs, names, presets[-1], ladder)
    print(f"done in {(time.monotonic() - began) / 60:.1f} min")


def stage(name: str, work: Callable[[], Any]) -> Any:
    """Run one stage between two lines that say what and how long."""
    print(f"=== {name}", flush=True)
    began = time.monotonic()
    result = work()
    print(f"=== {name}: {time.monotonic() - began:.0f} s", flush=True)
    return result


def newer(made: Path, inputs: list[Path]) -> bool:
    """Whether a file exists and is no older than what it is made from."""
    return made.exists() and all(made.stat().st_mtime >= path.stat().st_mtime for path in inputs)


def corpus(ladder: str) -> str:
    """Build the corpus of a ladder, without texts of the user's own; returns Table 1."""
    largest = load_preset(f"{ladder}-{RUNGS[-1]}")
    return build(
        name=Path(largest.corpus).name, vocab_size=largest.model.vocab_size, own_share=0,
        budget=largest.tokens,
    )  # fmt: skip


def baseline(ladder: str, runs: Path) -> dict[str, Any]:
    """Bits per byte of 5-gram models; kept in RUNS/LADDER-5gram.json.

    Of bytes and of pieces, counted on all training text; and of pieces, counted on no more than
    the largest model has read.
    """
    config = load_preset(f"{ladder}-{RUNGS[-1]}")
    text = open_corpus(config.corpus)
    path, data = runs / f"{ladder}-5gram.json", text.fingerprint
    if path.exists() and (counted := read_json(path))["data"] == data:
        return counted
    order = StatelessDataLoader(text, config.seq_len, config.batch_sequences, config.seed)
    counted = {
        "data": data,
        "bytes": byte_ngram_bits_per_byte(text, config.eval_tokens, config.seq_len),
        "all": ngram_bits_per_byte(text, config.eval_tokens, config.seq_len),
        "seen": ngram_bits_per_byte(
            text, config.eval_tokens, config.seq_len, seen=order, steps=config.total_steps
        ),
    }
    write_json(path, counted)
    return counted


def summary(counted: dict[str, Any], presets: list[str], runs: Path) -> str:
    """Lay out validation bits per byte of every run and of the 5-gram models, by slice."""
    results = {}
    for preset in presets:
        last = read_metrics(runs / preset)[-1]
        results[preset] = (last["valid_bpb"], last["valid_bpb_by_slice"])
    titles = {"bytes": "5-gram of bytes", "all": "5-gram, all text", "seen": "5-gram, text read"}
    for key, title in titles.items():
        results[title] = (counted[key]["bpb"], counted[key]["bpb_by_slice"])
    slices = list(counted["all"]["bpb_by_slice"])
    rows = []
    for title, (mixture, by_slice) in results.items():
        numbers = [mixture, *(by_slice[name] for name in slices)]
        rows.append([title, *(f"{number:.3f}" for number in numbers)])
    table = text_table(["", "mixture", *slices], rows)
    return f"Validation bits per byte (mixture, then slices)\n{table}"
