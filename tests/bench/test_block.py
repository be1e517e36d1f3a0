"""The comparison of backwards compares blocks of the same function and weights."""

import pytest
import torch

from minillama.bench import block as bench
from minillama.bench.peak import allocated
from minillama.config import ModelConfig
from minillama.efficient import saved_bytes
from minillama.model import rotary_table


def test_all_contenders_compute_the_same():
    torch.manual_seed(0)
    config = ModelConfig(dim=32, n_heads=2, multiple_of=8, max_seq_len=16)
    table = rotary_table(16, 16)
    x = torch.randn(2, 16, 32, requires_grad=True)
    blocks = bench.build_blocks(config)
    assert list(blocks)[0] == "autograd" and len(blocks) == 5
    grads = []
    for block in blocks.values():
        grads.append(torch.autograd.grad(block(x, table).sin().sum(), x)[0])
    for grad in grads[1:]:
        torch.testing.assert_close(grad, grads[0], rtol=1e-4, atol=1e-5)


NAMES = ("autograd", "full recompute", "torch's selective", "by hand, 6d + 2f", "by hand, 4d + 2f")


def test_the_table_has_a_row_for_every_width_and_contender(tmp_path, capsys):
    rows = bench.bench_block(widths=(128, 256), steps=1, batch=1, seq_len=16, out=tmp_path)
    assert [(r.width, r.name) for r in rows] == [
        (width, name) for width in (128, 256) for name in NAMES
    ]
    for row in rows:
        assert row.seconds > 0 and row.slower > 0 and row.peak > row.saved
        assert (row.fewer, row.slower) == (1, 1) or row.name != "autograd"
    for first in (0, 5):
        saved = [row.saved for row in rows[first : first + 5]]
        assert saved[0] > 2 * saved[4] and saved[3] > saved[4] > saved[1]
        assert saved[2] == pytest.approx(saved[3], rel=0.02)  # torch keeps the same, by a policy
        assert saved[1] == 4 * 16 * rows[first].width  # the output, as much as the input
        assert rows[first + 4].fewer == pytest.approx(saved[0] / saved[4])
    printed = capsys.readouterr().out.split("\n")
    assert "1 x 16 tokens a step" in printed[0] and f"{rows[4].fewer:.2f}x" in printed[6]
    told = (tmp_path / "block_memory.csv").read_text(encoding="utf-8").splitlines()
    assert len(told) == 1 + len(rows) and told[1].startswith(f"128,autograd,{rows[0].saved},")


@pytest.mark.parametrize("position", [0, 3, 4])
def test_saved_bytes_are_those_that_autograd_is_told_of(position):
    """Checkpoints keep theirs elsewhere, so that the table counts memory instead."""
    config = ModelConfig(128, 1, 1, 16, multiple_of=32, max_seq_len=16)
    name, block = list(bench.build_blocks(config).items())[position]
    table, x = rotary_table(128, 16), torch.randn(2, 16, 128, requires_grad=True)
    told = saved_bytes(lambda: block(x, table), [table, *block.parameters()])
    assert allocated(lambda: block(x, table)).held == told, name
