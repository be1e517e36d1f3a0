"""RMSNorm against torch's, its dtype rules, and the axis it must not mix."""

import pytest
import torch
from torch import nn

from minillama.model import RMSNorm


@pytest.mark.parametrize("dtype, limit", [(torch.float32, 1e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("eps", [1e-6, 1e-2])
def test_equals_torch_in_value_and_gradient(dtype, limit, eps):
    torch.manual_seed(0)
    ours, theirs = RMSNorm(24, eps).to(dtype), nn.RMSNorm(24, eps).to(dtype)
    ours.weight.data = theirs.weight.data = torch.randn(24, dtype=dtype)
    x = torch.randn(2, 5, 24, dtype=dtype)
    x, y = x.clone().requires_grad_(), x.clone().requires_grad_()
    upstream = torch.randn(2, 5, 24, dtype=dtype)
    (ours(x) * upstream).sum().backward()
    (theirs(y) * upstream).sum().backward()
    assert ours(x).dtype == dtype
    for a, b in ((ours(x), theirs(y)), (x.grad, y.grad), (ours.weight.grad, theirs.weight.grad)):
        assert (a - b).abs().max() <= limit * b.abs().max()


def test_sixteen_bits_are_summed_in_thirty_two_and_rounded_before_the_weight():
    torch.manual_seed(0)
    norm = RMSNorm(512).bfloat16()
    norm.weight.data.normal_()
    x = torch.randn(4, 512).bfloat16()
    wide = x.float()
    unit = wide / (wide.pow(2).sum(-1, keepdim=True) / 512 + 1e-6).sqrt()
    assert norm(x).dtype == torch.bfloat16
    expected = unit.bfloat16() * norm.weight
    assert (norm(x) == expected).float().mean() > 0.99  # a division may round otherwise
    other_order = (unit * norm.weight.float()).bfloat16()
    assert (norm(x) == other_order).float().mean() < 0.9


def test_float16_does_not_overflow():
    x = torch.full((1, 8), 60_000.0, dtype=torch.float16)
    assert torch.equal(RMSNorm(8).half()(x), torch.ones(1, 8, dtype=torch.float16))


def test_positions_do_not_see_each_other():
    x = torch.randn(1, 6, 8)
    changed = x.clone()
    changed[:, 3] *= 100
    different = (RMSNorm(8)(x) != RMSNorm(8)(changed)).any(-1)[0]
    assert set(different.nonzero().flatten().tolist()) <= {3}


def test_zeros_stay_zeros():
    assert torch.equal(RMSNorm(8)(torch.zeros(2, 8)), torch.zeros(2, 8))
