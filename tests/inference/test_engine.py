"""Generation against full recomputation, and what may never be yielded."""

import sys

import pytest
import torch
from generation import Scripted, recompute, text_model, written
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny import TinyCorpus

import minillama
from minillama.config import ModelConfig
from minillama.errors import CheckpointError, ConfigError, DataError
from minillama.inference import Sampling, complete, generate, row_seed
from minillama.inference.kv_cache import new_cache
from minillama.inference.text import StopAt, stream
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

PROMPT = "The old miller"
STYLES = {"greedy": Sampling(0.0), "default": Sampling(), "top-k": Sampling(1.3, 20, None),
          "everything": Sampling(1.0, None, None)}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tiny_corpus: TinyCorpus) -> Tokenizer:
    return Tokenizer.load(tiny_corpus.folder / "tokenizer.model")


def say(tokenizer: Tokenizer, ids: list[int], prompt: str = "x", **options: object) -> list[str]:
    """What is yielded while the model says these ids."""
    model = Scripted(ids, tokenizer)
    options = {"max_new_tokens": len(ids), "temperature": 0.0} | options
    return list(stream(model, tokenizer, prompt, **options))


def byte_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """The text spelled in single bytes."""
    return [tokenizer._byte_ids[byte] for byte in text.encode()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("style", STYLES)
def test_cached_equals_recomputed(style, dtype, tokenizer):
    prompt = tokenizer.encode(PROMPT, bos=True)
    for seed in range(3):
        model = text_model(seed, dtype)
        ours = written(model, prompt, STYLES[style], 25, seed)
        assert ours == recompute(model, prompt, STYLES[style], 25, seed)
        assert len(set(ours)) > (1 if style == "greedy" else 10)


def test_text_is_that_of_the_tokens(tokenizer):
    ids = tokenizer.encode(PROMPT, bos=True)
    for seed in range(5):
        new = recompute(text_model(seed), ids, Sampling(), 20, seed)
        new = new[: new.index(2)] if 2 in new else new
        text = generate(text_model(seed), tokenizer, PROMPT, max_new_tokens=20, seed=seed)
        assert (PROMPT + text).rstrip("\ufffd") == tokenizer.decode(ids + new).rstrip("\ufffd")


def test_seed_decides(tokenizer):
    texts = [generate(text_model(), tokenizer, PROMPT, seed=seed, max_new_tokens=20)
             for seed in (1, 1, 2)]  # fmt: skip
    assert texts[0] == texts[1] != texts[2]


def test_a_list_of_prompts_is_each_alone(tokenizer):
    prompts = ["a", "", "The river was quiet", "a"]
    together = generate(text_model(), tokenizer, prompts, max_new_tokens=8, seed=3)
    assert together == [
        generate(text_model(), tokenizer, prompt, max_new_tokens=8, seed=row_seed(3, i))
        for i, prompt in enumerate(prompts)
    ]
    assert together[0] != together[3]  # a sample each
    assert generate(text_model(), tokenizer, []) == []


def test_every_row_of_a_batch_ends_for_its_own_reason(tokenizer):
    model = text_model()
    everything = {"max_new_tokens": 30, "temperature": 1.0, "top_p": None}
    prompts = [PROMPT, "river " * 7, "The", "a"] * 4
    first = complete(model, tokenizer, prompts, **everything)
    stop = [first[0].text[3:5], "e", "Z"]
    results = complete(model, tokenizer, prompts, **everything, stop=stop, batch_size=5)
    assert {"stop", "length"} <= {each.finish for each in results}
    for i, (prompt, ours) in enumerate(zip(prompts, results, strict=True)):
        alone = stream(model, tokenizer, prompt, **everything, stop=stop, seed=row_seed(0, i))
        assert "".join(alone) == ours.text
        assert (alone.finish, alone.tokens) == (ours.finish, ours.tokens)


def test_says_why_it_ended(tokenizer):
    river, end = tokenizer.encode("the river"), tokenizer.eos_id
    for ids, options, finish, tokens in [
        ([*river, end], {"max_new_tokens": 100}, "end", len(river) + 1),
        (river, {"stop": "riv"}, "stop", None),
        (river, {"max_new_tokens": 2}, "length", 2),
        (river, {"max_new_tokens": 0}, "length", 0),
    ]:
        model = Scripted(ids, tokenizer)
        options = {"max_new_tokens": len(ids), **options}
        text = stream(model, tokenizer, "x", temperature=0.0, **options)
        assert text.finish is None
        list(text)
        assert text.finish == finish and text.tokens == (tokens or text.tokens)
    text = stream(text_model(), tokenizer, PROMPT, max_new_tokens=10_000)
    list(text)
    n_prompt = len(tokenizer.encode(PROMPT, bos=True))
    assert (text.finish, text.tokens) == ("context", 48 - n_prompt + 1)
    [together] = complete(text_model(), tokenizer, [PROMPT], max_new_tokens=10_000)
    assert (together.finish, together.tokens) == (text.finish, text.tokens)


def test_a_huge_prompt_is_refused_before_it_is_encoded(tokenizer, monkeypatch):
    def encode(*_, **__):
        raise AssertionError("encoded")

    monkeypatch.setattr(Tokenizer, "encode", encode)
    for text in ("x" * 2**20, " " * 2**20, "\ud800" * 2**20):
        with pytest.raises(DataError, match="tokens or more exceeds the context of 48"):
            generate(text_model(), tokenizer, text)


def test_characters_are_never_split(tokenizer):
    text = "é👩‍👧 مرحبا a\u2581b\0 你好"
    pieces = say(tokenizer, byte_ids(tokenizer, text))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece for piece in pieces)
    assert len(pieces) == len(text)  # and each as soon as it is whole


def test_an_unfinished_character_is_left_out_and_a_broken_one_shown(tokenizer):
    ids = byte_ids(tokenizer, "ab👩")
    assert "".join(say(tokenizer, ids[:-1])) == "ab"
    assert "".join(say(tokenizer, [*ids[:-1], *byte_ids(tokenizer, "c")])) == "ab\ufffdc"


def test_the_tokenizers_first_space_is_taken_off_only_at_the_start(tokenizer):
    ids = tokenizer.encode("the river")
    assert "".join(say(tokenizer, ids, prompt="")) == "the river"
    assert "".join(say(tokenizer, ids, prompt="by")) == " the river"


def test_ends_at_the_end_mark(tokenizer):
    river, more = tokenizer.encode("the river"), tokenizer.encode("more")
    assert "".join(say(tokenizer, [*river, tokenizer.eos_id, *more], prompt="")) == "the river"
    assert say(tokenizer, [tokenizer.eos_id, *more]) == []


def cut(text: str, stop: list[str]) -> str:
    """Up to the stop string that is complete first, one character after the other."""
    for end in range(1, len(text) + 1):
        if found := [s for s in stop if text[:end].endswith(s)]:
            return text[: end - max(map(len, found))]
    return text


def test_no_part_of_a_stop_string_is_yielded(tokenizer):
    @settings(max_examples=300, deadline=None)
    @given(
        st.lists(st.text("abé", min_size=1, max_size=5), max_size=12),
        st.lists(st.text("abé", min_size=1, max_size=4), max_size=3),
    )
    @example(["aa", "ab"], ["aab"])  # the longest beginning must be held, not the shortest
    @example(["xab", "cab", "d"], ["abcabd", "b"])
    def check(pieces, stop):
        held = StopAt(stop)
        out = []
        for piece in pieces:
            out.append(held.feed(piece))
            assert "".join(pieces).startswith("".join(out))
            if held.found:
                break
        text = "".join(out) + held.held
        assert text == cut("".join(pieces), stop)

    check()


def test_stop_strings_across_tokens(tokenizer):
    ids = byte_ids(tokenizer, "one\n\ntwo")
    assert "".join(say(tokenizer, ids, stop="\n\n")) == "one"
    assert "".join(say(tokenizer, ids, stop=["\n\nt!", "wo"])) == "one\n\nt"
    assert "".join(say(tokenizer, ids, stop=["twofold"])) == "one\n\ntwo"  # held back, then let go
    assert "".join(say(tokenizer, ids, stop=["o"])) == ""


def test_text_comes_out_before_the_model_goes_on(tokenizer):
    model = Scripted(byte_ids(tokenizer, "abcdef"), tokenizer)
    texts = stream(model, tokenizer, "x", temperature=0.0, max_new_tokens=6)
    assert next(iter(texts)) == "a"
    assert len(list(model.ids)) == 5  # one token was asked for


def test_ends_when_the_context_is_full(tokenizer):
    model = text_model()
    prompt = tokenizer.encode(PROMPT, bos=True)
    new = written(model, prompt, Sampling(), 10_000)
    assert len(prompt) + len(new) == 48 + 1  # the last is never read
    full = [1] + [5] * (48 - 1)
    assert len(written(model, full, Sampling(), 10_000)) == 1


def test_no_tokens_asked_for_is_no_text(tokenizer):
    assert generate(text_model(), tokenizer, PROMPT, max_new_tokens=0) == ""


@pytest.mark.parametrize("options, error, said", [
    ({"prompt": "river " * 60}, DataError, "exceeds the context of 48"),
    ({"temperature": -1.0}, ConfigError, "temperature = -1.0"),
    ({"max_new_tokens": -1}, ConfigError, "max_new_tokens = -1"),
    ({"stop": ["a", ""]}, ConfigError, "stop string is empty"),
    ({"stop": ""}, ConfigError, "stop string is empty"),
])  # fmt: skip
def test_errors_come_before_the_first_token(tokenizer, options, error, said):
    with pytest.raises(error, match=said):
        stream(text_model(), tokenizer, **{"prompt": PROMPT, **options})


def test_another_models_tokenizer_is_refused(tokenizer):
    other = Llama(ModelConfig(dim=8, n_layers=1, n_heads=1, vocab_size=321, max_seq_len=8))
    with pytest.raises(CheckpointError, match="320 pieces but the model has 321"):
        stream(other, tokenizer, "")


def test_generation_leaves_the_model_trainable(tokenizer):
    model = text_model()
    generate(model, tokenizer, PROMPT, max_new_tokens=3)
    tokens = torch.randint(320, (1, 9))
    model(tokens, targets=tokens).backward()
    assert all(weight.grad is not None for weight in model.parameters())


def test_a_full_cache_is_an_error_and_not_silent():
    cache = new_cache(text_model().config, 5)
    model, tokens = text_model(), torch.ones(1, 5, dtype=torch.int64)
    cache.read(model, tokens)
    with pytest.raises(DataError, match="position 6 is beyond the 5"):
        cache.read(model, tokens[:, :1])


@pytest.fixture
def nothing_imported():
    """As in a new process, but for this package only; what was imported comes back."""

    def ours() -> dict[str, object]:
        return {name: m for name, m in sys.modules.items() if name.split(".")[0] == "minillama"}

    before = ours()
    for name in before:
        del sys.modules[name]
    yield
    for name in ours():
        del sys.modules[name]
    sys.modules.update(before)


def test_the_public_name_generates(tokenizer):
    text = minillama.generate(text_model(), tokenizer, PROMPT, max_new_tokens=9)
    assert text == "".join(stream(text_model(), tokenizer, PROMPT, max_new_tokens=9))
    assert set(minillama.__all__) >= {"Llama", "ModelConfig", "Tokenizer", "generate"}
