"""The chunked loss against F.cross_entropy on the full table, and against torch's own chunks."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from minillama.bench.peak import allocated
from minillama.model import loss
from minillama.model.loss import linear_cross_entropy

LIMIT = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 2e-2}


def example(positions: int, dtype: torch.dtype, ignored: int = 0, seed: int = 0) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(positions, 12, generator=random).to(dtype)
    weight = torch.randn(50, 12, generator=random).to(dtype)
    targets = torch.randint(50, (positions,), generator=random)
    targets[torch.randperm(positions, generator=random)[:ignored]] = -100
    return [x, weight, targets]


def full(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return F.cross_entropy(x.to(wide) @ weight.to(wide).T, targets)


def value_and_gradients(function, x, weight, targets, **options) -> list[Tensor]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    value = function(x, weight, targets, **options)
    (3 * value).backward()  # a factor from above must reach the gradients
    return [value, x.grad, weight.grad]


def assert_equal(inputs: list[Tensor], **options) -> None:
    ours = value_and_gradients(linear_cross_entropy, *inputs, **options)
    expected = value_and_gradients(full, *inputs, **options)
    for a, b in zip(ours, expected, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).abs().max() <= LIMIT[inputs[0].dtype] * b.abs().max()


@pytest.mark.parametrize("rows", [16, 17, 40, 64, 1000])
@pytest.mark.parametrize("dtype", LIMIT, ids=str)
def test_every_chunking_gives_the_same(monkeypatch, rows, dtype):
    monkeypatch.setattr(loss, "CHUNK_BYTES", rows * 4 * 50)
    assert_equal(example(64, dtype))
    assert_equal(example(65, dtype, ignored=20))


def test_sixteen_bit_logits_are_summed_in_thirty_two():
    x, weight, targets = example(200, torch.bfloat16)
    expected = F.cross_entropy((x @ weight.T).float(), targets)
    assert abs(linear_cross_entropy(x, weight, targets) - expected) < 1e-6 * expected


def test_the_default_chunk():
    assert_equal(example(300, torch.float32, ignored=1))


def test_nothing_counted_is_zero_and_moves_nothing():
    x, weight, targets = example(20, torch.float32, ignored=20)
    value, *gradients = value_and_gradients(linear_cross_entropy, x, weight, targets)
    assert value == 0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


def test_large_logits_do_not_overflow():
    x, weight, targets = example(20, torch.float32)
    assert_equal([1e4 * x, weight, targets])


def test_without_gradients(monkeypatch):
    """Neither are gradients computed, which the forward pass would do otherwise."""
    monkeypatch.setattr(torch, "mm", None)
    with torch.no_grad():
        ours = linear_cross_entropy(*example(33, torch.float64, ignored=3))
    assert abs(ours - full(*example(33, torch.float64, ignored=3))) < 1e-12
    assert not ours.requires_grad


def test_only_the_needed_logits_exist(monkeypatch):
    """No tensor has a row of logits for every position."""
    monkeypatch.setattr(loss, "CHUNK_BYTES", 1)
    x, weight, targets = example(160, torch.float32)
    sizes = []
    real = torch.log_softmax
    monkeypatch.setattr(torch, "log_softmax",
                        lambda t, dim: (sizes.append(t.shape), real(t, dim))[1])  # fmt: skip
    value_and_gradients(linear_cross_entropy, x, weight, targets)
    assert sizes == [(16, 50)] * 10


def torchs_own(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=20, acc_policy="accurate")
    return F.linear_cross_entropy(x, weight, targets, options=options)


@pytest.mark.parametrize("ignored", [0, 20])
def test_torchs_own_chunked_loss_gives_the_same(monkeypatch, ignored):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 16 * 4 * 50)
    inputs = example(64, torch.float64, ignored)
    ours = value_and_gradients(linear_cross_entropy, *inputs)
    for mine, other in zip(ours, value_and_gradients(torchs_own, *inputs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


class Products(TorchDispatchMode):
    """Notes the dtypes of all matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_):
            self.dtypes += [arg.dtype for arg in args if isinstance(arg, Tensor)]
        return operation(*args, **(kwargs or {}))


def test_under_autocast_all_products_are_of_sixteen_bits(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 1)
    inputs = example(160, torch.float32, ignored=10)
    with Products() as products, torch.autocast("cpu", torch.bfloat16):
        ours = value_and_gradients(linear_cross_entropy, *inputs)
    assert products.dtypes == [torch.bfloat16] * (10 * 3 * 2)
    exact = value_and_gradients(full, *inputs)
    for mine, other in zip(ours, exact, strict=True):
        assert mine.dtype == torch.float32
        assert (mine - other).norm() <= 2e-2 * other.norm()


def test_sixteen_bit_weights_sum_their_gradient_in_thirty_two(monkeypatch):
    """However many chunks there are: 256 sums in 16 bits would be wrong by 2%."""
    x, weight, targets = example(4096, torch.bfloat16)
    gradients = []
    for size in (2**23, 1):
        monkeypatch.setattr(loss, "CHUNK_BYTES", size)
        gradients.append(value_and_gradients(linear_cross_entropy, x, weight, targets)[2])
    exact = value_and_gradients(full, x.double(), weight.double(), targets)[2]
    for gradient in gradients:
        assert (gradient - exact).norm() <= 5e-3 * exact.norm()


def test_the_compiler_sees_one_graph(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK_BYTES", 16 * 4 * 50)
    compiled = torch.compile(linear_cross_entropy, fullgraph=True, backend="eager")
    for ignored in (0, 7):
        inputs = example(40, torch.float32, ignored)
        ours = value_and_gradients(linear_cross_entropy, *inputs)
        for mine, other in zip(ours, value_and_gradients(compiled, *inputs), strict=True):
            assert torch.equal(mine, other)


def test_the_memory_of_the_logits_is_saved():
    """4 bytes for each of 512 x 8,000 logits, three times; against one chunk."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(512, 8, generator=random, requires_grad=True)
    weight = torch.randn(8000, 8, generator=random, requires_grad=True)
    targets = torch.randint(8000, (512,), generator=random)
    peaks = []
    for function in (full, linear_cross_entropy):
        peaks.append(allocated(lambda f=function: f(x, weight, targets).backward()).peak)
        x.grad = weight.grad = None
    logits = 4 * 512 * 8000
    assert peaks[0] == pytest.approx(3 * logits, rel=0.05)
    assert peaks[1] < 3 * loss.CHUNK_BYTES + 3 * weight.nbytes + 3 * x.nbytes
