"""One loss curve, however the work is spread over processes (Section 2.4).

``golden_curve.json`` was written by one process with the plain loop. It is made again, after a
change that is meant to change results, by

    python tests/parallel/test_equality.py

The same run, by the same ``train``, is repeated here on every mesh and with every way to compute
the backward pass. Losses, gradient norms, validation and final weights must agree to rounding, and
the data that the processes read must be the golden run's, each sequence once. Autograd's backward
is compared over the whole curve on every mesh; the others, and micro-batches, over a short run
with the same settings (over the whole curve too by ``make soak``).
"""

import dataclasses
import json
import sys
import tempfile
from itertools import product
from pathlib import Path

import pytest
import torch
from processes import run_processes
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))  # when run as a program
from tiny import make_corpus, tiny_config

from minillama.config import ModelConfig
from minillama.corpus.token_files import open_corpus
from minillama.parallel.mesh import ParallelConfig
from minillama.scale.runtime import train_distributed
from minillama.train import checkpoint, loop
from minillama.train.config import TrainConfig
from minillama.train.dataloader import StatelessDataLoader
from minillama.train.log import read_metrics
from minillama.train.optimizer import OptimizerConfig

GOLDEN = Path(__file__).with_name("golden_curve.json")
STEPS = 50
SHORT = 10
TOLD = ("loss", "grad_norm", "valid_loss")

MESHES = {
    "1 process": (1, {}),
    "ddp 2": (2, {}),
    "fsdp 2": (2, {"shard": 2}),
    "fsdp 4": (4, {"shard": 4}),
    "hybrid 2 x 2": (4, {"shard": 2}),
    "tensor 2": (2, {"tensor": 2, "sequence": False}),
    "tensor 2, sequence": (2, {"tensor": 2}),
    "fsdp 2 x tensor 2, sequence": (4, {"shard": 2, "tensor": 2}),
}
BACKWARDS = {
    "autograd": {},
    "recompute selective": {"recompute": "selective"},
    "recompute full": {"recompute": "full"},
    "by hand": {"backward": "by_hand"},
    "by hand, recompute full": {"backward": "by_hand", "recompute": "full"},
}


def golden_config(corpus: Path, runs: Path, steps: int = STEPS, **parallel: object) -> TrainConfig:
    """50 steps of 8 sequences of 16 tokens, of a model of 148,000 parameters."""
    model = ModelConfig(
        dim=64, n_layers=2, n_heads=4, vocab_size=320, multiple_of=32, max_seq_len=16
    )
    backward = parallel.pop("backward", "autograd")
    return tiny_config(
        corpus, runs, model=model, tokens=steps * 128, micro_batch=8,
        eval_every=steps // 2, save_every=steps, milestones=1,
        optimizer=OptimizerConfig(lr=3e-3, warmup_steps=10), backward=backward,
        parallel=ParallelConfig(**parallel),
    )  # fmt: skip


def train(rank: int, config: TrainConfig) -> list[list[list[int]]]:
    """Run the real loop; returns the sequences that this process read in each step."""
    read = []

    class Recording(StatelessDataLoader):
        def batch(self, *arguments: int) -> Tensor:
            read.append(super().batch(*arguments))
            return read[-1]

    loop.StatelessDataLoader = Recording
    train_distributed(config)
    return [batch.tolist() for batch in read]


def curve(run: Path) -> dict[str, list[float]]:
    """The columns of ``metrics.jsonl`` that are compared."""
    records = read_metrics(run)
    return {key: [r[key] for r in records if key in r] for key in TOLD}


@pytest.fixture(scope="module")
def golden() -> dict:
    return json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def one_process(tiny_corpus, tmp_path_factory):
    """By number of steps, the run of one process: its folder, and the sequences of each step.

    That of all steps is the golden run, made again.
    """
    runs = {}
    for steps in (STEPS, SHORT):
        config = golden_config(tiny_corpus.folder, tmp_path_factory.mktemp("one"), steps)
        (read,) = run_processes(train, 1, config)
        runs[steps] = config.run, read
    return runs


@pytest.fixture(scope="module")
def expected(golden, one_process):
    """By number of steps, the curve that every mesh must follow."""
    return {STEPS: golden, SHORT: curve(one_process[SHORT][0])}


def lengths(*case: str | int, whole: bool = False) -> list:
    """A case over all steps; if those are left to the soak, over a few steps as well."""
    name = "-".join(map(str, case))
    if whole:
        return [pytest.param(*case, STEPS, id=name)]
    return [
        pytest.param(*case, SHORT, id=f"{name}-short"),
        pytest.param(*case, STEPS, id=name, marks=pytest.mark.soak),
    ]


def test_the_golden_curve_learns(golden):
    assert [len(golden[key]) for key in TOLD] == [STEPS, STEPS, 2]
    assert golden["loss"][-1] < golden["loss"][0] - 1.5


def test_the_fixture_reads_the_order_of_one_process(one_process, tiny_corpus):
    order = StatelessDataLoader(open_corpus(tiny_corpus.folder), 16, 8, seed=0)
    for steps, (_, read) in one_process.items():
        assert read == [order.batch(step).tolist() for step in range(steps)]


@pytest.mark.parametrize(
    "mesh, backward, steps",
    [
        case
        for mesh, backward in product(MESHES, BACKWARDS)
        for case in lengths(mesh, backward, whole=backward == "autograd")
    ],
)
def test_every_mesh_follows_the_golden_curve(
    mesh, backward, steps, expected, one_process, tiny_corpus, tmp_path
):
    size, layout = MESHES[mesh]
    config = golden_config(tiny_corpus.folder, tmp_path, steps, **layout, **BACKWARDS[backward])
    read = run_processes(train, size, config)

    told = curve(config.run)
    for key in TOLD:
        torch.testing.assert_close(told[key], expected[steps][key], rtol=0, atol=1e-4)

    run, sequences = one_process[steps]
    ours, _ = checkpoint.load_model(config.run, steps)
    theirs, _ = checkpoint.load_model(run, steps)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=2e-4)

    tensor = config.parallel.tensor
    for step, whole in enumerate(sequences):
        parts = [read[rank][step] for rank in range(size)]
        assert all(parts[rank] == parts[rank // tensor * tensor] for rank in range(size))
        assert sum(parts[::tensor], []) == whole


@pytest.mark.parametrize(
    "mesh, micro_batch, gather, steps",
    [
        *lengths("ddp 2", 1, "micro_batch"),
        *lengths("fsdp 2", 2, "micro_batch"),
        *lengths("fsdp 2", 1, "step"),
        *lengths("hybrid 2 x 2", 1, "micro_batch"),
        *lengths("hybrid 2 x 2", 1, "step"),
        *lengths("fsdp 2 x tensor 2, sequence", 2, "step"),
    ],
)
def test_micro_batches_change_nothing(
    mesh, micro_batch, gather, steps, expected, tiny_corpus, tmp_path
):
    """A few sequences at a time on many processes are the same step as all at once on one."""
    size, layout = MESHES[mesh]
    config = golden_config(tiny_corpus.folder, tmp_path, steps, **layout, gather=gather)
    config = dataclasses.replace(config, micro_batch=micro_batch)
    run_processes(train, size, config)
    told = curve(config.run)
    for key in TOLD:
        torch.testing.assert_close(told[key], expected[steps][key], rtol=0, atol=1e-4)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = golden_config(make_corpus(Path(folder, "data")).folder, Path(folder, "runs"))
        loop.train(made)
        GOLDEN.write_text(json.dumps(curve(made.run), indent=1) + "\n", encoding="utf-8")
        print(f"wrote {GOLDEN}")
