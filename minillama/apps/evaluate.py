"""``minillama evaluate``: the benchmarks on the checkpoints of a run.

RUN/evaluations/step-NNNNNNNN.json holds the results of one checkpoint, what they were measured
with, and the validation loss that training logged at that step, which Figure 2 needs; the .jsonl
of the same name holds a row for each question, from which the results can be counted again.
Another prompt style, or some of the questions only, lie beside: step-NNNNNNNN.olmes.limit-300.json.
"""

import math
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch.distributed as dist
import tyro
from tqdm import tqdm

from minillama.apps.report import decimals, in_percent, report
from minillama.corpus.sources import DOWNLOADS, SOURCES
from minillama.errors import CheckpointError, ConfigError, DataError
from minillama.evaluate.baselines import baseline_results
from minillama.evaluate.generation import Generation
from minillama.evaluate.scoring import FORMAT, Row, read_rows, record_name, write_rows
from minillama.evaluate.task_run import TaskRun, choose_task_runs
from minillama.evaluate.tasks import open_library
from minillama.files import read_json, write_json
from minillama.scale.runtime import DistributedBackend, join_world
from minillama.tables import text_table
from minillama.tokenizer import Tokenizer
from minillama.train import checkpoint
from minillama.train.config import read_config
from minillama.train.log import read_metrics


def evaluate(
    run: tyro.conf.Positional[Path],
    tasks: tuple[str, ...] = ("common-sense",),
    limit: int | None = None,
    checkpoints: Literal["last", "all"] | int = "last",
    shots: tuple[int, ...] = (),
    style: Literal["llama", "olmes"] = "llama",
    generation: Generation = Generation(),  # noqa: B008
    device: Literal["auto", "cpu", "cuda"] = "auto",
    sources: Path = SOURCES,
    downloads: Path = DOWNLOADS,
) -> str | None:
    """Score checkpoints of a run on benchmarks (Section 3), and show the paper's tables with it.

    A checkpoint that was scored before on the same questions is not scored again. Under torchrun
    the processes share the questions.

    Args:
        run: the run folder.
        tasks: which benchmarks, or groups of them: common-sense, closed-book, reading,
            mathematics, code, small-models, all.
        limit: at most so many questions of each, spread evenly; all by default.
        checkpoints: the last one; all that are kept for good; or so many of these, log-spaced.
        shots: numbers of solved examples to show, where a benchmark offers them.
        style: of the prompts: the best reconstruction of the paper's, or OLMES.
        generation: how tasks are answered in which the model writes.
        device: auto takes the GPU if there is one.
        sources: the list of packages.
        downloads: where they are.

    Returns:
        The tables; None on all processes but the first.

    Raises:
        ConfigError: an unknown task, a number out of range, or no such device.
        CheckpointError: no such run, or no checkpoint that is whole.
        DataError: the package with the benchmarks, or the run's log, is missing or damaged.
    """
    # Which checkpoints.
    if limit is not None and limit < 1:
        raise ConfigError(f"limit = {limit}", "ask at least one question")
    steps = wanted_steps(run, checkpoints)
    logged = {line["step"]: line for line in read_metrics(run)}
    if unlogged := set(steps) - set(logged):
        raise DataError(f"{run}/metrics.jsonl has no steps {sorted(unlogged)}", "train it again")
    # Which questions, asked how.
    library = open_library(sources, downloads)
    tokenizer = Tokenizer.load(run / "tokenizer.model")
    task_runs, absent = choose_task_runs(tasks, library, tokenizer, shots, style, limit, generation)
    settings = {
        "format": FORMAT,
        "wheel": library.pin,
        "wheel_sha256": library.sha256,
        "style": style,
        "limit": limit,
    }
    # The answers.
    world = join_world(device)
    try:
        records = {step: EvalRecord(run, step, settings, logged[step]) for step in steps}
        score_missing(run, records, task_runs, settings, world)
    finally:
        world.leave()
    return results_text(run, records, task_runs, absent) if world.is_main else None


def wanted_steps(run: Path, checkpoints: str | int) -> list[int]:
    """The last whole checkpoint, and else the milestones, which no later one replaces."""
    if isinstance(checkpoints, int) and checkpoints < 1:
        raise ConfigError(f"checkpoints = {checkpoints}", "name a number from 1 up, last or all")
    last = checkpoint.last_good(run)
    if last is None:
        raise CheckpointError(f"{run} has no checkpoint", "name a run folder, or train it first")
    if checkpoints in ("last", 1):
        return [last]
    milestones = read_config(run / "config.toml").milestone_steps()
    kept = [step for step in checkpoint.steps(run) if step in milestones and step < last]
    kept.append(last)
    if checkpoints == "all" or len(kept) <= checkpoints:
        return kept
    # Spread evenly, with the first and the last.
    places = np.linspace(0, len(kept) - 1, checkpoints)
    return [kept[round(place)] for place in places]


class EvalRecord:
    """The results of one checkpoint, and the rows that they are counted from.

    Args:
        run: the run folder.
        step: the checkpoint's.
        settings: what is asked and how; results that were got otherwise do not count.
        logged: what training logged at that step.
    """

    def __init__(
        self, run: Path, step: int, settings: dict[str, Any], logged: dict[str, Any]
    ) -> None:
        name = record_name(f"step-{step:08d}", settings)
        self.path = run / "evaluations" / f"{name}.json"
        self.rows_path = self.path.with_suffix(".jsonl")
        digest = checkpoint.weights_digest(checkpoint.folder(run, step))
        loss = logged.get("valid_loss")
        self.tasks: dict[str, Any] = {}
        """The results by task."""
        self.rows: dict[str, list[Row]] = {}
        self.record: dict[str, Any] = {
            "step": step,
            "tokens": logged["tokens"],
            "loss": logged["loss"],
            "valid_loss": loss,
            "valid_bpb": logged.get("valid_bpb"),
            "perplexity": None if loss is None else math.exp(loss),
            "settings": settings | {"model_sha256": digest},
            "tasks": self.tasks,
        }
        # What is stored already, if it was asked in the same way.
        if not (self.path.exists() and self.rows_path.exists()):
            return
        stored = read_json(self.path)
        if isinstance(stored, dict) and stored.get("settings") == self.record["settings"]:
            rows = read_rows(self.rows_path)
            for key, result in stored["tasks"].items():
                if len(rows.get(key, [])) == result["n"]:  # else it was stopped in between
                    self.tasks[key], self.rows[key] = result, rows[key]

    def add(self, key: str, result: dict[str, Any], rows: list[Row]) -> None:
        """Write down the results of a task; rows first, as results without rows do not count."""
        self.tasks[key], self.rows[key] = result, rows
        write_rows(self.rows_path, self.rows)
        write_json(self.path, self.record)


def score_missing(
    run: Path,
    records: dict[int, EvalRecord],
    task_runs: list[TaskRun],
    settings: dict[str, Any],
    world: DistributedBackend,
) -> None:
    """Fill in what is missing, checkpoint by checkpoint; each task is written when complete."""
    # What each checkpoint lacks, and this process's share of it.
    missing = {}
    for step, record in records.items():
        missing[step] = [each for each in task_runs if not each.is_done(record.tasks)]
    needed = list(dict.fromkeys(chain.from_iterable(missing.values())))
    if not needed:
        return
    baselines = baseline_results(run, needed, settings) if world.is_main else {}
    shares = {each: each.share(world.rank, world.size) for each in needed}
    bar = tqdm(
        total=sum(len(shares[each]) for each in chain.from_iterable(missing.values())),
        desc=run.name,
        unit="request",
        dynamic_ncols=True,
        smoothing=0.05,
        disable=None if world.is_main else True,
    )
    with bar:
        for step, wanted in missing.items():
            if not wanted:
                continue
            model, _ = checkpoint.load_model(run, step, str(world.device))
            for task_run in wanted:
                bar.set_postfix(step=step, task=task_run.key)
                rows = collect(shares[task_run].score(model, bar.update), world)
                if rows:
                    result = task_run.summarize(rows) | {"null": baselines.get(task_run.key)}
                    records[step].add(task_run.key, result, rows)


def collect(rows: list[Row], world: DistributedBackend) -> list[Row]:
    """The rows of all processes, in the questions' order, on the first one."""
    if world.size == 1:
        return rows
    if not world.is_main:
        dist.gather_object(rows)
        return []
    parts: list[list[Row]] = [[]] * world.size
    dist.gather_object(rows, parts)
    result: list[Row] = [{}] * sum(map(len, parts))
    for rank, part in enumerate(parts):
        result[rank :: world.size] = part
    return result


def results_text(
    run: Path, records: dict[int, EvalRecord], task_runs: list[TaskRun], absent: dict[str, str]
) -> str:
    """The paper's tables with the last checkpoint beside, and a line for each of several."""
    parameters = read_config(run / "config.toml").model.num_parameters()
    last = {"parameters": parameters} | records[max(records)].record
    parts = [report({run.resolve().name: last})]
    for name, reason in absent.items():
        parts.append(f"Absent: {name}: {reason}")
    # The checkpoints, in percent.
    keys = [task_run.key for task_run in task_runs]
    rows = []
    for step, evaluation in sorted(records.items()):
        record = evaluation.record
        perplexity = record["perplexity"]
        row = [step, f"{record['tokens']:,}", perplexity and f"{perplexity:.1f}"]
        for key in keys:
            accuracy = in_percent(record["tasks"][key]["accuracy"])
            row.append(decimals(accuracy))
        rows.append(row)
    if len(rows) > 1:
        parts.append(text_table(["step", "tokens", "perplexity", *keys], rows))
    return "\n\n".join(parts)
