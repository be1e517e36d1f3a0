"""The comparison of attentions: memory as the formulas say, and a figure of what was measured."""

import csv
import json

import pytest
import torch

from minillama.bench import attention as bench
from minillama.errors import ConfigError


def test_all_contenders_compute_the_same():
    torch.manual_seed(0)
    inputs = [t.requires_grad_() for t in torch.randn(3, 1, 2, 40, 8)]
    results = []
    for way in bench.ATTENTIONS.values():
        out = way(*inputs)
        results.append((out, *torch.autograd.grad(out.sin().sum(), inputs)))
    for result in results[1:]:
        for mine, first in zip(result, results[0], strict=True):
            torch.testing.assert_close(mine, first, rtol=1e-4, atol=1e-5)


def test_memory_grows_with_the_square_only_with_a_table(tmp_path, capsys):
    limit = bench.naive_peak(2, 16, 384) / 1e9
    lengths = (128, 256, 384, 512)
    rows = bench.bench_attention(lengths, 2, 16, steps=1, limit_gb=limit, out=tmp_path)
    found = {(row.name, row.seq_len): row for row in rows}
    assert (bench.NAIVE, 512) not in found and len(found) == 3 * 4 - 1
    for row in rows:
        assert row.saved == row.formula and row.seconds > 0
        if row.name == bench.NAIVE:
            assert row.peak == bench.naive_peak(2, 16, row.seq_len)
    for name, least, most in (
        (bench.NAIVE, 3.7, 4),
        (bench.BLOCKWISE, 1, 2),
        (bench.FUSED, 2, 2),
    ):
        growth = found[name, 256].peak / found[name, 128].peak
        assert least <= growth <= most
    printed = capsys.readouterr().out.split("\n")
    assert "2 heads of 16" in printed[0] and f"{rows[0].peak / 1e6:.2f}" in printed[2]
    check_figure(tmp_path, "attention_memory", rows)


def check_figure(folder, stem, rows):
    """Four files, of which the csv holds the rows and the json how to make them again."""
    for kind in ("png", "svg"):
        assert (folder / f"{stem}.{kind}").stat().st_size > 5000
    with (folder / f"{stem}.csv").open(encoding="utf-8") as file:
        drawn = list(csv.DictReader(file))
    assert [row["name"] for row in drawn] == [row.name for row in rows]
    assert [int(row["peak"]) for row in drawn] == [row.peak for row in rows]
    origin = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
    assert origin["command"].startswith("minillama bench ") and "--steps 1" in origin["command"]
    assert origin["settings"]["threads"] == torch.get_num_threads()
    assert "runs" not in origin and origin["hardware"]["cores"] >= 1


def test_lengths_must_be_positive():
    with pytest.raises(ConfigError, match="at least 1"):
        bench.bench_attention((0,))
