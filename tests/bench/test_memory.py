"""The comparisons of memory: equal results, bytes as the formulas say, and a figure of them."""

import csv
import json

import pytest
import torch

from minillama.bench import memory as bench
from minillama.bench.peak import allocated
from minillama.config import ModelConfig
from minillama.efficient import saved_bytes
from minillama.errors import ConfigError
from minillama.model import rotary_table


def assert_same(results):
    for result in results[1:]:
        for got, first in zip(result, results[0], strict=True):
            torch.testing.assert_close(got, first, rtol=1e-4, atol=1e-5)


def test_all_attentions_compute_the_same():
    torch.manual_seed(0)
    inputs = [t.requires_grad_() for t in torch.randn(3, 1, 2, 40, 8)]
    results = []
    for attention in bench.ATTENTIONS.values():
        out = attention(*inputs)
        results.append((out, *torch.autograd.grad(out.sin().sum(), inputs)))
    assert_same(results)


def test_all_blocks_compute_the_same():
    torch.manual_seed(0)
    config = ModelConfig(dim=32, n_heads=2, multiple_of=8, max_seq_len=16)
    table = rotary_table(16, 16)
    x = torch.randn(2, 16, 32, requires_grad=True)
    results = []
    for block in bench.build_blocks(config).values():
        out = block(x, table)
        results.append((out, *torch.autograd.grad(out.sin().sum(), x)))
    assert_same(results)


def saved_formula(name, heads, head_dim, seq_len):
    """The output, and either the weights with one mask for all heads, or a sum for each row."""
    output = 4 * heads * seq_len * head_dim
    if name == bench.FULL_TABLE:
        return output + (4 * heads + 1) * seq_len**2
    return output + 4 * heads * seq_len


def test_memory_grows_with_the_square_only_with_a_table(tmp_path, capsys):
    limit = bench.naive_peak(2, 16, 384) / 1e9
    lengths = (128, 256, 384, 512)
    rows = bench.bench_attention(lengths, 2, 16, steps=1, limit_gb=limit, out=tmp_path)
    found = {(row.name, row.size): row for row in rows}
    assert (bench.FULL_TABLE, 512) not in found and len(found) == 3 * 4 - 1
    for row in rows:
        assert row.saved == saved_formula(row.name, 2, 16, row.size) and row.seconds > 0
        if row.name == bench.FULL_TABLE:
            assert row.peak == bench.naive_peak(2, 16, row.size)
    for name, least, most in zip(bench.ATTENTIONS, (2, 1, 3.7), (2, 2, 4), strict=True):
        growth = found[name, 256].peak / found[name, 128].peak
        assert least <= growth <= most
    printed = capsys.readouterr().out.split("\n")
    assert "heads 2" in printed[0] and f"{rows[0].peak / 1e6:.2f}" in printed[2]
    check_files(tmp_path, "attention_memory", "seq_len", rows)


def check_files(folder, stem, x, rows):
    """Four files, of which the csv holds the rows and the json how to make them again."""
    for kind in ("png", "svg"):
        assert (folder / f"{stem}.{kind}").stat().st_size > 5000
    with (folder / f"{stem}.csv").open(encoding="utf-8") as file:
        drawn = list(csv.DictReader(file))
    assert [(int(row[x]), row["name"]) for row in drawn] == [(row.size, row.name) for row in rows]
    assert [int(row["peak"]) for row in drawn] == [row.peak for row in rows]
    origin = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
    assert origin["command"].startswith("minillama bench ") and "--steps 1" in origin["command"]
    assert origin["settings"]["threads"] == torch.get_num_threads()
    assert "runs" not in origin and origin["hardware"]["cores"] >= 1


def test_lengths_must_be_positive():
    with pytest.raises(ConfigError, match="at least 1"):
        bench.bench_attention((0,))


def test_the_table_has_a_row_for_every_width_and_backward(tmp_path, capsys):
    rows = bench.bench_block(widths=(128, 256), steps=1, batch=1, seq_len=16, out=tmp_path)
    pairs = [(width, name) for width in (128, 256) for name in bench.BACKWARDS]
    assert [(row.size, row.name) for row in rows] == pairs
    for row in rows:
        assert row.seconds > 0 and row.slower > 0 and row.peak > row.saved
        assert (row.fewer, row.slower) == (1, 1) or row.name != "autograd"
    for first in (0, 5):
        saved = [row.saved for row in rows[first : first + 5]]
        assert saved[0] > 2 * saved[4] and saved[3] > saved[4] > saved[1]
        assert saved[2] == pytest.approx(saved[3], rel=0.02)  # torch keeps the same, by a policy
        assert saved[1] == 4 * 16 * rows[first].size  # the output, as much as the input
        assert rows[first + 4].fewer == pytest.approx(saved[0] / saved[4])
    printed = capsys.readouterr().out.split("\n")
    assert "seq_len 16" in printed[0] and f"{rows[4].fewer:.2f}x" in printed[6]
    check_files(tmp_path, "block_memory", "width", rows)


@pytest.mark.parametrize("position", [0, 3, 4])
def test_saved_bytes_are_those_of_autograd(position):
    """Checkpoints keep theirs elsewhere, so that the table counts memory instead."""
    config = ModelConfig(128, 1, 1, 16, multiple_of=32, max_seq_len=16)
    name, block = list(bench.build_blocks(config).items())[position]
    table, x = rotary_table(128, 16), torch.randn(2, 16, 128, requires_grad=True)
    saved = saved_bytes(lambda: block(x, table), [table, *block.parameters()])
    assert allocated(lambda: block(x, table)).held == saved, name
