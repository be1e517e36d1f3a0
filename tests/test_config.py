"""Model shapes, presets, and settings that cannot be."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_config

from minillama.config import SIZES, ModelConfig
from minillama.errors import ConfigError
from minillama.model import Llama
from minillama.train.config import TrainConfig as Config
from minillama.train.config import (
    check_same_run,
    from_dict,
    load_preset,
    presets,
    read_config,
    write_config,
)

COUNTS = {"7b": 6_738_415_616, "13b": 13_015_864_320, "33b": 32_528_943_616, "65b": 65_285_660_672}
WIDTHS = {"7b": 11008, "13b": 13824, "33b": 17920, "65b": 22016}


@pytest.mark.parametrize("name", COUNTS)
def test_the_papers_sizes(name: str) -> None:
    config = ModelConfig.from_name(name.upper())
    assert config.num_parameters() == COUNTS[name]
    assert config.hidden_dim == WIDTHS[name]
    assert config.head_dim == 128


@pytest.mark.parametrize("name", SIZES)
def test_the_formula_counts_what_the_model_holds(name: str) -> None:
    config = ModelConfig.from_name(name)
    with torch.device("meta"):
        model = Llama(config)
    assert sum(p.numel() for p in model.parameters()) == config.num_parameters()


@pytest.mark.parametrize("ladder", ["nano", "small", "mini"])
def test_small_ladders_keep_the_papers_ratio(ladder: str) -> None:
    sizes = [ModelConfig.from_name(f"{ladder}-{rung}").num_parameters() for rung in COUNTS]
    # nano's vocabulary weighs more in the smallest than that of the ladder's other sizes.
    for size, ratio in zip(sizes, (1, 1.93, 4.83, 9.69), strict=True):
        assert size / sizes[0] == pytest.approx(ratio, rel=0.2 if ladder == "nano" else 0.05)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 100, "n_heads": 3}, "not a multiple of n_heads"),
        ({"dim": 9, "n_heads": 3}, "is odd"),
        ({"n_layers": 0}, "n_layers"),
        ({"vocab_size": -1}, "vocab_size"),
        ({"norm_eps": 0.0}, "norm_eps"),
    ],
)
def test_impossible_models(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**changes)


def test_unknown_model_suggests() -> None:
    with pytest.raises(ConfigError, match="unknown model 'nano-66b'. Did you mean 'nano-65b'"):
        ModelConfig.from_name("nano-66b")


@pytest.mark.parametrize("name", presets())
def test_presets(name: str) -> None:
    """Each loads, has the model of its name, and keeps Table 2's tokens: those of a parameter in
    the mini ladder, their ratio in the others."""
    config = load_preset(name)
    assert config.name == name
    assert config.model == ModelConfig.from_name(name)
    assert config.batch_sequences * config.seq_len == config.batch_tokens
    rung = name.split("-")[-1]
    if name.startswith("mini"):
        share = {"7b": 148.4, "13b": 76.8, "33b": 43.0, "65b": 21.4}[rung]
        assert config.tokens / config.model.num_parameters() == pytest.approx(share, rel=0.03)
    else:
        ratio = {"7b": 1.0, "13b": 1.0, "33b": 1.4, "65b": 1.4}[rung]
        smallest = load_preset(name.removesuffix(rung) + "7b")
        assert config.tokens / smallest.tokens == pytest.approx(ratio, rel=0.01)
    assert config.optimizer.warmup_steps < config.total_steps


@pytest.mark.parametrize("name", [name for name in presets() if "-" not in name])
def test_full_presets_are_table_2(name: str) -> None:
    config = load_preset(name)
    assert config.optimizer.lr == {"7b": 3e-4, "13b": 3e-4, "33b": 1.5e-4, "65b": 1.5e-4}[name]
    assert config.tokens == {"7b": 10**12, "13b": 10**12}.get(name, 14 * 10**11)
    assert (config.batch_tokens, config.seq_len) == (4 * 2**20, 2048)
    assert config.optimizer.warmup_steps == 2_000
    assert (config.optimizer.beta1, config.optimizer.beta2) == (0.9, 0.95)
    assert (config.optimizer.weight_decay, config.optimizer.clip) == (0.1, 1.0)


def test_a_config_comes_back(tmp_path: Path) -> None:
    config = tiny_config(tmp_path / "corpus", tmp_path / "runs", seed=7)
    write_config(tmp_path / "config.toml", config)
    assert read_config(tmp_path / "config.toml") == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sed": 1}, "unknown key 'sed' in here. Did you mean 'seed'"),
        ({"optimizer": {"warmup": 1}}, r"'warmup' in \[optimizer\] of here. .*'warmup_steps'"),
        ({"seed": "one"}, "seed = 'one' in here has the wrong type"),
        ({"compile": 1}, "compile = 1"),
        ({"tokens": True}, "tokens = True"),
        ({"dtype": "float16"}, "dtype = 'float16'"),
        ({"model": "8b"}, "unknown model '8b'"),
        ({"seq_len": 4096}, "exceeds the model's context of 2048"),
        ({"batch_tokens": 5000}, "choose 4096|Choose 4096"),
        ({"tokens": 1}, "less than one batch"),
        ({"name": "a/b"}, "no folder name"),
        ({"micro_batch": 0}, "at least 1"),
    ],
)
def test_impossible_settings(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Config, values, "here")


def test_unreadable_config_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x\.toml does not exist"):
        read_config(tmp_path / "x.toml")
    (tmp_path / "x.toml").write_text("seed = ")
    with pytest.raises(ConfigError, match=r"x\.toml is not valid TOML"):
        read_config(tmp_path / "x.toml")
    (tmp_path / "x.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=r"x\.toml is not valid TOML"):
        read_config(tmp_path / "x.toml")


def test_a_resumed_run_may_change_its_speed_only(tmp_path: Path) -> None:
    old = tiny_config(tmp_path, tmp_path)
    check_same_run(old, tiny_config(tmp_path, tmp_path, micro_batch=2, threads=2), tmp_path)
    with pytest.raises(ConfigError, match="seed = 0, not 1"):
        check_same_run(old, tiny_config(tmp_path, tmp_path, seed=1), tmp_path)


def test_milestones_are_spaced_evenly_in_log_tokens() -> None:
    config = load_preset("65b")
    steps = sorted(config.milestone_steps())
    ratios = [b / a for a, b in zip(steps, steps[1:], strict=False)]
    assert len(steps) == config.milestones and steps[-1] == config.total_steps
    assert max(ratios) / min(ratios) < 1.01
