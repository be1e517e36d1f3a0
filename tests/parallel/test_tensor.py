"""Matrices divided over processes: the logits, losses and gradients of one process."""

import pytest
import torch
import torch.distributed as dist
from processes import run_processes
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard

from minillama.config import ModelConfig
from minillama.efficient import differentiate_by_hand
from minillama.efficient.recompute import recompute_blocks
from minillama.model import Llama
from minillama.parallel.tensor import split_matrices

# 51 pieces: the last process holds fewer rows of the output matrix than the others.
CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=4, vocab_size=51, multiple_of=8, max_seq_len=16)
KINDS = ["autograd", "autograd selective", "autograd full", "by_hand", "by_hand full"]
GROUPS = [(2, False), (2, True), (4, True)]
NAMES = ["TP 2", "TP 2 + SP", "TP 4 + SP"]


def whole_model(dtype=torch.float64):
    torch.manual_seed(0)
    model = Llama(CONFIG)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("norm.weight"):
                weight.uniform_(0.5, 1.5)
    return model.to(dtype)


def batch(sequences=4, seq=12):
    """Tokens and targets; some targets are not counted."""
    torch.manual_seed(1)
    ids = torch.randint(0, CONFIG.vocab_size, (sequences, seq + 1))
    targets = ids[:, 1:].clone()
    targets[:, 3] = -100
    return ids[:, :-1], targets


def results(model, tokens, targets):
    """Loss, and every gradient as one whole tensor, by name."""
    loss = model(tokens, targets=targets)
    loss.backward()
    found = {"loss": loss.detach()}
    for name, weight in model.named_parameters():
        grad, weight.grad = weight.grad, None
        if hasattr(grad, "full_tensor"):
            assert grad.placements == weight.placements, name  # none is left a part of a sum
            grad = grad.full_tensor()
        found[name] = grad
    return found


def prepare(kind, mesh, sequence, dtype=torch.float64):
    """A divided model whose blocks are of this kind."""
    backward, _, recompute = kind.partition(" ")
    model = whole_model(dtype)
    if backward == "by_hand":
        differentiate_by_hand(model)
    split_matrices(model, mesh, sequence)
    return recompute_blocks(model, recompute or "none")


def far(mine, theirs):
    """The difference as a share of the expected norm, or of 1e-3: a zero has only rounding."""
    scale = theirs.double().norm().clamp(min=1e-3)
    return float((mine.double() - theirs.double()).norm() / scale)


def agree(mine, told, tolerance):
    assert mine.keys() == told.keys()
    for name in told:
        assert far(mine[name], told[name]) < tolerance, name


def one_group(rank, size, sequence):
    """Everything that the tests below compare, from one start of the processes."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (size,), mesh_dim_names=("tensor",))
    found = {}
    for kind in KINDS:
        for dtype in (torch.float64, torch.float32):
            model = prepare(kind, mesh, sequence, dtype)
            found[kind, dtype] = results(model, *batch())
            if dtype == torch.float64:
                tokens, _ = batch()
                logits = model(tokens)
                logits.square().sum().backward()
                gradient = model.tok_embeddings.weight.grad.full_tensor()
                found[kind, "logits"] = {"logits": logits.detach(), "tok_embeddings": gradient}
        with torch.no_grad():
            tokens, targets = (t[:, :7] for t in batch())  # 7: not a multiple of the processes
            found[kind, "odd"] = model(tokens), model(tokens, targets=targets)
    found["names"] = list(model.state_dict())
    found["shapes"] = {n: tuple(w.to_local().shape) for n, w in model.named_parameters()}
    found["placements"] = {n: w.placements for n, w in model.named_parameters()}
    with torch.autocast("cpu", torch.bfloat16):
        found["bfloat16"] = [
            results(prepare(kind, mesh, sequence, torch.float32), *batch())
            for kind in ("autograd", "by_hand")
        ]
    return found


@pytest.fixture(scope="module", params=GROUPS, ids=NAMES)
def group(request):
    """What each rank of a group found."""
    return request.param, run_processes(one_group, request.param[0], *request.param)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_loss_and_every_gradient_are_those_of_one_process(group, kind, dtype, tolerance):
    told = results(whole_model(), *batch())
    for found in group[1]:
        agree(found[kind, dtype], told, tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_logits_and_their_gradients_too(group, kind):
    model = whole_model()
    logits = model(batch()[0])
    logits.square().sum().backward()
    told = {"logits": logits.detach(), "tok_embeddings": model.tok_embeddings.weight.grad}
    for found in group[1]:
        agree(found[kind, "logits"], told, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_without_gradients_any_length_is_read(group, kind):
    model, (tokens, targets) = whole_model(torch.float32), (t[:, :7] for t in batch())
    with torch.no_grad():
        told = model(tokens), model(tokens, targets=targets)
    for found in group[1]:
        for mine, theirs in zip(found[kind, "odd"], told, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_in_bfloat16_it_is_as_near_the_truth_as_one_process(group):
    truth = results(whole_model(), *batch())
    with torch.autocast("cpu", torch.bfloat16):
        told = results(whole_model(torch.float32), *batch())
    for mine in group[1][0]["bfloat16"]:
        for name, true in truth.items():
            assert far(mine[name], true) < max(1e-2, 2 * far(told[name], true)), name


def test_each_process_holds_its_share_under_the_old_names(group):
    (size, _), ranks = group
    assert ranks[0]["names"] == list(whole_model().state_dict())
    cut = {"wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w3": 0, "w2": 1, "tok_embeddings": 1,
           "output": 0}  # fmt: skip
    for name, weight in whole_model().named_parameters():
        dim = cut.get(name.split(".")[-2])
        shape = list(weight.shape)
        if dim is not None:
            shape[dim] = -(-shape[dim] // size)  # rank 0 has no fewer than others
        assert ranks[0]["shapes"][name] == tuple(shape)
        assert ranks[0]["placements"][name] == ((Replicate() if dim is None else Shard(dim)),)


# with FSDP on top


def sharded(rank, sequence):
    """On a 2 x 2 mesh each pair of processes reads its half of the batch."""
    dist.init_process_group("gloo")
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("shard", "tensor"))
    mine = [t.chunk(2)[rank // 2] for t in batch()]
    found = {}
    for kind in KINDS:
        model = prepare(kind, mesh["tensor"], sequence)
        for layer in model.layers:
            fully_shard(layer, mesh=mesh["shard"])
        fully_shard(model, mesh=mesh["shard"])
        found[kind] = results(model, *mine)
        dist.all_reduce(found[kind]["loss"])
        found[kind]["loss"] /= 4
    found["names"] = list(model.state_dict())
    return found


@pytest.mark.parametrize("sequence", [False, True], ids=["TP 2 x FSDP 2", "TP 2 + SP x FSDP 2"])
def test_sharded_over_other_processes(sequence):
    told = results(whole_model(), *batch())
    for found in run_processes(sharded, 4, sequence):
        assert found["names"] == list(whole_model().state_dict())
        for kind in KINDS:
            agree(found[kind], told, 1e-12)
