"""What each process holds, sends and computes when a model is fully sharded."""

import dataclasses
import math
from functools import partialmethod

import pytest
import torch
from processes import run_processes
from torch import Tensor, nn

from minillama.config import ModelConfig
from minillama.model import Llama
from minillama.parallel.communication import counted_bytes, totals
from minillama.parallel.mesh import ParallelConfig
from minillama.scale.runtime import join_world
from minillama.train.backend import LocalBackend
from minillama.train.config import TrainConfig
from minillama.train.loop import backward
from minillama.train.optimizer import build_optimizer, clip_gradients

MODEL = ModelConfig(dim=64, n_layers=2, n_heads=4, vocab_size=320, multiple_of=32, max_seq_len=16)
SPLIT = ParallelConfig(shard=2, tensor=2)


def run_config(**changes: object) -> TrainConfig:
    """8 sequences of 16 tokens a step, all of a process's at once."""
    settings = {"model": MODEL, "batch_tokens": 128, "seq_len": 16, "micro_batch": 8} | changes
    return TrainConfig(device="cpu", **settings)


def batch() -> Tensor:
    """The same on every process: ``(8, 17)``."""
    return torch.randint(0, 320, (8, 17), generator=torch.Generator().manual_seed(1))


def start(config: TrainConfig) -> tuple:
    """This process's world, model, and part of the batch. Compiles, but without a C++ compiler."""
    nn.Module.compile = partialmethod(nn.Module.compile, backend="aot_eager")
    world = join_world("cpu", config.parallel)
    model, wrapped = world.build_model(config)
    return world, model, wrapped, batch().chunk(world.data_size)[world.data_rank]


def reference(max_norm: float) -> tuple[float, float, dict[str, Tensor]]:
    """Loss, gradient norm and clipped gradients of one process."""
    torch.manual_seed(0)
    model = Llama(MODEL)
    loss = backward(model, batch(), run_config(), LocalBackend("cpu"))
    norm = nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return float(loss), float(norm), {name: p.grad for name, p in model.named_parameters()}


# names and pieces


def held(rank: int, config: TrainConfig) -> dict[str, tuple]:
    _, model, _, _ = start(config)
    return {name: (tuple(w.shape), w.to_local().numel()) for name, w in model.state_dict().items()}


@pytest.mark.parametrize(
    "config",
    [
        run_config(parallel=SPLIT),
        run_config(parallel=SPLIT, compile=True),
        run_config(parallel=dataclasses.replace(SPLIT, recompute="full"), backward="by_hand"),
        run_config(parallel=ParallelConfig(shard=4, recompute="selective"), compile=True),
        run_config(parallel=ParallelConfig(shard=2)),
    ],
    ids=["2 x 2", "compiled", "by hand", "recomputed", "hybrid"],
)
def test_names_stay_and_pieces_are_equal_shares(config):
    whole = {name: weight.shape for name, weight in Llama(MODEL).state_dict().items()}
    shard, tensor = config.parallel.shard, config.parallel.tensor
    for pieces in run_processes(held, 4, config):
        assert {name: shape for name, (shape, _) in pieces.items()} == whole
        for name, (shape, numbers) in pieces.items():
            share = shard if name.endswith("norm.weight") else shard * tensor
            assert numbers == math.prod(shape) // share


# gradients


def gradients(rank: int, config: TrainConfig, max_norm: float) -> tuple:
    world, model, wrapped, mine = start(config)
    loss = world.mean(backward(wrapped, mine, config, world))
    norm = clip_gradients(model, max_norm)
    return float(loss), norm, {n: p.grad.full_tensor() for n, p in model.named_parameters()}


@pytest.mark.parametrize("max_norm", [0.1, 100.0])
@pytest.mark.parametrize("parallel", [SPLIT, ParallelConfig(shard=2)], ids=["2 x 2", "hybrid"])
def test_gradients_are_clipped_to_the_norm_of_the_whole(parallel, max_norm):
    loss, norm, grads = reference(max_norm)
    assert 0.1 < norm < 100  # one of them clips, the other does not
    for ours in run_processes(gradients, 4, run_config(parallel=parallel), max_norm):
        assert ours[:2] == (pytest.approx(loss, rel=1e-6), pytest.approx(norm, rel=1e-5))
        torch.testing.assert_close(ours[2], grads, rtol=1e-4, atol=1e-6)


def traffic(rank: int, config: TrainConfig) -> tuple:
    world, model, wrapped, mine = start(config)
    backward(wrapped, mine, config, world)  # the first pass also sets up
    model.zero_grad()
    with counted_bytes(world.mesh) as sent:
        loss = world.mean(backward(wrapped, mine, config, world))
    return float(loss), {key: times for key, (times, _) in totals(sent).items()}


@pytest.mark.parametrize(
    "gather, expected",
    [
        # 2 blocks and the rest: in each of 2 passes, blocks are gathered forward and backward
        ("micro_batch", {"all-gather": 2 * (2 * 2 + 1), "reduce-scatter": 2 * 3, "all-reduce": 3}),
        ("step", {"all-gather": 3, "reduce-scatter": 3, "all-reduce": 3}),
    ],
)
def test_micro_batches_send_only_what_memory_demands(gather, expected):
    parallel = ParallelConfig(shard=2, gather=gather)
    told = run_processes(traffic, 4, run_config(parallel=parallel, micro_batch=1))
    loss, _, _ = reference(1.0)
    for ours, times in told:
        assert ours == pytest.approx(loss, rel=1e-6)
        axes = {"all-gather": "shard", "reduce-scatter": "shard", "all-reduce": "replicate"}
        assert times == {(axes[kind], kind): count for kind, count in expected.items()} | {
            ("replicate", "all-reduce"): expected["all-reduce"] + 1  # and the mean of the loss
        }


# mixed precision and compilation


def one_step(rank: int, config: TrainConfig) -> tuple:
    world, model, wrapped, mine = start(config)
    seen = []
    model.layers[0].register_forward_hook(lambda _, args, out: seen.extend((*args, out)))
    loss = backward(wrapped, mine, config, world)
    kept = {p.dtype for p in model.parameters()} | {p.grad.dtype for p in model.parameters()}
    norm = clip_gradients(model, 1.0)
    build_optimizer(model, config.optimizer).step()
    finite = all(bool(p.to_local().isfinite().all()) for p in model.parameters())
    return float(loss), norm, finite, kept, [tensor.dtype for tensor in seen]


def one_traced_step(rank: int, config: TrainConfig) -> tuple:
    """With the graphs that would be compiled, but run by torch: it needs no C++ compiler."""
    real = torch.compile
    torch.compile = lambda function, **_: real(function, backend="aot_eager")
    return one_step(rank, config)


@pytest.mark.parametrize("by_hand", ["autograd", "by_hand"])
@pytest.mark.parametrize("parallel", [SPLIT, ParallelConfig(shard=4)], ids=["2 x 2", "4"])
def test_bfloat16_products_over_float32_weights_and_gradients(parallel, by_hand):
    config = run_config(parallel=parallel, dtype="bfloat16", backward=by_hand)
    loss, norm, _ = reference(1.0)
    told = run_processes(one_step, 4, config)
    assert sum(t[0] for t in told) / 4 == pytest.approx(loss, rel=1e-3)
    for _, ours, finite, kept, (into, table, out) in told:
        assert ours == pytest.approx(norm, rel=0.02) and finite
        assert kept == {torch.float32}
        assert (into, table, out) == (torch.bfloat16, torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    "by_hand, parallel",
    [
        ("autograd", ParallelConfig(shard=2, recompute="selective")),
        ("by_hand", ParallelConfig(shard=2, recompute="full")),
        ("by_hand", ParallelConfig(tensor=2)),
    ],
    ids=["selective", "by hand, full", "by hand, tensor 2"],
)
def test_compiled_blocks(by_hand, parallel):
    config = run_config(parallel=parallel, compile=True, backward=by_hand)
    loss, norm, _ = reference(1.0)
    told = run_processes(one_traced_step, 2, config)
    assert sum(t[0] for t in told) / 2 == pytest.approx(loss, rel=1e-5)
    assert [t[1] for t in told] == [pytest.approx(norm, rel=1e-5)] * 2
