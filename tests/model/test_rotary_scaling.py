"""Rotary scaling: the papers' formulas, and Hugging Face's frequencies and logits."""

import json
import math
from dataclasses import replace

import pytest
import torch
from tiny import TinyCorpus
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from minillama.apps.cli import main
from minillama.config import ModelConfig, RopeScaling
from minillama.errors import CheckpointError, ConfigError
from minillama.inference.kv_cache import new_cache
from minillama.interop import huggingface, llama2c, meta
from minillama.model import Llama, attention_factor, model_table, rotary_table, scaled_frequencies
from minillama.teach import relative_error
from minillama.tokenizer import Tokenizer
from minillama.train.config import TrainConfig, read_config, write_config

CONFIG = ModelConfig(dim=64, n_layers=2, n_heads=2, vocab_size=320, multiple_of=8, max_seq_len=96)
KINDS = {
    "linear": RopeScaling("linear", 3.0),
    "ntk": RopeScaling("ntk", 3.0),
    "dynamic": RopeScaling("dynamic", 1.5, 32),
    "yarn": RopeScaling("yarn", 3.0, 32),
    "yarn, other bounds": RopeScaling("yarn", 3.0, 32, 4.0, 0.25),
    "yarn, no temperature": RopeScaling("yarn", 3.0, 32, attention_factor=1.0),
}
every_kind = pytest.mark.parametrize("scaling", KINDS.values(), ids=KINDS)


def new_model(config: ModelConfig) -> Llama:
    """Larger weights than at the start of training, so that scores are far from equal."""
    torch.manual_seed(0)
    model = Llama(config)
    for name, weight in model.named_parameters():
        nn.init.normal_(weight, mean=float("norm" in name), std=0.1)
    return model


def their_frequencies(config: ModelConfig, scaling: RopeScaling) -> tuple[Tensor, float]:
    """Hugging Face's, from its own settings; static NTK is its dynamic one of factor 1."""
    kind, context = scaling.kind, config.max_seq_len
    rope = {"rope_type": kind, "factor": scaling.factor, "rope_theta": config.rope_theta}
    if kind == "yarn":
        rope |= {"original_max_position_embeddings": scaling.original_max_seq_len,
                 "beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}  # fmt: skip
        if scaling.attention_factor:
            rope["attention_factor"] = scaling.attention_factor
    elif kind == "dynamic":
        context = scaling.original_max_seq_len
    elif kind == "ntk":
        rope |= {"rope_type": "dynamic", "factor": 1.0}
        context = round(config.max_seq_len / scaling.factor)
    theirs = LlamaConfig(
        hidden_size=config.dim, num_attention_heads=config.n_heads,
        max_position_embeddings=context, rope_parameters=rope,
    )  # fmt: skip
    return ROPE_INIT_FUNCTIONS[rope["rope_type"]](theirs, seq_len=config.max_seq_len)


def test_without_scaling_not_a_bit_changes():
    for config in (CONFIG, replace(CONFIG, rope_theta=77.0), ModelConfig.from_name("nano-65b")):
        plain = rotary_table(config.head_dim, config.max_seq_len, config.rope_theta)
        assert torch.equal(Llama(config).rotary, plain)
        assert torch.equal(scaled_frequencies(config), _plain_frequencies(config))
        assert (config.rope_base, attention_factor(config)) == (config.rope_theta, 1.0)


def _plain_frequencies(config: ModelConfig) -> Tensor:
    pairs = torch.arange(0, config.head_dim, 2).float()
    return 1 / config.rope_theta ** (pairs / config.head_dim)


@every_kind
@pytest.mark.parametrize("shape", [
    dict(),
    dict(n_heads=1, rope_theta=500.0),
    dict(dim=256, n_heads=2, max_seq_len=384),
    dict(dim=12, n_heads=3, max_seq_len=33),
], ids=str)  # fmt: skip
def test_frequencies_are_hugging_faces(scaling, shape):
    config = replace(CONFIG, **shape)
    scaling = replace(scaling, original_max_seq_len=config.max_seq_len // 3)
    config = replace(config, rope_scaling=scaling)
    theirs, factor = their_frequencies(config, scaling)
    ours = scaled_frequencies(config)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=0)
    assert attention_factor(config) == pytest.approx(factor, rel=1e-12)
    angles = torch.outer(torch.arange(config.max_seq_len).double(), ours.double())
    expected = torch.stack((angles.cos(), angles.sin()), dim=-1) * factor
    torch.testing.assert_close(model_table(config).double(), expected, rtol=0, atol=4e-5)


def test_linear_gives_position_m_the_angles_of_m_over_s():
    table = model_table(replace(CONFIG, rope_scaling=RopeScaling("linear", 4.0)))
    assert (table[::4] - rotary_table(32, 24)).abs().max() < 1e-6


@pytest.mark.parametrize("factor", [1.0, 2.0, 7.5])
def test_ntk_leaves_the_fastest_pair_and_slows_the_slowest_by_s(factor):
    plain = scaled_frequencies(CONFIG)
    slower = plain / scaled_frequencies(replace(CONFIG, rope_scaling=RopeScaling("ntk", factor)))
    assert slower[0] == 1
    assert float(slower[-1]) == pytest.approx(factor, rel=1e-5)
    assert bool((slower.diff() >= 0).all())


def test_dynamic_of_factor_1_is_ntk_by_the_growth():
    grown = replace(CONFIG, rope_scaling=RopeScaling("dynamic", 1.0, 32))
    static = replace(CONFIG, rope_scaling=RopeScaling("ntk", 3.0))
    assert grown.rope_base == static.rope_base
    unused = replace(CONFIG, max_seq_len=20, rope_scaling=RopeScaling("dynamic", 5.0, 32))
    assert unused.rope_base == CONFIG.rope_theta


def test_yarn_keeps_fast_pairs_and_slows_slow_ones():
    config = ModelConfig(rope_scaling=RopeScaling("yarn", 16.0, 2048), max_seq_len=32_768)
    turns = 2048 * _plain_frequencies(config) / (2 * math.pi)
    slower = _plain_frequencies(config) / scaled_frequencies(config)
    assert bool((slower[turns > 36] == 1).all())  # bounds are rounded outwards, to whole pairs
    torch.testing.assert_close(slower[turns < 0.9], torch.full_like(slower[turns < 0.9], 16.0))
    between = slower[(turns < 32) & (turns > 1)]
    assert bool(((between > 1) & (between < 16)).all())
    assert attention_factor(config) == 0.1 * math.log(16.0) + 1.0
    assert attention_factor(replace(config, rope_scaling=KINDS["linear"])) == 1.0


@every_kind
def test_exported_models_give_the_same_logits(scaling, tiny_corpus: TinyCorpus, tmp_path):
    tokenizer = Tokenizer.load(tiny_corpus.folder / "tokenizer.model")
    config = replace(CONFIG, rope_scaling=scaling)
    model = new_model(config)
    huggingface.save(model, tokenizer, tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    again, _ = huggingface.load(tmp_path)
    if scaling.kind in ("ntk", "dynamic"):  # a change of base, and written as one
        assert again.config == replace(CONFIG, rope_theta=config.rope_base)
    else:
        assert again.config == replace(config, rope_scaling=again.config.rope_scaling)
        assert attention_factor(again.config) == attention_factor(config)
    for length in (7, 96):
        tokens = torch.randint(320, (2, length))
        assert relative_error(model(tokens), theirs(tokens).logits) < 1e-5
        assert torch.equal(model(tokens), again(tokens))
    plain = Llama(CONFIG)
    plain.load_state_dict(model.state_dict())
    assert relative_error(plain(tokens), model(tokens)) > 1e-3  # scaling matters


@pytest.mark.parametrize("rope", [
    {"rope_type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16},
    {"type": "yarn", "factor": 4, "original_max_position_embeddings": 8, "beta_fast": 3},
], ids=str)  # fmt: skip
def test_scaled_models_of_hugging_face_are_read(rope, tiny_corpus, tmp_path):
    tokenizer = Tokenizer.load(tiny_corpus.folder / "tokenizer.model")
    huggingface.save(new_model(replace(CONFIG, max_seq_len=32)), tokenizer, tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(content | {"rope_scaling": rope}))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    ours, _ = huggingface.load(tmp_path)
    kind = rope.get("rope_type", rope.get("type"))
    assert ours.config.rope_scaling.kind == kind
    assert ours.config.max_seq_len == (64 if kind == "dynamic" else 32)
    tokens = torch.randint(320, (2, ours.config.max_seq_len))  # dynamic: the whole context at once
    assert relative_error(ours(tokens), theirs(tokens).logits) < 1e-5


def test_a_scaling_without_its_factor_is_malformed(tiny_corpus, tmp_path):
    given = huggingface.config_to_huggingface(CONFIG)
    with pytest.raises(CheckpointError, match="lacks 'factor'"):
        huggingface.config_from_huggingface(given | {"rope_parameters": {"rope_type": "linear"}})


@every_kind
def test_a_cache_changes_nothing(scaling):
    model = new_model(replace(CONFIG, rope_scaling=scaling)).eval()
    tokens = torch.randint(320, (1, 96))
    whole, cache = model(tokens), new_cache(model.config, 96)
    with torch.inference_mode():
        parts = [cache.read(model, part) for part in tokens.split([31, 1, 1, 63], dim=1)]
        parts = [model.output(part) for part in parts]
    assert relative_error(torch.cat(parts, dim=1), whole) < 1e-5


@every_kind
def test_a_runs_configuration_keeps_it(scaling, tmp_path):
    model = replace(CONFIG, rope_scaling=scaling)
    for config in (TrainConfig(model=model, seq_len=96, batch_tokens=960), TrainConfig()):
        write_config(tmp_path / "config.toml", config)
        assert read_config(tmp_path / "config.toml") == config
    assert "rope_scaling" not in (tmp_path / "config.toml").read_text()


@pytest.mark.parametrize("line, said", [
    ("rope_scaling = 'yarn'", "rope_scaling = 'yarn' in .* wrong type.*must be a table"),
    ("rope_scaling = {kind = 'yran'}", "kind = 'yran' .*linear or ntk or dynamic or yarn"),
    ("rope_scaling = {fcator = 2}", "unknown key 'fcator' in .*did you mean 'factor'"),
    ("rope_scaling = {factor = 0}", "factor = 0"),
])  # fmt: skip
def test_wrong_tables_are_named(line, said, tmp_path):
    (tmp_path / "config.toml").write_text(f"[model]\n{line}\n")
    with pytest.raises(ConfigError, match=f"(?i){said}"):
        read_config(tmp_path / "config.toml")


def test_flags_change_what_a_file_has(tmp_path, monkeypatch):
    file = tmp_path / "long.toml"
    file.write_text("[model.rope_scaling]\nkind = 'ntk'\nfactor = 2\n")
    seen = []
    monkeypatch.setattr("minillama.scale.runtime.train_distributed", seen.append)
    main(["train", "--config", str(file), "--model.rope-scaling.factor", "4"])
    assert seen[0].model.rope_scaling == RopeScaling("ntk", 4.0)


@pytest.mark.parametrize("values, said", [
    (dict(kind="liner"), "unknown rope_scaling 'liner'.*mean 'linear'"),
    (dict(factor=0.5), "factor = 0.5"),
    (dict(factor=math.nan), "factor = nan"),
    (dict(kind="yarn", factor=2.0), "yarn needs the context"),
    (dict(kind="dynamic", factor=2.0, original_max_seq_len=-1), "original_max_seq_len = -1"),
    (dict(beta_fast=1.0), "beta_fast = 1.0"),
    (dict(attention_factor=-1.0), "attention_factor = -1.0"),
])  # fmt: skip
def test_settings_out_of_range_are_named(values, said):
    with pytest.raises(ConfigError, match=f"(?i){said}"):
        RopeScaling(**values)


def test_shapes_that_cannot_be_scaled_are_named():
    for shape in (dict(n_heads=32), dict(rope_theta=1.0)):
        with pytest.raises(ConfigError, match="above 2 and a rope_theta above 1"):
            replace(CONFIG, **shape, rope_scaling=KINDS["ntk"])
    for kind in ("linear", "yarn"):
        with pytest.raises(ConfigError, match="this format can hold no such|no change of"):
            _ = replace(CONFIG, rope_scaling=KINDS[kind]).rope_base


@pytest.mark.parametrize("save", [meta.save, llama2c.save], ids=["meta", "llama2c"])
def test_formats_that_cannot_hold_it_refuse(save, tiny_corpus, tmp_path):
    tokenizer = Tokenizer.load(tiny_corpus.folder / "tokenizer.model")
    for kind in ("linear", "yarn"):
        with pytest.raises(ConfigError, match=f"kind '{kind}' is no change of rope_theta"):
            save(Llama(replace(CONFIG, rope_scaling=KINDS[kind])), tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_metas_format_carries_ntk(tiny_corpus, tmp_path):
    tokenizer = Tokenizer.load(tiny_corpus.folder / "tokenizer.model")
    model = new_model(replace(CONFIG, rope_scaling=KINDS["ntk"]))
    again, _ = meta.load(meta.save(model, tokenizer, tmp_path / "out"), max_seq_len=96)
    tokens = torch.randint(320, (1, 96))
    assert torch.equal(model(tokens), again(tokens))
