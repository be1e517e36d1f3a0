"""Batches of sequences against each alone, against no cache, and against Hugging Face."""

import math

import pytest
import torch
from generation import random_model, recompute, written
from hypothesis import given, settings
from hypothesis import strategies as st

from minillama.errors import CheckpointError, ConfigError, DataError
from minillama.inference import Sampling, generate_tokens, row_seed
from minillama.inference.decoder import Decoder
from minillama.inference.engine import Engine
from minillama.inference.kv_cache import KVCache, cache_bytes
from minillama.inference.quantize import quantized
from minillama.interop import huggingface

GREEDY = Sampling(0.0)
STYLES = st.builds(
    Sampling, st.sampled_from([0.0, 0.7, 1.5]), st.sampled_from([None, 3]),
    st.sampled_from([None, 0.9]), st.sampled_from([1.0, 1.3]),
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 49), min_size=1, max_size=20), min_size=1, max_size=6),
    STYLES, st.integers(0, 12), st.integers(1, 7), st.integers(0, 2**40),
)  # fmt: skip
def test_any_batch_is_each_prompt_alone_without_a_cache(prompts, sampling, n, size, seed):
    model = random_model()
    ours = generate_tokens(model, prompts, sampling, n, seed=seed, batch_size=size)
    for i, prompt in enumerate(prompts):
        assert ours[i] == recompute(model, prompt, sampling, n, row_seed(seed, i))


def test_a_prompt_alone_is_the_first_row():
    model = random_model()
    assert [written(model, [1, 2], Sampling(), 9, 5)] == generate_tokens(
        model, [[1, 2]], Sampling(), 9, seed=5
    )


def test_200_greedy_tokens_are_hugging_faces():
    transformers = pytest.importorskip("transformers")
    model = random_model(1, torch.float32, dim=48, vocab_size=320, max_seq_len=256)
    config = transformers.LlamaConfig(**huggingface.config_to_huggingface(model.config))
    theirs = transformers.LlamaForCausalLM(config).eval()
    theirs.load_state_dict(huggingface.to_huggingface(model.state_dict(), model.config))
    theirs.generation_config.eos_token_id = None
    prompts = [[1, 7, 30], [1, 4, 4, 9, 12, 3]]
    for penalty in (1.0, 1.3):
        sampling = Sampling(0.0, repetition_penalty=penalty)
        ours = generate_tokens(model, prompts, sampling, 200)
        for prompt, mine in zip(prompts, ours, strict=True):
            ids = torch.tensor([prompt])
            out = theirs.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=200,
                repetition_penalty=penalty, pad_token_id=0,
            )  # fmt: skip
            assert mine == out[0, len(prompt) :].tolist()
            assert len(set(mine[100:])) > 5


@pytest.fixture
def reads(monkeypatch):
    """How many rows and positions of each were read, pass by pass."""
    shapes, read = [], KVCache.read
    monkeypatch.setattr(
        KVCache, "read", lambda self, model, tokens: shapes.append(tuple(tokens.shape))
        or read(self, model, tokens),
    )  # fmt: skip
    return shapes


def test_samples_of_one_prompt_differ_and_read_it_once(reads):
    model, prompts = random_model(), [[1, 2], [1, 3], [1, 2], [1, 2]]
    ours = generate_tokens(model, prompts, Sampling(1.0, None, None), 12)
    assert reads == [(2, 2)] + [(4, 1)] * 11
    assert len({tuple(ids) for ids in ours}) == 4
    for i, prompt in enumerate(prompts):
        assert ours[i] == recompute(model, prompt, Sampling(1.0, None, None), 12, row_seed(0, i))


def test_finished_rows_stop_counting(reads):
    model, wanted = random_model(), [1, 6, 3, 6]
    prompts = [[1, 2], [3], [4, 5, 6], [7]]
    ours = generate_tokens(
        model, prompts, GREEDY, 10, finished=lambda i, new: len(new) == wanted[i]
    )
    assert [len(ids) for ids in ours] == wanted
    assert reads == [(4, 3), (3, 1), (3, 1), (2, 1), (2, 1), (2, 1)]
    for prompt, mine in zip(prompts, ours, strict=True):
        assert mine == recompute(model, prompt, GREEDY, 10, 0)[: len(mine)]


def test_seeds_of_rows_are_their_own():
    assert row_seed(7, 0) == 7
    seeds = {row_seed(seed, row) for seed in range(30) for row in range(30)}
    assert len(seeds) == 900
    for seed in seeds:
        torch.Generator().manual_seed(seed)


def held(engine: Engine) -> int:
    """Bytes of the cache."""
    tensors = (*engine.cache.keys, *engine.cache.values)
    return sum(t.untyped_storage().nbytes() for t in tensors)


def test_the_cache_never_grows_whatever_is_asked_for():
    """10,000 tokens from a context of 20: it stops when full, in the memory of the formula."""
    model = random_model(dtype=torch.float32)
    engine = Engine(model, [[1, 2, 3]], GREEDY, [0], 10_000)
    formula = cache_bytes(model.config, 20)
    for _ in range(18):
        engine.step()
        assert held(engine) == formula
    for _ in range(100):
        with pytest.raises(DataError, match="position 21 is beyond the 20"):
            engine.step()
        assert held(engine) == formula
    assert len(generate_tokens(model, [[1, 2, 3]], GREEDY, 10_000)[0]) == 18
    short = Engine(model, [[1, 2, 3], [4]], GREEDY, [0, 1], 5)
    short.step()
    assert held(short) == cache_bytes(model.config, 3 + 5 - 1, 2)  # the last token is not read


@pytest.mark.parametrize("prompt, said", [([], "0 tokens"), ([1] * 21, "21 tokens")])
def test_prompts_that_fit_no_context_are_refused(prompt, said):
    with pytest.raises(DataError, match=said):
        generate_tokens(random_model(), [[1], prompt], GREEDY, 3)


def test_a_damaged_model_is_stopped():
    model = random_model()
    with torch.no_grad():
        model.norm.weight.fill_(1e3)
        model.output.weight.fill_(1e308)  # a number, but its products are none
    with pytest.raises(DataError, match="not finite"):
        generate_tokens(model, [[1], [2, 3]], GREEDY, 3)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["attention.wq", "attention.wk", "feed_forward.w2"])
@pytest.mark.parametrize("pack", [Decoder, quantized])
def test_damaged_weights_are_named_even_if_attention_would_hide_them(bad, name, pack):
    model = random_model(dtype=torch.float32)
    with torch.no_grad():
        model.layers[1].get_submodule(name).weight[2, 3] = bad
    with pytest.raises(CheckpointError, match=f"'layers.1.{name}.weight' has 1 of"):
        pack(model)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_seeds_of_more_than_64_bits_are_refused(seed):
    with pytest.raises(ConfigError, match="seed = "):
        generate_tokens(random_model(), [[1]], GREEDY, 3, seed=seed)
    assert generate_tokens(random_model(), [[1]], GREEDY, 1, seed=2**64 - 1)


def test_nothing_asked_for_is_nothing():
    assert generate_tokens(random_model(), [[1], [2]], GREEDY, 0) == [[], []]
    assert generate_tokens(random_model(), [], GREEDY, 5) == []
