"""The backward written by hand: autograd's gradients, from half of what autograd keeps."""

import copy
import dataclasses

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from minillama.config import ModelConfig
from minillama.efficient import BlockByHand, differentiate_by_hand, saved_bytes
from minillama.efficient.block_backward import Exchange
from minillama.model import Llama, TransformerBlock, rotary_table
from minillama.parallel.memory import activation_bytes

SMALL = ModelConfig(dim=24, n_layers=2, n_heads=3, vocab_size=50, multiple_of=8, max_seq_len=40)
LEAN = pytest.mark.parametrize("lean", [False, True], ids=["6d + 2f", "4d + 2f"])


def pair(config=SMALL, lean=True, dtype=torch.float64):
    """A block with autograd's backward and one with ours, of the same random weights."""
    torch.manual_seed(0)
    plain = TransformerBlock(config).to(dtype)
    with torch.no_grad():
        for norm in (plain.attention_norm, plain.ffn_norm):
            norm.weight.uniform_(0.5, 1.5)
    ours = BlockByHand(config, lean).to(dtype)
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def inputs(config=SMALL, dtype=torch.float64, batch=2, seq=19):
    torch.manual_seed(1)
    x = torch.randn(batch, seq, config.dim).to(dtype).requires_grad_()
    return x, rotary_table(config.head_dim, seq)


def results(block, x, table, toward=None):
    """The output, and the gradient of x and of every parameter, by name."""
    torch.manual_seed(2)
    toward = torch.randn(x.shape) if toward is None else toward
    y = block(x, table)
    names, tensors = zip(*block.named_parameters(), strict=True)
    grads = torch.autograd.grad(y, (x, *tensors), toward.to(y.dtype))
    return dict(zip(("y", "x", *names), (y.detach(), *grads), strict=True))


def far(mine, theirs):
    """The difference as a share of the expected norm, or of 1e-3: a zero has only rounding."""
    scale = theirs.double().norm().clamp(min=1e-3)
    return float((mine.double() - theirs.double()).norm() / scale)


@LEAN
@pytest.mark.parametrize("seq", [1, 2, 19, 33])
def test_every_gradient_is_autograds(lean, seq):
    plain, ours = pair(lean=lean)
    told, mine = (results(block, *inputs(seq=seq)) for block in (plain, ours))
    assert mine.keys() == told.keys() and len(mine) == 2 + 9
    for name in told:
        if seq == 1 and name in ("attention.wq.weight", "attention.wk.weight"):
            assert mine[name].abs().max() < 1e-12 > told[name].abs().max()  # a softmax of one
        else:
            assert far(mine[name], told[name]) < 1e-12, name


@LEAN
def test_gradcheck(lean):
    """Finite differences, which know nothing of autograd's formulas."""
    config = ModelConfig(dim=8, n_heads=2, multiple_of=4, max_seq_len=8)
    _, ours = pair(config, lean)
    x, table = inputs(config, batch=1, seq=4)
    names, weights = zip(*ours.named_parameters(), strict=True)

    def block(x, *weights):
        return torch.func.functional_call(ours, dict(zip(names, weights, strict=True)), (x, table))

    assert torch.autograd.gradcheck(block, (x, *weights))


@LEAN
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)], ids=str
)
def test_as_near_the_truth_as_autograd_in_narrow_numbers(lean, dtype, tolerance):
    """The truth is the same weights and inputs in float64."""
    plain, ours = pair(lean=lean, dtype=dtype)
    exact = copy.deepcopy(plain).double()
    x, table = inputs(dtype=dtype)
    told, mine = results(plain, x, table), results(ours, x, table)
    truth = results(exact, x.detach().double().requires_grad_(), table)
    assert torch.equal(mine["y"], told["y"])
    for name, true in truth.items():
        assert mine[name].dtype == dtype
        assert far(mine[name], true) < max(tolerance, 1.5 * far(told[name], true)), name


@LEAN
def test_under_autocast_it_computes_what_autograd_computes(lean):
    plain, ours = pair(lean=lean, dtype=torch.float32)
    x, table = inputs(dtype=torch.float32)
    truth = results(plain, x, table)
    with torch.autocast("cpu", torch.bfloat16):
        told, mine = results(plain, x, table), results(ours, x, table)
    assert torch.equal(mine["y"], told["y"])
    assert far(told["y"], truth["y"]) > 1e-4  # it was in bfloat16
    for name in told:
        assert mine[name].dtype == told[name].dtype == torch.float32
        assert far(mine[name], truth[name]) < max(1e-2, 1.5 * far(told[name], truth[name])), name


def test_no_position_sees_a_later_one():
    _, ours = pair()
    x, table = inputs(seq=12)
    toward = torch.zeros(x.shape)
    toward[:, 5] = 1.0
    grad = results(ours, x, table, toward)["x"]
    assert (grad[:, 6:] == 0).all() and (grad[:, :6] != 0).all()


class Recorded(Exchange):
    """Two processes' messages, as one of them sees them if the other has the same numbers."""

    def __init__(self):
        self.sent = []

    def gather(self, x):
        self.sent.append("gather")
        return torch.cat((x, x), dim=1)

    def scatter(self, x):
        self.sent.append("scatter")
        return 2 * x[:, : x.shape[1] // 2]

    def total(self, grad):
        self.sent.append("total")
        return 2 * grad


@LEAN
def test_what_it_tells_other_processes(lean):
    """Forward: around attention and feed-forward. Backward: their inputs and the gradients."""
    _, ours = pair(lean=lean)
    ours.exchange = exchange = Recorded()
    x, _ = inputs(seq=6)
    y = ours(x, rotary_table(SMALL.head_dim, 12))
    assert y.shape == x.shape
    assert exchange.sent == ["gather", "scatter"] * 2
    exchange.sent.clear()
    y.sum().backward()
    assert x.grad.shape == x.shape
    counts = {what: exchange.sent.count(what) for what in ("gather", "scatter", "total")}
    assert counts == {"gather": 4, "scatter": 2 + lean, "total": 2}  # lean: h once more


# memory


def kept(block, config, batch=2, seq=64):
    x, table = inputs(config, torch.float32, batch, seq)
    return saved_bytes(lambda: block(x, table), [table, *block.parameters()])


@pytest.mark.parametrize("width", [256, 512])
def test_saved_bytes_follow_the_formula(width):
    config = ModelConfig(dim=width, n_heads=width // 128, max_seq_len=64)
    plain, lean = pair(config, dtype=torch.float32)
    d, f, heads, number = width, config.hidden_dim, config.n_heads, 4 * 2 * 64
    assert kept(lean, config) == number * (4 * d + 2 * f + heads)
    by_autograd = kept(plain, config)
    assert by_autograd == number * (10 * d + 4 * f + heads + 2)  # 1 / rms(x) of two norms
    assert by_autograd >= 2 * kept(lean, config)
    lean.lean = False
    assert kept(lean, config) == number * (6 * d + 2 * f + heads)
    everything = saved_bytes(
        lambda: checkpoint(plain, *inputs(config, torch.float32, 2, 64), use_reentrant=False)
    )
    assert everything < kept(lean, config)


@pytest.mark.parametrize("recompute", ["none", "selective"])
def test_minillama_plan_counts_the_same(recompute):
    """A layer more costs what a block is measured to keep, but for a few numbers a token."""
    one = ModelConfig(dim=256, n_layers=1, n_heads=2, max_seq_len=64)
    counted = [
        activation_bytes(dataclasses.replace(one, n_layers=n), 128, recompute, number=4)
        for n in (1, 2)
    ]
    plain, ours = pair(one, lean=False, dtype=torch.float32)
    measured = kept(plain if recompute == "none" else ours, one)
    assert measured == pytest.approx(counted[1] - counted[0], rel=2e-3)


# a whole model


def losses_and_gradients(model, tokens):
    loss = model(tokens[:, :-1], targets=tokens[:, 1:])
    return loss, torch.autograd.grad(loss, list(model.parameters()))


def test_a_whole_model():
    torch.manual_seed(0)
    model = Llama(SMALL).double()
    tokens = torch.randint(0, SMALL.vocab_size, (3, 30))
    loss, told = losses_and_gradients(model, tokens)
    names = list(model.state_dict())
    assert differentiate_by_hand(model) is model
    assert all(isinstance(layer, BlockByHand) and layer.lean for layer in model.layers)
    assert list(model.state_dict()) == names
    my_loss, mine = losses_and_gradients(model, tokens)
    assert torch.equal(my_loss, loss)
    for ours, theirs in zip(mine, told, strict=True):
        assert far(ours, theirs) < 1e-12


def test_another_model_is_left_alone():
    """The switch is on the blocks, not on their class."""
    model, other = Llama(SMALL), Llama(SMALL)
    differentiate_by_hand(model)
    assert {type(layer) for layer in other.layers} == {TransformerBlock}


def test_without_gradients_and_with_another_mix_it_is_the_plain_block():
    plain, ours = pair()
    x, table = inputs()
    with torch.no_grad():
        assert torch.equal(ours(x, table), plain(x, table))
    seen = []

    def values(q, k, v):
        seen.append(q.shape)
        return v

    assert torch.equal(ours(x, table, values), plain(x, table, values)) and len(seen) == 2


def test_frozen_weights_get_no_gradient():
    plain, ours = pair()
    x, table = inputs()
    told = results(plain, x, table)
    ours.attention.wq.weight.requires_grad_(False)
    ours(x, table).sum().backward()
    assert ours.attention.wq.weight.grad is None and ours.attention.wk.weight.grad is not None
    assert told["attention.wq.weight"].norm() > 0


def test_it_can_be_recomputed_as_a_whole_and_copied():
    plain, ours = pair()
    x, table = inputs()
    told = results(plain, x, table)
    twin = copy.deepcopy(ours)
    assert type(twin) is BlockByHand and twin.attention.wq.weight is not ours.attention.wq.weight
    mine = results(twin, x, table)
    y = checkpoint(ours, x, table, use_reentrant=False)
    torch.manual_seed(2)
    y.backward(torch.randn(x.shape).to(y.dtype))
    assert far(mine["x"], told["x"]) < 1e-12
    for name, weight in ours.named_parameters():
        assert far(weight.grad, told[name]) < 1e-12


def test_no_second_derivative_is_claimed():
    _, ours = pair()
    x, table = inputs()
    (grad,) = torch.autograd.grad(ours(x, table).sin().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()
