"""SwiGLU against its formula, and the width that keeps its cost."""

import math

import pytest
import torch

from minillama.config import ModelConfig
from minillama.model import FeedForward


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_equals_the_formula(dtype):
    torch.manual_seed(0)
    layer = FeedForward(ModelConfig(dim=12, n_heads=2, multiple_of=8)).to(dtype)
    x = torch.randn(2, 3, 12, dtype=dtype)
    gate, up = x @ layer.w1.weight.T, x @ layer.w3.weight.T
    expected = (gate / (1 + torch.exp(-gate)) * up) @ layer.w2.weight.T
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("dim", [8, 96, 100, 288, 4096, 5120])
@pytest.mark.parametrize("multiple", [1, 16, 256])
def test_width_is_the_next_multiple_above_two_thirds(dim, multiple):
    hidden = ModelConfig(dim=dim, n_heads=2, multiple_of=multiple).hidden_dim
    assert hidden % multiple == 0
    assert 0 <= hidden - math.floor(8 * dim / 3) < multiple
