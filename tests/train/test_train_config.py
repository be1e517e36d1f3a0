"""Presets and config.toml: what is written is read back, and mistakes are named."""

import dataclasses
from importlib.resources import files

import pytest
from tiny import tiny_config

from minillama.config import ModelConfig
from minillama.errors import ConfigError
from minillama.paper import TABLE2
from minillama.parallel.mesh import ParallelConfig
from minillama.train.config import (
    MAY_CHANGE,
    TrainConfig,
    check_same_run,
    from_dict,
    load_preset,
    presets,
    read_config,
    write_config,
)
from minillama.train.optimizer import OptimizerConfig

FOLDER = files("minillama") / "presets"


def test_every_rung_of_every_ladder_is_a_preset():
    rungs = ("7b", "13b", "33b", "65b")
    assert set(presets()) >= {
        f"{ladder}{rung}" for ladder in ("", "nano-", "small-", "mini-") for rung in rungs
    }


@pytest.mark.parametrize("name", presets())
def test_presets_load_and_open_with_their_command(name):
    config = load_preset(name)
    assert config.name == name
    assert config.total_steps > config.optimizer.warmup_steps
    head = [line for line in (FOLDER / f"{name}.toml").read_text().split("\n") if line[:1] == "#"]
    assert any(f"--preset {name}" in line and "train" in line for line in head)
    assert config.seq_len == config.model.max_seq_len


@pytest.mark.parametrize("name", ["7b", "13b", "33b", "65b"])
def test_full_presets_are_table_2(name):
    config, row = load_preset(name), TABLE2[name]
    assert config.optimizer.lr == row["lr"]
    assert config.batch_tokens == 4 * 2**20
    assert config.tokens == pytest.approx(row["tokens"], rel=1e-5)
    assert config.model == ModelConfig.from_name(name)
    assert (config.optimizer.warmup_steps, config.optimizer.weight_decay) == (2_000, 0.1)


@pytest.mark.parametrize("name", presets())
def test_config_files_come_back(tmp_path, name):
    config = load_preset(name)
    write_config(tmp_path / "config.toml", config)
    assert read_config(tmp_path / "config.toml") == config


def test_every_field_is_written(tmp_path):
    config = tiny_config(tmp_path / "a 'b' \"c\"", tmp_path, seed=7, milestones=3, compile=True)
    write_config(tmp_path / "c.toml", config)
    assert read_config(tmp_path / "c.toml") == config
    text = (tmp_path / "c.toml").read_text()
    assert all(f"\n{f.name} = " in f"\n{text}" for f in dataclasses.fields(OptimizerConfig))


@pytest.mark.parametrize(
    "values, told",
    [
        ({"micro_bach": 2}, "unknown key 'micro_bach' in x. Did you mean 'micro_batch'?"),
        ({"optimizer": {"learning_rat": 1}}, r"unknown key 'learning_rat' in \[optimizer\] of x"),
        ({"optimizer": {"warmup_step": 1}}, "Did you mean 'warmup_steps'?"),
        ({"model": {"n_layer": 1}}, r"'n_layer' in \[model\] of x. Did you mean 'n_layers'?"),
        ({"model": "nano-65"}, "unknown model 'nano-65'. Did you mean 'nano-65b'?"),
        ({"tokens": "many"}, "tokens = 'many' in x has the wrong type. It must be int"),
        ({"tokens": 1e6}, "tokens = 1000000.0 in x has the wrong type. It must be int"),
        ({"compile": 1}, "compile = 1 in x has the wrong type"),
        ({"model": 5}, "model = 5 in x has the wrong type"),
        ({"optimizer": "adam"}, "optimizer = 'adam' in x has the wrong type"),
        ({"optimizer": {"lr": True}}, "lr = True"),
        (
            {"dtype": "float16"},
            "dtype = 'float16' in x has the wrong type. It must be float32 or bfloat16",
        ),
        ({"device": "tpu"}, "device = 'tpu'"),
    ],
)
def test_mistakes_are_named_with_the_nearest_key(values, told):
    with pytest.raises(ConfigError, match=told):
        from_dict(TrainConfig, values, "x")


@pytest.mark.parametrize(
    "change, told",
    [
        ({"tokens": 0}, "tokens = 0"),
        ({"micro_batch": -1}, "micro_batch = -1"),
        ({"seed": -1}, "seed = -1"),
        ({"threads": -2}, "threads = -2"),
        ({"seq_len": 64}, "seq_len = 64 exceeds the model's context of 32"),
        ({"batch_tokens": 100}, "batch_tokens = 100 is not a multiple of seq_len = 16. Choose 96"),
        ({"tokens": 50}, "tokens = 50 is less than one batch"),
        ({"name": "../x"}, "is no folder name"),
        ({"name": ""}, "is no folder name"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, change, told):
    with pytest.raises(ConfigError, match=told):
        tiny_config(tmp_path, tmp_path, **change)


def test_unknown_presets_and_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match="unknown preset 'nano65b'. Did you mean 'nano-65b'?"):
        load_preset("nano65b")
    with pytest.raises(ConfigError, match="c.toml does not exist"):
        read_config(tmp_path / "c.toml")
    for content in (b"tokens = ", b"name = '\xff'"):
        (tmp_path / "c.toml").write_bytes(content)
        with pytest.raises(ConfigError, match="c.toml is not valid TOML"):
            read_config(tmp_path / "c.toml")


def test_milestones_are_even_in_the_logarithm(tmp_path):
    config = tiny_config(tmp_path, tmp_path, tokens=10_000 * 128, milestones=5)
    steps = sorted(config.milestone_steps())
    assert steps[0] == 200 and steps[-1] == config.total_steps == 10_000
    ratios = [b / a for a, b in zip(steps, steps[1:], strict=False)]
    assert ratios == pytest.approx([50 ** (1 / 4)] * 4, rel=0.01)
    few = tiny_config(tmp_path, tmp_path, tokens=3 * 128, milestones=12)
    assert few.milestone_steps() == {1, 2, 3}


def test_only_speed_and_place_may_change_on_resume(tmp_path):
    old = tiny_config(tmp_path, tmp_path)
    others = {
        "model": ModelConfig.from_name("7b"), "optimizer": OptimizerConfig(lr=0.5), "corpus": "c",
        "name": "other", "runs": "r", "tokens": 128, "batch_tokens": 256, "seq_len": 8,
        "micro_batch": 1, "eval_every": 1, "eval_tokens": 1, "save_every": 1, "milestones": 5,
        "seed": 9, "device": "auto", "dtype": "bfloat16", "compile": True, "threads": 3,
        "backward": "by_hand", "parallel": ParallelConfig(shard=2), "async_save": True,
        "hang_seconds": 5,
    }  # fmt: skip
    assert set(others) == {f.name for f in dataclasses.fields(TrainConfig)}
    for key, value in others.items():
        new = dataclasses.replace(old, **{key: value})
        if key in MAY_CHANGE:
            check_same_run(old, new, tmp_path)
        else:
            with pytest.raises(ConfigError, match=f"was started with {key} = "):
                check_same_run(old, new, tmp_path)
