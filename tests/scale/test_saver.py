"""Checkpoints written while training goes on: whole or absent, whoever fails, and never two."""

import dataclasses
import errno
import os
import resource
import signal
import threading
import time

import pytest
import safetensors.torch
import torch
import torch._dynamo
import torch.distributed.fsdp  # noqa: F401  (once, not in every process)
from tiny import tiny_config

from minillama.errors import CheckpointError
from minillama.parallel.mesh import ParallelConfig
from minillama.scale import distributed_checkpoint
from minillama.scale.launcher import launch
from minillama.scale.runtime import DistributedBackend, join_world
from minillama.scale.runtime import train_distributed as train
from minillama.train import checkpoint, loop
from minillama.train.log import read_metrics
from minillama.train.loop import Interrupted
from minillama.train.optimizer import build_optimizer

ALONE = (1, ParallelConfig())
DDP = (2, ParallelConfig())
FSDP = (2, ParallelConfig(shard=2))
FORMS = pytest.mark.parametrize("form", [ALONE, DDP, FSDP], ids=["alone", "DDP", "FSDP"])


@pytest.fixture
def config(tiny_corpus, tmp_path):
    return tiny_config(
        tiny_corpus.folder, tmp_path, micro_batch=4, eval_every=12, milestones=1, async_save=True
    )


@pytest.fixture(scope="module")
def golden(tiny_corpus, tmp_path_factory):
    """The run on one process that waits for its checkpoints."""
    config = tiny_config(tiny_corpus.folder, tmp_path_factory.mktemp("golden"), micro_batch=4,
                         eval_every=12, milestones=1)  # fmt: skip
    train(config)
    return config


def losses(config):
    return [record["loss"] for record in read_metrics(config.run)]


def spread(config, form):
    return dataclasses.replace(config, parallel=form[1])


def attempt(config, prepare=lambda rank: None):
    """Train in one of several processes; what ended it, in words."""

    def act(rank):
        prepare(rank)
        try:
            train(config)
        except (CheckpointError, Interrupted, SystemExit) as end:
            return (
                f"{type(end).__name__} {getattr(end, 'exit_code', getattr(end, 'code', 1))} {end}"
            )
        return "done"

    return act


def run(config, form, prepare=lambda rank: None, timeout=60):
    """``attempt`` on all ranks; all answers."""
    act = attempt(spread(config, form), prepare)
    return launch(act, form[0], group=False, timeout=timeout)


def names(config):
    return sorted(path.name for path in (config.run / "checkpoints").iterdir())


@FORMS
def test_the_same_losses_and_checkpoints_as_without(config, golden, form):
    assert run(config, form) == ["done"] * form[0]
    assert losses(config) == pytest.approx(losses(golden), abs=1e-5)
    assert names(config) == names(golden) == ["step-00000009", "step-00000012"]
    for step in (9, 12):
        checkpoint.verify(checkpoint.folder(config.run, step))
    if form == ALONE:
        for file in checkpoint.folder(golden.run, 12).glob("*.[js][sa]*"):  # all but optimizer.pt
            twin = checkpoint.folder(config.run, 12) / file.name
            assert twin.read_bytes() == file.read_bytes() or file.name == "manifest.json"


def wrap_writing(wrap):
    """Wrap the functions that write tensors: of one process, and of torch's storage."""
    checkpoint.save_file = wrap(checkpoint.save_file)
    safetensors.torch.save = wrap(safetensors.torch.save)


def hold_back(gate):
    """Let no tensors be written before the gate is open; count who is waiting there."""
    inside = []

    def wait(real):
        def write(*args, **more):
            inside.append(1)
            assert gate.wait(30)
            return real(*args, **more)

        return write

    wrap_writing(wait)
    return inside


def step(model, step_model, optimizer):
    tokens = torch.randint(0, 320, (2, 17))
    step_model(tokens[:, :-1], targets=tokens[:, 1:]).backward()
    optimizer.step()
    optimizer.zero_grad()
    state = distributed_checkpoint.named_tensors(model, optimizer)
    return {n: t.full_tensor() if hasattr(t, "full_tensor") else t.clone()
            for n, t in state.items()}  # fmt: skip


def train_while_writing(rank, config):
    """Two steps with a slow disk: what they left, what was being written, and what was kept."""
    world = join_world("cpu", config.parallel)
    model, step_model = world.build_model(config)
    optimizer = build_optimizer(model, config.optimizer)
    saver = distributed_checkpoint.Saver(config.run, set(), world, background=True)
    gate = threading.Event()
    inside = hold_back(gate)
    torch.manual_seed(0)
    seen = {}
    seen[1] = step(model, step_model, optimizer)
    saver.save(1, model, optimizer, {})
    seen[2] = step(model, step_model, optimizer)
    assert not checkpoint.steps(config.run) and not saver.failed
    end = time.monotonic() + 30
    while not inside and (rank == 0 or world.mesh) and time.monotonic() < end:
        time.sleep(0.01)  # the thread may only just have begun
    waiting = len(inside)
    opener = threading.Timer(0.3, gate.set)
    opener.start()
    saver.save(2, model, optimizer, {})  # waits for the first: there are never two
    assert gate.is_set() and checkpoint.steps(config.run)[0] == 1
    step(model, step_model, optimizer)
    saver.wait()
    assert checkpoint.steps(config.run) == [1, 2]
    kept = {}
    for number in (1, 2):
        distributed_checkpoint.restore(config.run, number, model, optimizer)
        tensors = distributed_checkpoint.named_tensors(model, optimizer)
        kept[number] = {n: t.full_tensor() if hasattr(t, "full_tensor") else t.clone()
                        for n, t in tensors.items()}  # fmt: skip
    return waiting, seen, kept


@FORMS
def test_training_goes_on_while_the_state_of_the_step_is_written(config, form):
    results = launch(train_while_writing, form[0], spread(config, form), group=False)
    assert [waiting for waiting, *_ in results] == [1, 1 if form == FSDP else 0][: form[0]]
    for _, seen, kept in results:
        for number in (1, 2):
            assert seen[number].keys() == kept[number].keys()
            for name, tensor in seen[number].items():
                assert torch.equal(tensor, kept[number][name]), (number, name)
        assert not torch.equal(seen[1]["norm.weight"], seen[2]["norm.weight"])


# failures


def no_space():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def before_file(number, writer, act):
    """Let rank ``writer`` ``act()`` before it writes its ``number``-th file, and all after it."""

    def prepare(rank):
        calls = []

        def count(real):
            def write(*args, **more):
                calls.append(1)
                if len(calls) >= number:
                    act()
                return real(*args, **more)

            return write

        if rank == writer:
            wrap_writing(count)

    return prepare


@pytest.mark.parametrize(
    ("form", "background"),
    [(ALONE, True), (DDP, True), (FSDP, True), (FSDP, False)],
    ids=["alone", "DDP", "FSDP", "FSDP, at once"],
)
def test_a_full_disk_ends_all_ranks_with_one_line(config, golden, form, background):
    config = dataclasses.replace(config, async_save=background)
    second = before_file(3, 1, no_space) if form == FSDP else before_file(2, 0, no_space)
    ends = run(config, form, second)
    told = [end for end in ends if end.startswith("CheckpointError")]
    assert len(told) == 1 and sorted(ends)[1:] == ["SystemExit 1 1"] * (form[0] - 1)
    where = " (rank 1)" if form == FSDP else ""
    assert f"step-00000006: the disk is full{where}. The checkpoint of step 3 is intact" in told[0]
    assert names(config) == ["step-00000003"]
    assert len(losses(config)) in ([6, 7, 8, 9] if background else [6])
    if background:
        assert run(config, form) == ["done"] * form[0]
        assert losses(config) == pytest.approx(losses(golden), abs=1e-5)


def test_writes_that_really_fail_on_one_rank(config):
    """The kernel refuses the write itself."""
    size = 8_000

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    config = dataclasses.replace(config, async_save=False)  # signals are for the main thread
    ends = run(config, FSDP, before_file(3, 1, limit))
    [told] = [end for end in ends if end.startswith("CheckpointError")]
    assert "cannot write" in told and "(rank 1)" in told and "\n" not in told
    assert names(config) == ["step-00000003"]
    weights = checkpoint.folder(config.run, 3) / "shard-00002-model-00001-of-00002.safetensors"
    assert weights.stat().st_size > size


def die(module, name, rank, nth):
    """Kill ``rank`` just before the n-th call of ``module.name``."""

    def prepare(here):
        calls, real = [], getattr(module, name)

        def count(*args, **more):
            calls.append(1)
            if len(calls) == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **more)

        if here == rank:
            setattr(module, name, count)

    return prepare


@pytest.mark.parametrize(
    ("module", "name", "rank", "nth"),
    [
        pytest.param(safetensors.torch, "save", 1, 4, id="between the files of rank 1"),
        pytest.param(distributed_checkpoint, "sha256", 0, 5, id="after a file of rank 0"),
        pytest.param(distributed_checkpoint, "write_json", 0, 4, id="before the manifest"),
        pytest.param(distributed_checkpoint, "atomic_path", 0, 2, id="before the rename"),
    ],
)
def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(
    config, golden, module, name, rank, nth
):
    with pytest.raises(RuntimeError, match=f"rank {rank}: ended without an answer"):
        run(config, FSDP, die(module, name, rank, nth))
    assert checkpoint.steps(config.run) == [3]
    assert [n for n in names(config) if n.startswith(".step-00000006")]
    assert checkpoint.last_good(config.run) == 3
    if name != "atomic_path":
        return
    assert run(config, FSDP) == ["done", "done"]
    assert losses(config) == pytest.approx(losses(golden), abs=1e-5)
    assert names(config) == ["step-00000009", "step-00000012"]


@FORMS
def test_sigterm_waits_for_what_is_being_written(config, form):
    """The checkpoint of step 3 is still being written when the signal comes in step 4."""

    def terminate(rank):
        check = loop.check_finite

        def ask(loss, norm, step, config):
            check(loss, norm, step, config)
            if step == 4 and rank == form[0] - 1:
                os.kill(os.getpid(), signal.SIGTERM)

        def slow(real):
            return lambda *args, **more: (time.sleep(0.2), real(*args, **more))[1]

        loop.check_finite = ask
        wrap_writing(slow)

    ends = run(config, form, terminate)
    assert all(end.split()[1] == "143" for end in ends)
    [last] = checkpoint.steps(config.run)[-1:]
    assert last in (4, 5) and names(config) == [f"step-{s:08d}" for s in (3, last)]
    assert checkpoint.last_good(config.run) == last
    assert len(losses(config)) == last


def test_an_error_that_is_not_about_files_is_not_dressed_up(config, monkeypatch):
    saver = distributed_checkpoint.Saver(
        config.run, set(), DistributedBackend(0, 1, torch.device("cpu")), background=True
    )
    model, _ = saver.world.build_model(config)
    monkeypatch.setattr(checkpoint, "write_json", lambda *_: 1 / 0)
    saver.save(1, model, build_optimizer(model, config.optimizer), {})
    with pytest.raises(ZeroDivisionError):
        saver.wait()
    saver.wait()  # told once
