"""The whole model: causality, names, first values, limits, and the cache in its attention."""

import math

import pytest
import torch
import torch.nn.functional as F

from minillama.config import ModelConfig
from minillama.errors import DataError
from minillama.model import Llama

CONFIG = ModelConfig(dim=32, n_layers=3, n_heads=4, vocab_size=50, multiple_of=8, max_seq_len=24)


def model_and_tokens(seed: int = 0, dtype: torch.dtype = torch.float32):
    torch.manual_seed(seed)
    return Llama(CONFIG).to(dtype), torch.randint(50, (2, 24))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_no_logit_depends_on_a_later_token(dtype):
    model, tokens = model_and_tokens(dtype=dtype)
    before = model(tokens)
    for t in range(23):
        changed = tokens.clone()
        changed[:, t + 1] = (changed[:, t + 1] + 1) % 50
        after = model(changed)
        assert torch.equal(after[:, : t + 1], before[:, : t + 1])
        assert not torch.equal(after[:, t + 1], before[:, t + 1])  # and it is looked at


def test_every_earlier_token_matters():
    model, tokens = model_and_tokens(dtype=torch.float64)
    x = model.tok_embeddings(tokens).detach().requires_grad_()
    hidden = x
    for layer in model.layers:
        hidden = layer(hidden, model.rotary)
    hidden[:, 10].square().sum().backward()
    reached = x.grad.abs().amax(dim=(0, 2)) > 0
    assert reached.tolist() == [True] * 11 + [False] * 13


def test_sequences_of_a_batch_do_not_mix():
    model, tokens = model_and_tokens()
    changed = tokens.clone()
    changed[1] = 0
    assert torch.equal(model(changed)[0], model(tokens)[0])


def test_keys_are_metas():
    expected = {"tok_embeddings.weight", "norm.weight", "output.weight"}
    for i in range(3):
        expected |= {f"layers.{i}.attention.{w}.weight" for w in ("wq", "wk", "wv", "wo")}
        expected |= {f"layers.{i}.feed_forward.{w}.weight" for w in ("w1", "w2", "w3")}
        expected |= {f"layers.{i}.attention_norm.weight", f"layers.{i}.ffn_norm.weight"}
    model, _ = model_and_tokens()
    assert set(model.state_dict()) == expected


def test_first_weights_have_the_stated_spread():
    torch.manual_seed(0)
    model = Llama(ModelConfig(dim=128, n_layers=8, n_heads=4, vocab_size=512, multiple_of=16))
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            assert torch.equal(weight, torch.ones(128)), name
            continue
        writes = name.endswith(("wo.weight", "w2.weight"))
        std = 1 / math.sqrt(128 * 16 if writes else 128)
        std = {"tok_embeddings.weight": 1.0, "output.weight": 0.02}.get(name, std)
        n = weight.numel()  # five standard errors either way
        assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * n)), name
        assert abs(weight.mean().item()) < 5 * std / math.sqrt(n), name
        assert weight.abs().max() < 6 * std, name


def test_first_loss_is_that_of_a_guess():
    model, tokens = model_and_tokens()
    loss = model(tokens, targets=tokens.flip(1))
    assert loss.item() == pytest.approx(math.log(50), abs=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_loss_is_the_cross_entropy_of_the_logits(dtype):
    model, tokens = model_and_tokens(dtype=dtype)
    targets = tokens.roll(-1, 1)
    targets[:, -1] = -100
    expected = F.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
    ours = model(tokens, targets=targets)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, expected)


def test_too_long_a_sequence_is_an_error_with_both_numbers():
    model, tokens = model_and_tokens()
    with pytest.raises(DataError, match="25 tokens exceeds the context of 24"):
        model(torch.cat([tokens, tokens[:, :1]], dim=1))


def test_with_sixteen_bit_weights_the_loss_has_thirty_two():
    model, tokens = model_and_tokens(dtype=torch.bfloat16)
    loss = model(tokens, targets=tokens)
    loss.backward()
    assert loss.dtype == torch.float32
    assert all(weight.grad.dtype == torch.bfloat16 for weight in model.parameters())
