"""The speed comparison compares equals: the same function, parameters, batch and optimizer."""

import multiprocessing

import pytest
import torch

from minillama.bench import train as bench
from minillama.model import Llama
from minillama.parallel.memory import flops_per_token

RENAMED = {
    "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}  # fmt: skip
OUTER = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}


@pytest.fixture
def tiny(monkeypatch):
    """Sizes of a second, in processes that are forked and so know them."""
    monkeypatch.setattr(bench, "WIDTHS", {16: (2, 2), 32: (1, 2)})
    monkeypatch.setattr(bench, "BATCH", 4)
    monkeypatch.setattr(bench, "SEQ_LEN", 16)
    monkeypatch.setattr(bench, "VOCAB", 64)
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(bench.multiprocessing, "get_context", lambda _: fork)


def copied(ours, theirs):
    """Give Hugging Face's model the weights of ours."""
    state = {}
    for name, weight in ours.state_dict().items():
        stem = name.removesuffix(".weight")
        if stem in OUTER:
            state[f"{OUTER[stem]}.weight"] = weight
            continue
        _, layer, part = stem.split(".", 2)
        if part in ("attention.wq", "attention.wk"):  # from neighboring pairs to halves
            heads = ours.config.n_heads
            weight = (
                weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
            )
        state[f"model.layers.{layer}.{RENAMED[part]}.weight"] = weight
    theirs.load_state_dict(state)


@pytest.mark.parametrize("width", [16, 32])
def test_both_contenders_compute_the_same_loss_and_gradient(tiny, width):
    torch.manual_seed(0)
    config = bench.model_config(width)
    ours, our_loss = bench.build_minillama(config)
    theirs, their_loss = bench.build_huggingface(config)
    copied(ours, theirs)
    assert sum(p.numel() for p in theirs.parameters()) == config.num_parameters()
    batch = torch.randint(0, bench.VOCAB, (4, 17))
    inputs, targets = batch[:, :-1], batch[:, 1:].contiguous()
    torch.testing.assert_close(ours(inputs), theirs(inputs).logits, rtol=1e-4, atol=1e-5)
    losses = [our_loss(inputs, targets), their_loss(inputs, targets)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-5)
    for loss in losses:
        loss.backward()
    pairs = [(ours.output, theirs.lm_head), (ours.tok_embeddings, theirs.model.embed_tokens),
             (ours.layers[0].feed_forward.w2, theirs.model.layers[0].mlp.down_proj)]  # fmt: skip
    for mine, other in pairs:
        torch.testing.assert_close(mine.weight.grad, other.weight.grad, rtol=1e-3, atol=1e-6)


def test_the_table_has_a_row_for_every_width_and_setting(tiny, capsys):
    rows = bench.bench_train(widths=(16, 32), steps=3)
    assert [(r.width, r.setting) for r in rows] == [
        (width, setting) for width in (16, 32) for setting in ("as shipped", "same allocator")
    ]
    for row in rows:
        assert row.parameters == bench.model_config(row.width).num_parameters()
        assert row.minillama > 0 and row.huggingface > 0 and row.ratio > 0
        assert 0 < row.ceiling_share < 1
    printed = capsys.readouterr().out.split("\n")
    assert "4 x 16 tokens a step" in printed[0]
    assert f"{rows[0].ratio:.2f}" in printed[2] and f"{rows[0].minillama:,.0f}" in printed[2]


@pytest.mark.parametrize("width", bench.WIDTHS)
def test_flops_are_counted_as_pytorch_counts_them(width, monkeypatch):
    """Without attention's products, forward and backward of a matrix weight cost 6 FLOP a token."""
    from torch.utils.flop_counter import FlopCounterMode

    monkeypatch.setattr(bench, "VOCAB", 256)
    config = bench.model_config(width)
    with torch.device("meta"):
        model = Llama(config)
        tokens = torch.zeros(1, bench.SEQ_LEN, dtype=torch.int64)
    with FlopCounterMode(display=False) as counter:
        model(tokens).sum().backward()
    by_operation = counter.get_flop_counts()["Global"]
    products = sum(n for op, n in by_operation.items() if "bmm" not in str(op))
    attention = 12 * config.n_layers * config.dim * bench.SEQ_LEN // 2
    norms = 6 * (2 * config.n_layers + 1) * config.dim  # vectors, counted like matrices: 0.1%
    flops = flops_per_token(config, bench.SEQ_LEN, embedding=False)
    assert products / bench.SEQ_LEN == flops - attention - norms
