"""``make reproduce``: from packages of public text to both figures.

The models are trained side by side, in as many lanes as there are cores (``apps/lanes.py``), and
each is evaluated as soon as it is trained. What is done is skipped, and what was stopped goes on
where it was, so the command may be interrupted at any moment and run again.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from minillama.apps.evaluate import evaluate
from minillama.apps.lanes import (
    Done,
    Job,
    count_cores,
    run_here,
    run_in_turn,
    run_jobs,
    timetable,
)
from minillama.apps.samples import publish_runs, write_samples
from minillama.corpus.token_files import open_corpus
from minillama.errors import ConfigError
from minillama.evaluate.baselines import ladder_baselines
from minillama.evaluate.tasks import GROUPS
from minillama.figures.benchmarks import PANELS
from minillama.figures.draw import draw_figures
from minillama.files import alone_in, read_json, write_json
from minillama.scale.build_corpus import build
from minillama.scale.runtime import train_distributed
from minillama.scale.sources import fetch
from minillama.tables import text_table
from minillama.train.backend import LocalBackend
from minillama.train.checkpoint import load_model
from minillama.train.config import TrainConfig, load_preset
from minillama.train.validation import valid_bits_per_byte

RUNGS = ("7b", "13b", "33b", "65b")
QUESTIONS = 100
LIMITS = {"nano": QUESTIONS, "small": 1_300, "mini": QUESTIONS}
"""Per benchmark and checkpoint; `minillama evaluate` without a limit asks them all."""
TASKS = {"nano": PANELS, "small": (*PANELS, *GROUPS["small-models"]), "mini": PANELS}
FIGURES = Path("figures")
"""Where the published figures are, seen from the project's folder."""


def reproduce(
    ladder: Literal["nano", "small", "mini"] = "nano",
    runs: Path = Path("runs"),
    out: Path | None = None,
    questions: int | None = None,
    seeds: int = 1,
    lanes: int = 0,
    publish: bool = False,
) -> None:
    """Fetch, build, train the ladder, evaluate, draw Figures 1 and 2, and write samples.

    Args:
        ladder: which ladder: nano (two CPU cores, minutes), small (the same, some five hours) or
            mini (one GPU).
        runs: where the run folders are.
        out: where the figures go; by default RUNS/figures.
        questions: asked in each benchmark of Figure 2, at each of 12 checkpoints of a run; 100,
            for small 1,300.
        seeds: trainings of the smallest size, for the band of noise in Figure 2.
        lanes: how many models are trained at once, with one thread each; 0 stands for as many as
            there are cores. A GPU trains one after the other.
        publish: draw the figures in figures/ as well, and copy the runs' logs into data/runs,
            where the notebooks read them.
    """
    if lanes < 0:
        raise ConfigError(f"lanes = {lanes}", "name a number from 1 up; 0 takes all cores")
    with alone_in(runs / "reproduce", "reproduce", "--runs"):
        configs = ladder_configs(ladder, runs, seeds)
        done = make_runs(ladder, configs, questions or LIMITS[ladder], lanes)
        done += show_runs(ladder, configs[:4], out or runs / "figures")
        if publish:
            draw_figures(runs=runs, ladder=ladder, out=FIGURES)
            publish_runs(runs, [config.name for config in configs], configs[3].name, ladder)
        print(timetable(done))


def ladder_configs(ladder: str, runs: Path, seeds: int) -> list[TrainConfig]:
    """The four sizes, smallest first, then the smallest with other seeds."""
    configs = [replace(load_preset(f"{ladder}-{rung}"), runs=str(runs)) for rung in RUNGS]
    smallest = configs[0]
    for seed in range(1, seeds):
        configs.append(replace(smallest, seed=seed, name=f"{smallest.name}-seed{seed}"))
    return configs


def make_runs(
    ladder: str, configs: Sequence[TrainConfig], questions: int, lanes: int
) -> list[Done]:
    """Everything that takes time: the corpus, then the runs, their evaluations and the 5-grams."""
    largest = configs[3]
    _, fetched = run_here("fetch", fetch)
    table, built = run_here("build", lambda: corpus(largest))
    print(table)
    on_gpu = LocalBackend(largest.device).device.type == "cuda"
    if not on_gpu:  # the numbers of one thread, in however many lanes
        configs = [replace(config, threads=1) for config in configs]
    jobs = plan_jobs(ladder, configs, questions)
    lanes = lanes or (1 if on_gpu else min(count_cores(), len(jobs)))
    return [fetched, built, *(run_in_turn(jobs) if lanes == 1 else run_jobs(jobs, lanes))]


def plan_jobs(ladder: str, configs: Sequence[TrainConfig], questions: int) -> list[Job]:
    """A training and an evaluation of each run, and the count of 5-grams, which fills a gap."""
    jobs, largest = [], configs[3]
    for config in configs:
        size, training = config.model.num_parameters(), f"train {config.name}"
        # In FLOP / 6 (Kaplan et al., 2020): all trainings before the first evaluation.
        jobs.append(Job(training, partial(train_distributed, config), cost=size * config.tokens))
        ask = partial(evaluate, config.run, TASKS[ladder], limit=questions, checkpoints="all")
        jobs.append(Job(f"evaluate {config.name}", ask, needs=(training,), cost=size))
    for config in configs[:4]:
        testing = partial(score_test, config)
        jobs.append(Job(f"test {config.name}", testing, needs=(f"train {config.name}",)))
    counting = partial(baseline, largest, five_grams(ladder, largest))
    return [*jobs, Job("count 5-grams", counting)]


def five_grams(ladder: str, config: TrainConfig) -> Path:
    """Where the 5-gram's figures are kept: RUNS/LADDER-5gram.json."""
    return Path(config.runs) / f"{ladder}-5gram.json"


def show_runs(ladder: str, configs: Sequence[TrainConfig], out: Path) -> list[Done]:
    """Draw the figures and write the samples, if they are not up to date; print the summary."""
    largest, done = configs[-1], []
    runs = Path(largest.runs)
    drawn = out / "figure2_benchmarks.json"  # the last file that draw_figures() writes
    logs = [path for path in runs.glob(f"{ladder}-*/**/*.json*") if path.name != "samples.json"]
    if (
        newer(drawn, [*logs, Path(largest.corpus) / "manifest.json"])
        and (out / "data_waterfall.json").exists()
    ):
        print(f"=== figures: {out} is up to date")
    else:
        text, took = run_here("figures", lambda: draw_figures(runs=runs, ladder=ladder, out=out))
        print(text)
        done.append(took)
    samples = largest.run / "samples.json"
    if newer(samples, [largest.run / "metrics.jsonl"]):
        print(f"=== samples: {samples} is up to date")
    else:
        text, took = run_here("samples", lambda: write_samples(largest.run))
        print(text)
        done.append(took)
    counted = baseline(largest, five_grams(ladder, largest))  # as it was kept
    print(summary(counted, [config.name for config in configs], runs))
    return done


def newer(made: Path, inputs: list[Path]) -> bool:
    """Whether a file exists and is no older than what it is made from."""
    return made.exists() and all(made.stat().st_mtime >= path.stat().st_mtime for path in inputs)


def corpus(largest: TrainConfig) -> str:
    """Build the corpus of a ladder, without texts of the user's own; returns Table 1."""
    return build(
        name=Path(largest.corpus).name, vocab_size=largest.model.vocab_size, own_share=0,
        budget=largest.tokens,
    )  # fmt: skip


def baseline(config: TrainConfig, path: Path) -> dict[str, Any]:
    """``ladder_baselines`` of the largest size, which ``config`` describes; kept in a file."""
    if path.exists() and (counted := read_json(path))["data"] == corpus_data(config):
        return counted
    counted = ladder_baselines(config)
    write_json(path, counted)
    return counted


def corpus_data(config: TrainConfig) -> str:
    """What identifies the text of a run."""
    return open_corpus(config.corpus).fingerprint


def score_test(config: TrainConfig) -> dict[str, Any]:
    """Bits per byte of a run's last checkpoint on the test text; kept in RUN/test.json."""
    path, step = config.run / "test.json", config.total_steps
    if path.exists() and (known := read_json(path))["step"] == step:
        return known
    model, _ = load_model(config.run)
    text = open_corpus(config.corpus)
    result = valid_bits_per_byte(model, text, config.eval_tokens, config.seq_len, split="test")
    write_json(path, {"step": step} | result)
    return {"step": step} | result


def summary(counted: dict[str, Any], presets: list[str], runs: Path) -> str:
    """Lay out test bits per byte of every run and of the 5-gram models, by slice."""
    results = {preset: read_json(runs / preset / "test.json") for preset in presets}
    titles = {"bytes": "5-gram of bytes", "all": "5-gram, all text", "seen": "5-gram, text read"}
    for key, title in titles.items():
        results[title] = counted[key]["test"]
    slices = list(counted["all"]["test"]["bpb_by_slice"])
    rows = []
    for title, result in results.items():
        numbers = [result["bpb"], *(result["bpb_by_slice"][name] for name in slices)]
        rows.append([title, *(f"{number:.3f}" for number in numbers)])
    table = text_table(["", "mixture", *slices], rows)
    return f"Test bits per byte (mixture, then slices)\n{table}"
