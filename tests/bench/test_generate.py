"""The comparison of generation compares equals, and its arithmetic is right."""

import stat
import sys

import pytest

from minillama.analysis.inference_budget import Machine
from minillama.bench import generate as bench
from minillama.bench.race import Timed
from minillama.config import ModelConfig
from minillama.errors import ConfigError, DataError
from minillama.model import Llama

PROGRAM = """import struct, sys
model, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2]))
header = struct.unpack("<7i", open(model, "rb").read(28))
assert header[0] == 16 and abs(header[5]) == 320, header
assert options["-t"] == "0" and options["-n"] == "7", options
assert open(options["-z"], "rb").read(4)
print("a text"); print("achieved tok/s: 123.500000", file=sys.stderr)
"""


@pytest.fixture
def tiny(monkeypatch):
    shape = ModelConfig(dim=16, n_layers=2, n_heads=2, vocab_size=320, multiple_of=8,
                        max_seq_len=32)  # fmt: skip
    monkeypatch.setattr(bench, "CONFIG", shape)


def script(path, text):
    """A program of our own; through a shell, as a #! line holds no path with blanks."""
    path.with_suffix(".py").write_text(text)
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$0.py" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_all_contenders_write_the_same(tiny, tmp_path, capsys):
    pytest.importorskip("transformers")
    program = script(tmp_path / "run", PROGRAM)
    rows = bench.bench_generate(tokens=6, rounds=2, llama2c=program)
    names = [bench.ALONE, bench.TOGETHER, bench.EIGHT, "transformers", "llama2.c"]
    assert [row.name for row in rows] == names
    by_name = {row.name: row for row in rows}
    assert by_name[bench.ALONE].equal == by_name["transformers"].equal == 6
    assert by_name[bench.TOGETHER].equal == 6
    assert by_name["llama2.c"].equal is None and by_name["llama2.c"].tokens_per_s == 123.5
    assert by_name[bench.ALONE].ratio == 1 and all(row.limit_share > 0 for row in rows)
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
    assert f"{bench.CONFIG.num_parameters():,} parameters" in shown


def test_rates_and_ratios_are_of_what_was_run(monkeypatch):
    monkeypatch.setattr(bench, "measure_machine", lambda: Machine(peak=1.0, bandwidth=1000.0))
    speeds = {"a": iter([1.0, 10, 20, 40]), "b": iter([1.0, 5, 40, 60])}
    ids = {"a": [1, 2, 3], "b": [1, 2, 4]}
    turns = {name: lambda name=name: Timed(1 / next(speeds[name]), ids[name]) for name in ids}
    a, b = bench.measure_generation(turns, {"a": 20, "b": 5}, 3)
    assert (a.tokens_per_s, a.best, a.ratio, a.limit_share, a.equal) == (20, 40, 1, 0.4, 3)
    assert (b.tokens_per_s, b.best, b.ratio, b.limit_share, b.equal) == (40, 60, 1.5, 0.2, 2)


def test_bytes_of_a_token_are_those_of_the_weights_it_uses():
    config = bench.CONFIG
    model = Llama(config)
    used = [w for name, w in model.named_parameters() if name != "tok_embeddings.weight"]
    assert bench.step_bytes(config) == 4 * (sum(w.numel() for w in used) + config.dim)
    assert 60e6 < bench.step_bytes(config) < 62e6  # llama2.c's stories15M


def test_what_cannot_be_compared_is_said(tiny, tmp_path):
    with pytest.raises(DataError, match="32 tokens do not fit the context of 32"):
        bench.bench_generate(tokens=32, rounds=1)
    with pytest.raises(ConfigError, match="0 rounds"):
        bench.bench_generate(tokens=1, rounds=0)
    silent = script(tmp_path / "silent", "")
    for binary, said in ((tmp_path / "none", "does not run"), (silent, "no tokens a second")):
        with pytest.raises(ConfigError, match=said):
            bench.bench_generate(tokens=3, rounds=1, llama2c=binary)


def test_without_transformers_it_is_left_out(tiny, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    rows = bench.bench_generate(tokens=3, rounds=1)
    assert [row.name for row in rows] == [bench.ALONE, bench.TOGETHER, bench.EIGHT]
    assert "transformers is not installed: left out" in capsys.readouterr().out


def test_words_are_a_vocabulary_of_any_size():
    tokenizer = bench.make_vocabulary(400)
    assert tokenizer.vocab_size == 400
    assert tokenizer.decode(tokenizer.encode("w7 x")) == "w7 x"
