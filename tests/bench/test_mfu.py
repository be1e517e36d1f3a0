"""Training speed as a share of the peak: what is counted, on a CPU, end to end."""

import json

import pytest

from minillama.bench import mfu as bench
from minillama.config import ModelConfig
from minillama.errors import ConfigError
from minillama.parallel.memory import flops_per_token, recognize_gpu

TINY = ModelConfig(64, 3, 2, vocab_size=128, multiple_of=16, max_seq_len=48)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(bench.SIZES, "tiny", TINY)


def test_the_table_and_the_record(tiny, tmp_path, capsys):
    out = tmp_path / "mfu.json"
    kept = ("none", "selective", "by_hand", "full")
    rows = bench.bench_mfu(("tiny",), kept, steps=1, peak_tflops=0.5, out=out)
    assert [row.name for row in rows] == [*kept, "Hugging Face"]
    for row in rows:
        assert row.parameters == TINY.num_parameters()
        # the definition: FLOP that were needed, over those that the peak allows in that time
        flops = flops_per_token(TINY, TINY.max_seq_len, embedding=False)
        assert row.mfu == pytest.approx(flops * row.tokens_per_s / 0.5e12)
        assert row.ratio > 0 and (row.name != "Hugging Face" or row.ratio == 1)
    for row in rows[:-1]:
        assert row.memory == pytest.approx(row.estimate, rel=0.10)
    assert rows[0].memory > rows[1].memory > rows[2].memory > rows[3].memory
    assert rows[-1].memory > 16 * TINY.num_parameters() and rows[-1].estimate == 0
    printed = capsys.readouterr().out
    assert "0.5 TFLOP/s (as given)" in printed and f"{rows[2].tokens_per_s:,.0f}" in printed
    told = json.loads(out.read_text(encoding="utf-8"))
    assert told["rows"][0]["memory"] == rows[0].memory and told["models"]["tiny"]["dim"] == 64
    assert "--kept none selective by_hand full" in told["command"]
    assert told["setting"]["peak_flops"] == 0.5e12 and told["hardware"]["cores"] >= 1


def test_both_contenders_take_the_same_steps(tiny):
    """From the same weights; see test_train for the same loss and gradient."""
    setting = bench.Setting(2, "cpu", bfloat16=True, compile=False)
    found, _ = bench.train_in_turn(TINY, ("none", "by_hand"), setting, steps=2, beside=False)
    plain, by_hand = found.values()
    by_hand.model.load_state_dict(plain.model.state_dict())
    by_hand.optimizer.load_state_dict(plain.optimizer.state_dict())
    assert plain.step() == pytest.approx(by_hand.step(), rel=1e-2)


def test_the_default_size_on_a_gpu():
    """About 1.3 billion parameters, of which the embedding does no arithmetic."""
    config = bench.find_size("1.3b", None)
    assert config.num_parameters() == pytest.approx(1.3e9, rel=0.05) and config.max_seq_len == 2048
    assert bench.find_size("1.3b", 1024).max_seq_len == 1024
    assert bench.find_size("mini-7b", None) == ModelConfig.from_name("mini-7b")


@pytest.mark.parametrize(
    ("device", "key"),
    [
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("Tesla T4", "t4"),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA GeForce RTX 3090", None),
    ],
)
def test_gpus_are_recognized_by_name(device, key):
    assert recognize_gpu(device) == key


def test_what_cannot_be_measured(tiny):
    with pytest.raises(ConfigError, match="at least 1 step"):
        bench.bench_mfu(("tiny",), steps=0)
    with pytest.raises(ConfigError, match="1 sequence"):
        bench.bench_mfu(("tiny",), micro_batch=-1)
    with pytest.raises(ConfigError, match="peak-tflops"):
        bench.bench_mfu(("tiny",), peak_tflops=-3.0)
    with pytest.raises(ConfigError, match="1.4b"):
        bench.bench_mfu(("1.4b",))
