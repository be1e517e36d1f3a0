"""The comparison of training compares equals, and counts what it says, on a CPU, end to end."""

import json

import pytest
import torch

from minillama.bench import train as bench
from minillama.config import ModelConfig
from minillama.errors import ConfigError
from minillama.interop.huggingface import to_huggingface
from minillama.model import Llama
from minillama.parallel.memory import flops_per_token, memory_per_gpu, recognize_gpu

TINY = ModelConfig(64, 3, 2, vocab_size=128, multiple_of=16, max_seq_len=48)


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(bench.SIZES, "tiny", TINY)
    monkeypatch.setitem(bench.SIZES, "128", TINY)


def test_both_contenders_compute_the_same_loss_and_gradient():
    torch.manual_seed(0)
    ours, our_loss = bench.build_minillama(TINY, "none")
    reference, reference_loss = bench.build_huggingface(TINY)
    reference.load_state_dict(to_huggingface(ours.state_dict(), TINY))
    assert sum(p.numel() for p in reference.parameters()) == TINY.num_parameters()
    batch = torch.randint(0, TINY.vocab_size, (4, 17))
    inputs, targets = batch[:, :-1], batch[:, 1:].contiguous()
    torch.testing.assert_close(ours(inputs), reference(inputs).logits, rtol=1e-4, atol=1e-5)
    losses = [our_loss(inputs, targets), reference_loss(inputs, targets)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    for loss in losses:
        loss.backward()
    down = reference.model.layers[0].mlp.down_proj
    pairs = [
        (ours.output, reference.lm_head),
        (ours.tok_embeddings, reference.model.embed_tokens),
        (ours.layers[0].feed_forward.w2, down),
    ]
    for own, other in pairs:
        torch.testing.assert_close(own.weight.grad, other.weight.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("keep_memory", [True, False])
def test_training_has_a_row_for_both_at_every_width(tiny, keep_memory, monkeypatch, capsys):
    tuned = []
    monkeypatch.setattr(bench, "keep_freed_memory", lambda: tuned.append(True))
    rows = bench.bench_train(widths=(128,), steps=3, batch=4, keep_memory=keep_memory)
    assert [(row.size, row.name) for row in rows] == [("128", "none"), ("128", "Hugging Face")]
    assert tuned == [True] * keep_memory
    assert all(0 < row.mfu < 1 and row.tokens_per_s > 0 for row in rows)
    printed = capsys.readouterr().out.split("\n")
    assert "4 sequences a step" in printed[0] and f"{rows[0].ratio:.2f}x" in printed[2]


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
        how = {"recompute": row.name, "products": "float32", "device": "cpu"}
        estimate = memory_per_gpu(TINY, micro_batch=4, passes=1, **how)
        assert row.memory == pytest.approx(sum(estimate.values()), rel=0.10)
    assert rows[0].memory > rows[1].memory > rows[2].memory > rows[3].memory
    assert rows[-1].memory > 16 * TINY.num_parameters()
    printed = capsys.readouterr().out
    assert "0.5 TFLOP/s" in printed and f"{rows[2].tokens_per_s:,.0f}" in printed
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["rows"][0]["memory"] == rows[0].memory
    assert "--kept none selective by_hand full" in record["command"]
    assert record["settings"]["peak_flops"] == 0.5e12 and record["hardware"]["cores"] >= 1


def test_all_backwards_take_the_same_steps():
    setting = bench.Setting(2, "cpu", bfloat16=True, compile=False)
    batch = torch.randint(TINY.vocab_size, (2, TINY.max_seq_len + 1))
    plain, by_hand = (
        bench.Trainee(bench.build_minillama(TINY, kept), batch, setting)
        for kept in ("none", "by_hand")
    )
    plain.step()
    by_hand.step()
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


@pytest.mark.parametrize("width", ["128", "256", "384"])
def test_flops_are_counted_as_pytorch_counts_them(width):
    """Without attention's products, forward and backward of a matrix weight cost 6 FLOP a token."""
    from torch.utils.flop_counter import FlopCounterMode

    config = bench.SIZES[width]
    length = config.max_seq_len
    with torch.device("meta"):
        model = Llama(config)
        tokens = torch.zeros(1, length, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(tokens).sum().backward()
    by_operation = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in by_operation.items() if "bmm" not in str(op))
    attention = 12 * config.n_layers * config.dim * length // 2
    norms = 6 * (2 * config.n_layers + 1) * config.dim  # vectors, counted like matrices: 0.1%
    flops = flops_per_token(config, length, embedding=False)
    assert products / length == flops - attention - norms
