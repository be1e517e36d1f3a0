"""Rotary embeddings: Meta's complex-number formula, and what makes positions relative."""

import pytest
import torch
from torch import Tensor

from minillama.model import apply_rotary, rotary_angles, rotary_table


def meta_rotary(x: Tensor, theta: float = 10_000.0) -> Tensor:
    """Each pair as one complex number, times e^(i m theta_j), in 64 bits and one by one."""
    batch, seq, heads, size = x.shape
    turned = torch.empty_like(x, dtype=torch.float64)
    for m in range(seq):
        for j in range(size // 2):
            angle = torch.tensor(m * theta ** (-2 * j / size), dtype=torch.float64)
            number = torch.complex(x[:, m, :, 2 * j].double(), x[:, m, :, 2 * j + 1].double())
            number = number * torch.exp(1j * angle)
            turned[:, m, :, 2 * j], turned[:, m, :, 2 * j + 1] = number.real, number.imag
    return turned


def meta_table(size: int, positions: int) -> Tensor:
    """Cosines and sines as Meta's code computes them, in polar form and 32 bits."""
    frequencies = 1.0 / (10_000.0 ** (torch.arange(0, size, 2)[: size // 2].float() / size))
    angles = torch.outer(torch.arange(positions), frequencies).float()
    return torch.view_as_real(torch.polar(torch.ones_like(angles), angles))


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 9, 3, 8), (1, 40, 2, 64)], ids=str)
def test_equals_the_complex_formula(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours = apply_rotary(x, rotary_table(shape[-1], shape[1]))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), meta_rotary(x), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("size", [2, 6, 32, 128])
def test_table_is_metas_to_the_last_bit_but_one(size):
    assert (rotary_table(size, 2048) - meta_table(size, 2048)).abs().max() <= 2**-24


def test_theta_sets_the_speeds():
    angles = rotary_angles(8, 5, theta=16.0)
    expected = torch.outer(torch.arange(5.0), torch.tensor([1.0, 0.5, 0.25, 0.125]))
    torch.testing.assert_close(angles, expected)


def test_scores_depend_on_the_distance_only():
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 32, dtype=torch.float64)
    table = rotary_table(32, 200).double()

    def score(m: int, n: int) -> float:
        return float((apply_rotary(q, table[m : m + 1]) * apply_rotary(k, table[n : n + 1])).sum())

    for distance in (0, 1, 17):
        scores = [score(n + distance, n) for n in (0, 3, 90, 180)]
        assert max(scores) - min(scores) < 1e-4  # the table has 32 bits
    assert abs(score(5, 0) - score(9, 0)) > 1e-2


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_keeps_lengths_and_dtype(dtype):
    x = torch.randn(2, 10, 3, 16).to(dtype)
    turned = apply_rotary(x, rotary_table(16, 10))
    assert turned.dtype == dtype
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1), rtol=tolerance, atol=0)
    assert torch.equal(turned[:, 0], x[:, 0])  # position 0 turns by nothing
