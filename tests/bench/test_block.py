"""The comparison of backwards compares blocks of the same function and weights."""

import pytest
import torch

from minillama.bench import block as bench
from minillama.config import ModelConfig
from minillama.model import rotary_table


def test_all_contenders_compute_the_same():
    torch.manual_seed(0)
    config = ModelConfig(dim=32, n_heads=2, multiple_of=8, max_seq_len=16)
    table = rotary_table(16, 16)
    x = torch.randn(2, 16, 32, requires_grad=True)
    blocks = bench.contenders(config)
    assert list(blocks)[0] == "autograd" and len(blocks) == 4
    grads = []
    for block in blocks.values():
        grads.append(torch.autograd.grad(block(x, table).sin().sum(), x)[0])
    for grad in grads[1:]:
        torch.testing.assert_close(grad, grads[0], rtol=1e-4, atol=1e-5)


def test_the_table_has_a_row_for_every_width_and_contender(capsys):
    rows = bench.bench_block(widths=(128, 256), steps=3, batch=1, seq_len=16)
    assert [(r.width, r.name) for r in rows] == [
        (width, name) for width in (128, 256)
        for name in ("autograd", "full recompute", "by hand, 6d + 2f", "by hand, 4d + 2f")
    ]  # fmt: skip
    for row in rows:
        assert row.seconds > 0 and row.slower > 0
        assert (row.fewer, row.slower) == (1, 1) or row.name != "autograd"
    for first in (0, 4):
        saved = [row.saved for row in rows[first : first + 4]]
        assert saved[0] > 2 * saved[3] and saved[2] > saved[3] > saved[1]
        assert saved[1] == 4 * 16 * rows[first].width  # the block's input
        assert rows[first + 3].fewer == pytest.approx(saved[0] / saved[3])
    printed = capsys.readouterr().out.split("\n")
    assert "1 x 16 tokens a step" in printed[0] and f"{rows[3].fewer:.2f}x" in printed[5]
