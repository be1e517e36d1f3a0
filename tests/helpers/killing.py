"""Kill training runs with SIGKILL at all kinds of moments; a script that test_kill.py runs.

It imports torch once and forks a process for each attempt, before any thread exists, so that an
attempt costs a fraction of a second. Three kinds of kill: ``time``, at a random moment of the run;
``writing``, as soon as a half-written checkpoint is seen, and some milliseconds later;
``operation``, just before the n-th file operation on the run folder.
"""

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # noqa: F401  (the optimizer needs it: once, not in every process)
from tiny import tiny_config

from minillama.train import checkpoint
from minillama.train.config import TrainConfig
from minillama.train.log import read_metrics
from minillama.train.loop import train

CLOCK = ("seconds", "tokens_per_s")


def records(run):
    """The metrics without what the clock says; floats as they were written."""
    return [{k: v for k, v in record.items() if k not in CLOCK} for record in read_metrics(run)]


def files(run):
    """Names of everything in a run folder."""
    return sorted(str(path.relative_to(run)) for path in run.rglob("*"))


def assert_same_run(run, reference):
    """Equal weights (bytes), optimizer state, losses, checkpoints; nothing half-made is left."""
    assert records(run) == records(reference)
    assert files(run) == files(reference)
    for step in checkpoint.steps(reference):
        a, b = checkpoint.folder(run, step), checkpoint.folder(reference, step)
        for name in ("model.safetensors", "state.json"):
            assert (a / name).read_bytes() == (b / name).read_bytes(), (run, step, name)
        ours, theirs = (torch.load(p / "optimizer.pt", weights_only=True) for p in (a, b))
        assert ours["param_groups"] == theirs["param_groups"]
        for key, moments in theirs["state"].items():
            assert all(torch.equal(ours["state"][key][m], moments[m]) for m in moments)


KINDS = ("writing", "operation", "time")
KILLS_PER_RUN = 5
OPERATIONS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")


def fork(config: TrainConfig, prepare: Callable[[], None] = lambda: None) -> int:
    """Train in a new process; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        prepare()
        train(config)
        os._exit(0)
    finally:
        os._exit(1)


def wait(child: int) -> bool:
    """Whether the process was killed; anything but that or success is an error."""
    status = os.waitpid(child, 0)[1]
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    if not killed and status:
        raise SystemExit(f"training ended with status {status}")
    return killed


def count_operations(run: Path, act: Callable[[int], None]) -> None:
    """Call ``act(n)`` before the n-th operation of this process on files of the run."""
    count = 0

    def watch(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in OPERATIONS and str(run) in str(arguments[0]):
            count += 1
            act(count)

    sys.addaudithook(watch)


def die_at(number: int) -> Callable[[int], None]:
    """Kill this process at the n-th operation."""
    return lambda count: os.kill(os.getpid(), signal.SIGKILL) if count == number else None


def kill_when_writing(child: int, run: Path, rng: random.Random) -> None:
    """Wait for the n-th half-written checkpoint to appear, then kill within milliseconds."""
    to_see, seen = rng.randint(1, 3), set()
    while len(seen) < to_see and os.waitid(
        os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT
    ) is None:  # fmt: skip
        seen |= {p.name for p in run.glob("checkpoints/.step-*.tmp")}
    time.sleep(rng.uniform(0, 0.006))
    os.kill(child, signal.SIGKILL)


def attempt(config: TrainConfig, kind: str, rng: random.Random, seconds: float, total: int) -> bool:
    """Go on with a run and try to kill it; whether it died."""
    if kind == "operation":
        number = rng.randint(1, total)
        return wait(fork(config, lambda: count_operations(config.run, die_at(number))))
    child = fork(config)
    if kind == "time":
        time.sleep(rng.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
    else:
        kill_when_writing(child, config.run, rng)
    return wait(child)


def measure(config: TrainConfig) -> tuple[float, int]:
    """The run that is never killed: its duration, and its number of file operations."""
    counted = config.run.with_name("operations")

    def prepare() -> None:
        descriptor = os.open(counted, os.O_WRONLY | os.O_CREAT)
        count_operations(config.run, lambda n: os.pwrite(descriptor, b"%8d" % n, 0))

    began = time.perf_counter()
    wait(fork(config, prepare))
    return time.perf_counter() - began, int(counted.read_text())


def look(config: TrainConfig, kind: str) -> dict:
    """What a kill left behind."""
    run = config.run
    return {
        "run": run.name,
        "kind": kind,
        "steps": checkpoint.steps(run),
        "half_written": bool(list(run.glob("checkpoints/.step-*.tmp"))),
    }


def random_kills(corpus: Path, runs: Path, kills: int, seed: int) -> list[dict]:
    """Kill runs until there were ``kills`` kills, five a run; then let each end."""
    rng, report = random.Random(seed), []
    seconds, total = measure(tiny_config(corpus, runs, name="reference"))
    number = 0
    while len(report) < kills:
        config = tiny_config(corpus, runs, name=f"victim-{number}")
        number += 1
        for _ in range(min(KILLS_PER_RUN, kills - len(report))):
            kind = KINDS[len(report) % len(KINDS)]
            if attempt(config, kind, rng, seconds, total):
                report.append(look(config, kind))
            else:
                seconds *= 0.9  # the machine has become faster since it was measured
        wait(fork(config))
    return report


def kills_at_every_operation(corpus: Path, runs: Path) -> list[dict]:
    """A run for every file operation, killed there once and then let end."""
    _, total = measure(tiny_config(corpus, runs, name="reference"))
    report = []
    for number in range(1, total + 1):
        config = tiny_config(corpus, runs, name=f"victim-{number}")
        wait(fork(config, lambda config=config, n=number: count_operations(config.run, die_at(n))))
        report.append(look(config, "operation"))
        wait(fork(config))
    return report


if __name__ == "__main__":
    corpus_folder, runs_folder, mode, seed_text = sys.argv[1:]
    where = Path(corpus_folder), Path(runs_folder)
    where[1].mkdir(parents=True, exist_ok=True)
    if mode == "every":
        print(json.dumps(kills_at_every_operation(*where)))
    else:
        print(json.dumps(random_kills(*where, int(mode), int(seed_text))))
