"""Initial weights: of every mesh, bit for bit those of ``Llama(config)``."""

import pytest
import torch
from processes import run_processes

from minillama.config import ModelConfig
from minillama.model import Llama
from minillama.parallel.fsdp import parallelize
from minillama.parallel.initialize import initialize
from minillama.parallel.mesh import ParallelConfig
from minillama.scale.runtime import join_world

MODEL = ModelConfig(dim=20, n_layers=2, n_heads=2, vocab_size=34, multiple_of=2, max_seq_len=8)
SEED = 11


def plain() -> Llama:
    torch.manual_seed(SEED)
    return Llama(MODEL)


def on_meta() -> Llama:
    with torch.device("meta"):
        return Llama(MODEL)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_without_a_mesh():
    model = on_meta()
    initialize(model, "cpu", SEED)
    after = torch.get_rng_state()
    expected = plain()
    assert same(model.state_dict(), expected.state_dict())
    assert torch.equal(model.rotary, expected.rotary)
    assert torch.equal(after, torch.get_rng_state())  # whatever is drawn next agrees too
    assert all(weight.requires_grad for weight in model.parameters())


def test_another_seed_gives_other_weights():
    model = on_meta()
    initialize(model, "cpu", SEED + 1)
    assert not same(model.state_dict(), plain().state_dict())


def whole_weights(rank: int, config: ParallelConfig) -> dict[str, torch.Tensor]:
    world, model = join_world("cpu", config), on_meta()
    parallelize(model, config, world.mesh)
    initialize(model, world.device, SEED)
    assert torch.equal(model.rotary, plain().rotary)
    return {name: weight.full_tensor() for name, weight in model.state_dict().items()}


@pytest.mark.parametrize(
    "size, config",
    [
        (2, ParallelConfig(shard=2)),
        (3, ParallelConfig(shard=3)),  # 20 and 34 rows in 3 uneven pieces
        (4, ParallelConfig(shard=2)),
        (2, ParallelConfig(tensor=2)),
        (4, ParallelConfig(shard=2, tensor=2)),
        (4, ParallelConfig(tensor=2, sequence=False)),
        (6, ParallelConfig(shard=3, tensor=2)),
    ],
    ids=str,
)
def test_on_every_mesh(size, config):
    expected = plain().state_dict()
    for weights in run_processes(whole_weights, size, config):
        assert same(weights, expected)
