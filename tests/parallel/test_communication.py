"""What is sent: the formulas against published ones, and against what gloo was really given."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from minillama import Llama, ModelConfig
from minillama.parallel.communication import (
    Collective,
    counted_bytes,
    data_parallel,
    fully_sharded,
    step_traffic,
    tensor_parallel,
    totals,
)
from minillama.parallel.fsdp import parallelize, send_gradients
from minillama.parallel.mesh import ParallelConfig, build_mesh
from minillama.scale.launcher import launch

TINY = ModelConfig(
    dim=16, n_layers=3, n_heads=2, vocab_size=321, multiple_of=8, max_seq_len=32
)  # 321 rows: no even number of processes divides them
EVEN = replace(TINY, vocab_size=320)
LLAMA = ModelConfig.from_name("65b")
Case = tuple[ModelConfig, ParallelConfig, int, bool]  # model, plan, passes, by hand


def ring(rank: int, size: int, numbers: int) -> dict[str, int]:
    """Numbers that a rank sends when pieces really travel around a ring, kind by kind."""
    data = torch.arange(numbers, dtype=torch.float64) + 1000 * rank
    pieces, sent = list(data.clone().chunk(size)), 0
    after, before = (rank + 1) % size, (rank - 1) % size
    for phase in ("reduce-scatter", "all-gather"):
        for turn in range(size - 1):
            out = (rank - turn + (phase == "all-gather")) % size
            request = dist.isend(pieces[out].contiguous(), after)
            came = torch.empty_like(pieces[(out - 1) % size])
            dist.recv(came, before)
            request.wait()
            sent += pieces[out].numel()
            pieces[(out - 1) % size] = came + (
                pieces[(out - 1) % size] if phase == "reduce-scatter" else 0
            )
        if phase == "reduce-scatter":
            half = sent
    dist.all_reduce(data)
    assert torch.equal(torch.cat(pieces), data)
    return {"reduce-scatter": half, "all-gather": sent - half, "all-reduce": sent}


@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_real_ring_sends_as_many_bytes_as_the_formula_says(size: int) -> None:
    for sent in launch(ring, size, size, 12 * size):
        for kind, numbers in sent.items():
            assert 8 * numbers == Collective(kind, 8 * 12 * size, size, "shard").sent


def each_kind(rank: int) -> list[Collective]:
    x, size = torch.zeros(6, 4), dist.get_world_size()
    with counted_bytes() as sent:
        dist.all_reduce(x)
        dist.all_gather_into_tensor(torch.empty(size * 6, 4), x)
        dist.reduce_scatter_tensor(torch.empty(6 // size, 4), x)
        dist.all_gather([torch.empty(6, 4) for _ in range(size)], x)
        dist.broadcast(x, 0)
        dist.barrier()  # sends nothing of ours
        x @ x.T
    dist.all_reduce(x)  # outside
    return sent


def test_each_kind_is_counted_with_its_whole_tensor() -> None:
    for sent in launch(each_kind, 3):
        assert [(c.kind, c.payload, c.sent) for c in sent] == [
            ("all-reduce", 96, 128),
            ("all-gather", 288, 192),
            ("reduce-scatter", 96, 64),
            ("all-gather", 288, 192),
            ("broadcast", 96, 64),
        ]
        assert {c.processes for c in sent} == {3}
    assert Collective("all-to-all", 96, 4, "tensor").sent == 96 / 4 * 3 / 4


def step(rank: int, config: ModelConfig, plan: ParallelConfig, passes: int, by_hand: bool) -> Any:
    """What this rank's forward and backward passes send, on 2 sequences of 32 tokens each."""
    torch.manual_seed(0)
    size, model = dist.get_world_size(), Llama(config)
    mesh = build_mesh(plan, size, "cpu")
    if plan.is_plain(size):
        model = DistributedDataParallel(model, broadcast_buffers=False)
    else:
        model = parallelize(model, plan, mesh, by_hand=by_hand)
    tokens = torch.zeros(2, 32, dtype=torch.int64)
    with counted_bytes(mesh) as sent:
        for i in range(passes):
            with send_gradients(model, plan, last=i == passes - 1):
                model(tokens, targets=tokens).backward()
    return totals(sent)


def steps(rank: int, cases: list[Case]) -> list[Any]:
    return [step(rank, *case) for case in cases]


ON_TWO: list[Case] = [
    (TINY, ParallelConfig(), 1, False),
    (TINY, ParallelConfig(), 3, False),
    (TINY, ParallelConfig(shard=2), 1, False),
    (TINY, ParallelConfig(shard=2), 3, False),
    (TINY, ParallelConfig(shard=2, gather="step"), 3, False),
    (TINY, ParallelConfig(shard=2, recompute="full"), 1, False),
    *(
        (EVEN, ParallelConfig(tensor=2, sequence=sequence, recompute=recompute), 1, by_hand)
        for sequence, recompute, by_hand in product(
            (True, False), ("none", "selective", "full"), (False, True)
        )
        if not (by_hand and recompute == "selective")  # refused: it is selective already
    ),
]
ON_FOUR: list[Case] = [
    (TINY, ParallelConfig(shard=4), 1, False),
    (TINY, ParallelConfig(shard=2), 2, False),
    (TINY, ParallelConfig(shard=2, gather="step"), 2, False),
    (EVEN, ParallelConfig(tensor=2), 2, False),
    (EVEN, ParallelConfig(shard=2, tensor=2), 2, False),
    (EVEN, ParallelConfig(shard=2, tensor=2), 1, True),
]


@pytest.mark.parametrize(("size", "cases"), [(2, ON_TWO), (4, ON_FOUR)])
def test_every_formula_is_what_gloo_was_given(size: int, cases: list[Case]) -> None:
    ranks = launch(steps, size, cases)
    assert all(rank == ranks[0] for rank in ranks)
    for (config, plan, passes, by_hand), counted in zip(cases, ranks[0], strict=True):
        formula = step_traffic(config, plan, size, 2, 32, passes, 4, by_hand, gloo=True)
        assert counted == totals(formula), (plan, passes, by_hand)


def sent(found: list[Collective]) -> int:
    return sum(one.sent for one in found)


def test_the_published_volumes() -> None:
    parameters = LLAMA.num_parameters()
    many = 2048
    whole = 4 * parameters * (many - 1) / many
    assert sent(data_parallel(LLAMA, many)) == pytest.approx(2 * whole)  # ZeRO, 7.1
    once = fully_sharded(LLAMA, ParallelConfig(shard=many, gather="step"), many)
    assert sent(once) == pytest.approx(2 * whole, rel=0.02)  # as plain; 1% is filling up
    freed = fully_sharded(LLAMA, ParallelConfig(shard=many), many)
    outside = 2 * LLAMA.vocab_size * LLAMA.dim
    assert sent(freed) == pytest.approx(3 * whole - 4 * outside, rel=0.02)  # ZeRO, 7.2: 1.5 times

    # Megatron-LM: four all-reduces of (batch, seq, dim) a layer; Korthikanti et al., 4.2.2: with a
    # divided sequence as many bytes.
    plain, divided = (
        [c for c in tensor_parallel(LLAMA, ParallelConfig(tensor=8, sequence=s), 1, 2048, 2)
         if c.payload == 2 * 2048 * LLAMA.dim and c.kind != "all-to-all"]
        for s in (False, True)
    )  # fmt: skip
    stream = 2 * 2048 * LLAMA.dim
    assert sent(plain) == pytest.approx((4 * 80 + 1.5) * 2 * 7 / 8 * stream)
    assert sent(divided) == pytest.approx((8 * 80 + 2) * 7 / 8 * stream)


def test_what_a_mesh_adds_up_to() -> None:
    plan = ParallelConfig(shard=4, tensor=2)
    assert step_traffic(LLAMA, ParallelConfig(), 1, 1, 2048) == []
    assert step_traffic(LLAMA, ParallelConfig(), 2, 1, 2048) == data_parallel(LLAMA, 2)
    both = step_traffic(LLAMA, plan, 16, 1, 2048, passes=3, number=2)
    assert {c.axis: c.processes for c in both} == {"replicate": 2, "shard": 4, "tensor": 2}
    assert sent([c for c in both if c.axis == "tensor"]) == 3 * sent(
        tensor_parallel(LLAMA, plan, 1, 2048, 2)
    )
    # Tensor parallelism divides what the shards gather.
    alone = sent(fully_sharded(LLAMA, replace(plan, tensor=1), 8, 3, 2))
    assert sent([c for c in both if c.axis != "tensor"]) == pytest.approx(alone / 2, rel=1e-4)
    # Hybrid: of what was reduced within a group, a 4th travels between the groups, once a step.
    between = [c for c in both if c.axis == "replicate"]
    assert sum(c.payload for c in between) == pytest.approx(
        4 * LLAMA.num_parameters() / 8, rel=1e-4
    )
