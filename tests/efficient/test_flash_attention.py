"""Three ways to compute attention: one value, one gradient, and very different memory."""

import pytest
import torch
import torch.nn.functional as F

from minillama.efficient import blockwise_attention, full_attention, saved_bytes
from minillama.efficient.flash_attention import (
    blockwise_backward,
    blockwise_forward,
    fused_backward,
    fused_forward,
)


def random_qkv(seq, dtype=torch.float64, batch=2, heads=3, head_dim=8):
    torch.manual_seed(seq)
    shape = (batch, heads, seq, head_dim)
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for _ in "qkv"]


def value_and_gradients(attention, inputs):
    out = attention(*inputs)
    torch.manual_seed(1)
    return out, *torch.autograd.grad(out, inputs, torch.randn_like(out))


def sdpa(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@pytest.mark.parametrize("seq", [1, 2, 7, 16, 33, 64])
@pytest.mark.parametrize("block", [1, 3, 16, 128])
def test_the_same_values_and_gradients(seq, block):
    inputs = random_qkv(seq)
    told = value_and_gradients(sdpa, inputs)
    naive = value_and_gradients(full_attention, inputs)
    blockwise = value_and_gradients(lambda *qkv: blockwise_attention(*qkv, block), inputs)
    for mine, parts, theirs in zip(naive, blockwise, told, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(parts, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=str
)
def test_narrow_numbers(dtype, tolerance):
    inputs = random_qkv(70, dtype)
    exact = [t.detach().double().requires_grad_() for t in inputs]
    grad = torch.randn(inputs[0].shape).to(dtype)
    out, true = blockwise_attention(*inputs, 16), full_attention(*exact)
    mine = out, *torch.autograd.grad(out, inputs, grad)
    told = true, *torch.autograd.grad(true, exact, grad.double())
    for ours, theirs in zip(mine, told, strict=True):
        assert ours.dtype == dtype
        assert (ours - theirs).norm() < tolerance * theirs.norm()


def test_gradcheck():
    inputs = random_qkv(7, batch=1, heads=2, head_dim=4)
    assert torch.autograd.gradcheck(lambda *qkv: blockwise_attention(*qkv, 3), inputs)


def test_scores_too_large_for_exp_are_no_trouble():
    q, k, v = random_qkv(20, torch.float32)
    with torch.no_grad():
        q *= 1e3
    out = value_and_gradients(lambda *qkv: blockwise_attention(*qkv, 6), (q, k, v))
    assert all(t.isfinite().all() for t in out)
    torch.testing.assert_close(out[0], sdpa(q, k, v), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention", [full_attention, lambda *t: blockwise_attention(*t, 5)])
def test_no_position_sees_a_later_one(attention):
    q, k, v = (t.detach() for t in random_qkv(17))
    before = attention(q, k, v)
    k[:, :, 11:], v[:, :, 11:] = 5.0, -7.0
    after = attention(q, k, v)
    assert torch.equal(after[:, :, :11], before[:, :, :11])
    assert (after[:, :, 11:] != before[:, :, 11:]).all()


def test_what_waits_for_the_backward_grows_with_t_and_not_its_square():
    def saved(attention, seq):
        inputs = random_qkv(seq, torch.float32, batch=1, heads=2, head_dim=16)
        return saved_bytes(lambda: attention(*inputs))

    assert [saved(blockwise_attention, t) for t in (64, 128, 256)] == [
        4 * 2 * t * (4 * 16 + 1)  # float32, 2 heads: Q, K, V and the output, and the logsumexp
        for t in (64, 128, 256)
    ]
    assert saved(full_attention, 256) > 3 * saved(full_attention, 128)
    assert saved(full_attention, 256) > 4 * 2 * 256**2  # at least one table


def test_blocks_of_the_future_are_skipped(monkeypatch):
    """n (n + 1) / 2 of n x n blocks are computed, forward and backward."""
    from minillama.efficient import flash_attention

    calls = []
    compute = flash_attention._scores
    monkeypatch.setattr(flash_attention, "_scores", lambda *a: calls.append(a[2:]) or compute(*a))
    value_and_gradients(lambda *qkv: blockwise_attention(*qkv, 8), random_qkv(30))
    assert len(calls) == 2 * 4 * 5 / 2
    assert all(columns.start <= rows.start for rows, columns in calls)


def test_the_kernel_and_the_blocks_keep_the_same():
    """The fused kernel's output, logsumexp and gradients are those of the written-out recurrence"""
    q, k, v = (t.detach() for t in random_qkv(40))
    out, (logsumexp,) = fused_forward(q, k, v)
    mine, my_logsumexp = blockwise_forward(q, k, v, 16)
    torch.testing.assert_close((out, logsumexp), (mine, my_logsumexp), rtol=1e-10, atol=1e-12)
    grad = torch.randn_like(out)
    torch.testing.assert_close(
        tuple(fused_backward(grad, q, k, v, out, (logsumexp,))),
        blockwise_backward(grad, q, k, v, mine, my_logsumexp, 16),
        rtol=1e-10, atol=1e-12,
    )  # fmt: skip


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_on_a_gpu(dtype):
    q, k, v = (t.detach().to("cuda", dtype) for t in random_qkv(300, head_dim=64))
    out, state = fused_forward(q, k, v)
    grads = fused_backward(torch.ones_like(out), q, k, v, out, state)
    inputs = [t.double().requires_grad_() for t in (q, k, v)]
    exact = full_attention(*inputs)
    told = torch.autograd.grad(exact, inputs, torch.ones_like(exact))
    for mine, theirs in zip((out, *grads), (exact, *told), strict=True):
        assert (mine - theirs).norm() < 3e-2 * theirs.norm()
