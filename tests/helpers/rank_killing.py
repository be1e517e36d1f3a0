"""Kill one rank of a two-process run at random moments; scripts that test_kill_rank.py runs.

``rank_killing.py train READ config.toml`` is one rank, under torchrun or forked: it trains and
notes in the file READ which sequences it reads. ``rank_killing.py fork CORPUS RUNS KILLS SEED``
forks all ranks from one process that has imported torch, and starts the run again after each kill.
"""

import dataclasses
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import psutil
from ranks import keep_store, train_ranks
from tiny import tiny_config

from minillama.apps import cli
from minillama.parallel.mesh import ParallelConfig
from minillama.train import checkpoint, loop
from minillama.train.config import TrainConfig


def note_what_is_read(path: Path) -> None:
    """From now on every batch adds a line: step, first sequence, how many, and who reads them."""
    locate, batch = loop.StatelessDataLoader.locate, loop.StatelessDataLoader.batch
    numbers: list[int] = []

    def note_and_locate(order: loop.StatelessDataLoader, sequence: int) -> tuple[str, int]:
        numbers.append(sequence)
        return locate(order, sequence)

    def note_and_read(
        order: loop.StatelessDataLoader, step: int, rank: int = 0, world: int = 1
    ) -> object:
        numbers.clear()
        read = batch(order, step, rank, world)
        start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        line = {"step": step + 1, "rank": rank, "numbers": numbers, "pid": os.getpid(),
                "start": int(start)}  # fmt: skip
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, (json.dumps(line) + "\n").encode())
        os.close(descriptor)
        return read

    loop.StatelessDataLoader.locate, loop.StatelessDataLoader.batch = note_and_locate, note_and_read


def sharded_run(corpus: Path, runs: Path, name: str, steps: int = 24) -> TrainConfig:
    """A run on two processes that share one copy of the weights."""
    return tiny_config(corpus, runs, name=name, micro_batch=2, tokens=128 * steps, milestones=1,
                       parallel=ParallelConfig(shard=2))  # fmt: skip


def start(config: TrainConfig, attempt: int, store: object) -> object:
    """Both ranks of a run, forked; the store is full of what earlier starts wrote."""
    read = config.run.with_name(f"{config.name}.read")

    def prepare(_: int) -> None:
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(attempt)
        note_what_is_read(read)

    folder = config.run.with_name(f"{config.name}.output")
    folder.mkdir(exist_ok=True)
    return train_ranks([config, config], folder, prepare, store=store)


def wait_for_step(config: TrainConfig, attempt: int, steps: int, children: list[int]) -> None:
    """Until this start has begun so many steps, or has ended."""
    read, begun = config.run.with_name(f"{config.name}.read"), f'"start": {attempt}}}'
    while all(psutil.Process(child).status() != psutil.STATUS_ZOMBIE for child in children):
        text = read.read_text() if read.exists() else ""
        if text.count(begun) >= 2 * steps:
            return
        time.sleep(0.005)


def fork_and_kill(corpus: Path, runs: Path, kills: int, seed: int) -> list[dict]:
    """Kill one of two ranks ``kills`` times, start again each time; a report on every kill."""
    rng, report, store = random.Random(seed), [], keep_store()
    whole = sharded_run(corpus, runs, "whole")
    codes = start(whole, 0, store).wait(60)
    assert codes == [0, 0], codes
    config = dataclasses.replace(whole, name="killed")
    for attempt in range(4 * kills):
        ranks, victim = start(config, attempt, store), rng.randint(0, 1)
        if len(report) < kills:
            wait_for_step(config, attempt, rng.choice([0, 1, 3, 5]), ranks.children)
            time.sleep(rng.uniform(0, 0.05))
            os.kill(ranks.children[victim], signal.SIGKILL)
            time.sleep(0.1)
            os.kill(ranks.children[1 - victim], signal.SIGTERM)  # as torchrun does
        codes = ranks.wait(60)
        if codes == [0, 0]:
            return report
        assert codes[victim] == -signal.SIGKILL, ranks.output()
        assert codes[1 - victim] in (1, -signal.SIGTERM), ranks.output()
        report.append({"rank": victim, "start": attempt, "steps": checkpoint.steps(config.run)})
    raise SystemExit("the run does not end")


if __name__ == "__main__":
    mode, *arguments = sys.argv[1:]
    if mode == "train":
        note_what_is_read(Path(arguments[0]))
        cli.main(["train", "--config", arguments[1]])
    else:
        corpus_folder, runs_folder, count, seed_text = arguments
        Path(runs_folder).mkdir(parents=True, exist_ok=True)
        found = fork_and_kill(Path(corpus_folder), Path(runs_folder), int(count), int(seed_text))
        print(json.dumps(found))
