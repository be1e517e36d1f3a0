"""One rank of two killed at any moment: the run goes on from its last checkpoint, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from rank_killing import sharded_run
from safetensors.torch import load_file
from tiny import ROOT, python

from minillama.train import checkpoint
from minillama.train.config import write_config
from minillama.train.log import read_metrics

SCRIPT = ROOT / "tests" / "helpers" / "rank_killing.py"
PATHS = os.pathsep.join(map(str, (ROOT / "tests" / "helpers", ROOT)))
ENVIRON = os.environ | {"PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"}
CLOCK = ("seconds", "tokens_per_s")


def records(run):
    return [{k: v for k, v in r.items() if k not in CLOCK} for r in read_metrics(run)]


def reads(run):
    """What was read: ``{start: {step: {rank: sequence numbers}}}``."""
    table: dict = {}
    for line in run.with_name(f"{run.name}.read").read_text().splitlines():
        told = json.loads(line)
        table.setdefault(told["start"], {}).setdefault(told["step"], {})[told["rank"]] = told[
            "numbers"
        ]
    return table


def assert_nothing_lost_repeated_or_skipped(config, saved_before_start):
    """Every start reads on from the checkpoint it found, each step its own sequences, all once."""
    size, counted = config.batch_sequences, {}
    for start, steps in sorted(reads(config.run).items()):
        assert min(steps) == saved_before_start[start] + 1, (start, saved_before_start)
        assert sorted(steps) == list(range(min(steps), max(steps) + 1))
        counted = {step: told for step, told in counted.items() if step < min(steps)} | steps
    assert sorted(counted) == list(range(1, config.total_steps + 1))
    for step, by_rank in counted.items():  # those that led to the final weights
        assert by_rank[0] + by_rank[1] == list(range((step - 1) * size, step * size))


def assert_same_weights(config, whole):
    final = config.total_steps
    assert checkpoint.steps(config.run)[-1] == final == checkpoint.last_good(config.run)
    ours, theirs = (tensors(checkpoint.folder(c.run, final)) for c in (config, whole))
    assert ours.keys() == theirs.keys() and len(ours) > 20
    for name, tensor in theirs.items():
        assert ours[name].equal(tensor), name
    assert records(config.run) == records(whole.run)


def tensors(folder):
    """All tensors of a checkpoint, weights and moments: pieces by file and name."""
    files = sorted(folder.glob("*.safetensors"))
    return {(f.name, name): t for f in files for name, t in load_file(f).items()}


def saved(report):
    """The last checkpoint before each start."""
    return {0: 0} | {e["start"] + 1: max(e["steps"], default=0) for e in report}


def test_three_kills_change_nothing(tiny_corpus, tmp_path):
    runs = tmp_path / "runs"
    done = python(str(SCRIPT), "fork", str(tiny_corpus.folder), str(runs), "3", "1", timeout=200,
                  env=ENVIRON)  # fmt: skip
    assert not done.returncode, done.stderr[-3_000:]
    report = json.loads(done.stdout.splitlines()[-1])
    assert len(report) == 3 and {entry["rank"] for entry in report} == {0, 1}
    config, whole = (sharded_run(tiny_corpus.folder, runs, name) for name in ("killed", "whole"))
    assert_nothing_lost_repeated_or_skipped(whole, {0: 0})
    assert_nothing_lost_repeated_or_skipped(config, saved(report))
    assert_same_weights(config, whole)


# with the real torchrun


def torchrun(config, where, restarts):
    """A run of two processes under torchrun, which starts them again up to ``restarts`` times."""
    write_config(where / f"{config.name}.toml", config)
    config.run.parent.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
         f"--max-restarts={restarts}", str(SCRIPT), "train",
         str(config.run.with_name(f"{config.name}.read")), str(where / f"{config.name}.toml")],
        env=ENVIRON, stderr=(where / f"{config.name}.err").open("w"), text=True,
    )  # fmt: skip


def lines(config, start):
    """What the ranks of this start have read so far."""
    read = config.run.with_name(f"{config.name}.read")
    text = read.read_text() if read.exists() else ""
    told = [json.loads(line) for line in text.splitlines() if line.endswith("}")]
    return [line for line in told if line["start"] == start]


@pytest.mark.soak
def test_ten_kills_under_torchrun_change_nothing(tiny_corpus, tmp_path):
    runs, rng, report = tmp_path / "runs", random.Random(5), []
    whole = sharded_run(tiny_corpus.folder, runs, "whole", steps=200)
    assert torchrun(whole, tmp_path, 0).wait(300) == 0
    config = sharded_run(tiny_corpus.folder, runs, "killed", steps=200)
    process = torchrun(config, tmp_path, restarts=10)
    end = time.monotonic() + 1_200
    for start in range(10):
        steps, victim = rng.randint(1, 17), rng.randint(0, 1)
        while len(told := lines(config, start)) < 2 * steps:
            running = process.poll() is None and time.monotonic() < end
            assert running, (start, (tmp_path / "killed.err").read_text()[-3_000:])
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        os.kill(next(line["pid"] for line in told if line["rank"] == victim), signal.SIGKILL)
        report.append({"rank": victim, "start": start})
    assert process.wait(300) == 0, (tmp_path / "killed.err").read_text()[-3_000:]
    began = [min(steps) - 1 for _, steps in sorted(reads(config.run).items())]
    print(began, [entry["rank"] for entry in report])
    assert len(began) == 11 and {entry["rank"] for entry in report} == {0, 1}
    every = config.save_every
    for start in range(10):  # no step is lost beyond the last checkpoint
        last = max(line["step"] for line in lines(config, start))
        assert last - every <= began[start + 1] <= last
    assert_nothing_lost_repeated_or_skipped(whole, {0: 0})
    assert_nothing_lost_repeated_or_skipped(config, dict(enumerate(began)))
    assert_same_weights(config, whole)
