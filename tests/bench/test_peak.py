"""The count of memory on a CPU, against the allocator's own messages to torch's profiler."""

import pytest
import torch
from allocator import by_allocator

from minillama.bench.peak import Allocated, allocated
from minillama.config import ModelConfig
from minillama.efficient import differentiate_by_hand, full_attention, saved_bytes
from minillama.model import Llama

CONFIG = ModelConfig(dim=32, n_layers=2, n_heads=2, vocab_size=64, multiple_of=8, max_seq_len=64)


def test_attention_with_a_table():
    q, k, v = torch.randn(3, 1, 2, 96, 16)
    for tensor in (q, k, v):
        tensor.requires_grad_()
    kept = allocated(lambda: full_attention(q, k, v))
    told = by_allocator(lambda: full_attention(q, k, v))
    assert kept.held == pytest.approx(told.held, rel=0.001)
    # what is saved and was not there before; the output is not saved
    inputs = q.nbytes + k.nbytes + v.nbytes
    assert kept.held == saved_bytes(lambda: full_attention(q, k, v)) - inputs + q.nbytes

    def step() -> None:
        full_attention(q, k, v).sum().backward()
        q.grad = k.grad = v.grad = None

    assert allocated(step).peak == pytest.approx(by_allocator(step).peak, rel=0.001)
    assert allocated(step).held == 0


@pytest.mark.parametrize("by_hand", [False, True], ids=["autograd", "by hand"])
def test_a_step_of_a_model(by_hand):
    """The allocator also sees what a kernel needs for a moment within one operation."""
    torch.manual_seed(0)
    model = Llama(CONFIG)
    if by_hand:
        differentiate_by_hand(model)
    tokens = torch.randint(64, (8, 65))

    def step() -> None:
        model(tokens[:, :-1], targets=tokens[:, 1:]).backward()

    step()
    model.zero_grad()
    mine = allocated(step)
    model.zero_grad()
    told = by_allocator(step)
    assert mine.peak == pytest.approx(told.peak, rel=0.03)
    gradients = sum(p.grad.nbytes for p in model.parameters())
    assert mine.held == gradients == pytest.approx(told.held, rel=0.001)


def test_what_was_there_before_does_not_count():
    old = torch.zeros(1000)
    assert allocated(lambda: old.add_(1)) == Allocated(0, 0)
    assert allocated(lambda: old.view(10, 100)) == Allocated(0, 0)
    assert allocated(lambda: old + 1) == Allocated(4000, 4000)
    assert allocated(lambda: (old + 1).sum()) == Allocated(4004, 4)
    assert allocated(lambda: [(old + i)[:1] for i in range(3)]) == Allocated(12000, 12000)
