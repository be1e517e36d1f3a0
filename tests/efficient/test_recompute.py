"""Activations computed again: the same numbers to the bit, from fewer kept."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

from minillama.bench.peak import allocated
from minillama.config import ModelConfig
from minillama.efficient import differentiate_by_hand
from minillama.efficient.recompute import recompute_blocks
from minillama.errors import ConfigError
from minillama.model import Llama

CONFIG = ModelConfig(dim=64, n_layers=2, n_heads=2, vocab_size=50, multiple_of=8, max_seq_len=32)
BATCH, SEQ = 2, 32


def model_and_tokens(by_hand=False):
    torch.manual_seed(0)
    model = Llama(CONFIG)
    tokens = torch.randint(0, CONFIG.vocab_size, (BATCH, SEQ + 1))
    return differentiate_by_hand(model) if by_hand else model, tokens


def loss_and_gradients(model, tokens):
    loss = model(tokens[:, :-1], targets=tokens[:, 1:])
    return loss, *torch.autograd.grad(loss, list(model.parameters()))


def kept(model, tokens):
    """Bytes that wait for the backward of the blocks, their output included."""
    x, table = model.tok_embeddings(tokens[:, :-1]), model.rotary[:SEQ]

    def forward():
        y = x
        for layer in model.layers:
            y = layer(y, table)
        return y

    return allocated(forward).held


CHOICES = pytest.mark.parametrize(
    ("choice", "by_hand"),
    [("none", False), ("selective", False), ("full", False), ("none", True), ("full", True)],
)


@CHOICES
def test_loss_and_gradients_are_the_same_to_the_bit(choice, by_hand):
    model, tokens = model_and_tokens(by_hand)
    told = loss_and_gradients(model, tokens)
    names = list(model.state_dict())
    assert recompute_blocks(model, choice) is model
    assert list(model.state_dict()) == names
    for mine, theirs in zip(loss_and_gradients(model, tokens), told, strict=True):
        assert torch.equal(mine, theirs)


class Products(TorchDispatchMode):
    """Counts the matrix products that are really computed."""

    count = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.count += operation == torch.ops.aten.mm.default
        return operation(*args, **(kwargs or {}))


def in_backward(model, tokens):
    loss = model(tokens[:, :-1], targets=tokens[:, 1:])
    with Products() as products:
        loss.backward()
    return products.count


def test_more_products_and_fewer_bytes():
    """``selective`` multiplies by no matrix again; ``full`` by all but the last of a block."""
    products, activations = {}, {}
    for choice in ("none", "selective", "full"):
        model, tokens = model_and_tokens()
        recompute_blocks(model, choice)
        activations[choice] = kept(model, tokens)
        products[choice] = in_backward(model, tokens)
    assert products["none"] == products["selective"] == products["full"] - 6 * CONFIG.n_layers
    assert activations["none"] > activations["selective"] > activations["full"]
    number, d, f = CONFIG.n_layers * BATCH * SEQ * 4, CONFIG.dim, CONFIG.hidden_dim
    assert activations["full"] == number * d  # the first input is not counted, the output is
    assert activations["selective"] == number * (6 * d + 2 * f + CONFIG.n_heads)


def test_by_hand_is_selective_already():
    model, _ = model_and_tokens(by_hand=True)
    before = copy.copy(model.layers[0].__dict__)
    with pytest.raises(ConfigError, match="selective already"):
        recompute_blocks(model, "selective")
    assert model.layers[0].__dict__ == before


def test_a_copy_recomputes_its_own_blocks():
    model, tokens = model_and_tokens()
    twin = copy.deepcopy(recompute_blocks(model, "full"))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert torch.equal(loss_and_gradients(twin, tokens)[0],
                       loss_and_gradients(model_and_tokens()[0], tokens)[0])  # fmt: skip


@CHOICES
def test_compiled_one_graph_serves_all_blocks(choice, by_hand):
    torch._dynamo.reset()
    model, tokens = model_and_tokens(by_hand)
    told = loss_and_gradients(model, tokens)
    graphs = CompileCounter()
    for layer in recompute_blocks(model, choice).layers:
        layer.compile(backend=graphs)
    mine = loss_and_gradients(model, tokens)
    assert graphs.frame_count == 1
    for ours, theirs in zip(mine, told, strict=True):
        torch.testing.assert_close(ours, theirs)
