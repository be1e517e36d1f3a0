"""The packed copy of a model against the model itself."""

import pytest
import torch
from generation import random_model
from hypothesis import given, settings
from hypothesis import strategies as st

from minillama.config import ModelConfig
from minillama.errors import DataError
from minillama.inference import Sampling
from minillama.inference import decoder as decoder_module
from minillama.inference.decoder import Decoder
from minillama.inference.engine import Engine
from minillama.inference.kv_cache import cache_bytes, new_cache
from minillama.inference.quantize import quantize, quantized
from minillama.model import Llama


def last_logits(model: Llama, prompts: list[list[int]]) -> torch.Tensor:
    """After the last id of each, one by one and without a cache."""
    with torch.no_grad():
        return torch.stack([model(torch.tensor([prompt]))[0, -1] for prompt in prompts])


@pytest.mark.parametrize("dtype, close", [
    (torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.15),
], ids=str)  # fmt: skip
def test_logits_are_the_models(dtype, close):
    model = random_model(dtype=dtype)
    tokens = torch.randint(50, (3, 20))
    ours = Decoder(model)(tokens)
    assert ours.dtype == dtype
    with torch.no_grad():
        torch.testing.assert_close(ours, model(tokens), rtol=close, atol=close)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 49), min_size=1, max_size=12), min_size=1, max_size=5),
    st.integers(0, 7), st.sampled_from([Llama, Decoder]),
)  # fmt: skip
def test_any_batch_of_prompts_steps_as_each_alone(prompts, steps, kind):
    model = random_model()
    engine = Engine(model, prompts, Sampling(1.0, None, None), range(len(prompts)), steps + 1)
    if kind is Llama:
        engine.decoder = model  # an engine needs no packed weights
    for _ in range(steps + 1):
        expected = last_logits(model, engine.ids)
        engine.step()
        torch.testing.assert_close(engine.logits, expected, rtol=1e-9, atol=1e-9)


def test_what_fills_up_short_prompts_is_never_seen():
    """Not even by a position that stands where the filling stood."""
    logits = []
    for garbage in (0.0, 1e6):
        engine = Engine(random_model(), [[1, 2], [1] * 15], Sampling(0.0), [0, 0], 5)
        engine.step()
        with torch.inference_mode():
            for held in (*engine.cache.keys, *engine.cache.values):
                held[0, :, 2:] = garbage
        engine.step()
        logits.append(engine.logits)
    assert torch.equal(*logits)


def test_memory_that_was_used_before_does_no_harm(monkeypatch):
    """A row does not look behind its end, but 0 times NaN would be NaN."""
    monkeypatch.setattr(
        torch.Tensor, "new_empty", lambda like, shape: like.new_full(shape, float("nan"))
    )
    engine = Engine(random_model(), [[1, 2], [1] * 15], Sampling(0.0), [0, 0], 5)
    for _ in range(3):
        engine.step()  # refuses logits that are not finite


def test_stripes_change_nothing(monkeypatch):
    weights = [torch.randn(6, 5, dtype=torch.float64), torch.randn(4, 5, dtype=torch.float64)]
    x = torch.randn(3, 5, dtype=torch.float64)
    monkeypatch.setattr(decoder_module, "STRIPED", 1)
    for threads in (1, 2, 5, 3):  # three do not divide ten rows
        monkeypatch.setattr(torch, "get_num_threads", lambda n=threads: n)
        ours = decoder_module.transposed(*weights)(x)
        torch.testing.assert_close(ours, torch.cat([x @ w.T for w in weights], dim=1))


def test_the_model_is_left_alone_and_not_followed():
    model = random_model()
    tokens = torch.tensor([[1, 2, 3]])
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    packed = Decoder(model)
    first = packed(tokens)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name])
    assert all(weight.requires_grad for weight in model.parameters())
    with torch.no_grad():
        model.layers[0].attention.wq.weight.zero_()
    assert torch.equal(packed(tokens), first)
    assert not torch.equal(Decoder(model)(tokens), first)


def test_beyond_context_or_cache_is_an_error():
    model, tokens = random_model(), torch.ones(1, 21, dtype=torch.int64)
    packed = Decoder(model)
    with pytest.raises(DataError, match="position 21 is beyond the 20"):
        packed(tokens)
    for reader in (model, packed):
        short = new_cache(model.config, 4, like=model.output.weight)
        short.read(reader, tokens[:, :4])
        with pytest.raises(DataError, match="position 5 is beyond the 4"):
            short.read(reader, tokens[:, :1])


def test_cache_memory_is_the_formulas():
    for dtype, size in ((torch.float32, 4), (torch.bfloat16, 2), (torch.float64, 8)):
        config = ModelConfig(dim=24, n_layers=3, n_heads=3, vocab_size=50)
        cache = new_cache(config, 17, 5, like=torch.empty(0, dtype=dtype))
        held = sum(t.untyped_storage().nbytes() for t in (*cache.keys, *cache.values))
        assert held == cache_bytes(config, 17, 5, size)
    full = ModelConfig.from_name("7b")
    assert cache_bytes(full, 1, bytes_each=2) == 2**19  # 0.5 MiB a position


@pytest.mark.parametrize("rows, width", [(320, 32), (37, 16), (50, 100), (7, 300), (1, 2)])
def test_int8_is_off_by_half_a_scale_at_most(rows, width):
    torch.manual_seed(0)
    weight = torch.randn(rows, width)
    weight[0] = 0
    numbers, scales = quantize(weight)
    assert numbers.dtype == torch.int8 and scales.dtype == torch.bfloat16
    back = numbers.double() * scales.double()[:, None]
    assert ((back - weight).abs() <= scales.double()[:, None] * 0.5 * (1 + 1e-6)).all()
    largest = numbers.abs().amax(1)
    assert largest.max() <= 127 and (largest[1:] >= 126).all()  # no scale is wasted


@pytest.mark.parametrize("mantissa", [1.0, 1.003, 1.005, 1.253, 1.5, 1.503, 1.753, 1.99])
def test_int8_scale_is_the_smallest_that_covers(mantissa):
    """Among all bfloat16, by trying them out."""
    largest = mantissa * 127
    _, [scale] = quantize(torch.tensor([[largest, -0.5]]))
    every = torch.arange(0, 0x7F80).to(torch.int16).view(torch.bfloat16).double()
    wanted = float(torch.tensor(largest)) / 127
    covering = every[every >= wanted * (1 - 1e-7)]  # the quotient is rounded to float32
    assert scale.double() == covering.min()


@pytest.mark.parametrize("dim, heads, vocab", [(24, 3, 50), (100, 2, 37), (32, 2, 320)])
def test_int8_logits_are_those_of_the_rounded_weights(dim, heads, vocab):
    """Widths that are no multiple of the kernel's block, too."""
    model = random_model(dtype=torch.float32, dim=dim, n_heads=heads, vocab_size=vocab)
    packed = quantized(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and not name.startswith("tok"):
                numbers, scales = quantize(weight)
                weight.copy_(numbers.float() * scales.float()[:, None])
        tokens = torch.randint(vocab, (2, 20))
        expected = model(tokens)
    error = (packed(tokens) - expected).std() / expected.std()
    assert error < 0.02  # activations and results have 8 bits of mantissa
