"""``minillama`` with a ladder of four tiny models; also a program, to be stopped or killed."""

import os
from unittest.mock import patch

from tiny import tiny_config

from minillama.apps import cli, reproduce, samples
from minillama.config import ModelConfig
from minillama.train.config import TrainConfig

NAMES = [f"nano-{rung}" for rung in reproduce.RUNGS]


def preset(name: str) -> TrainConfig:
    """In place of a preset: 12 steps, with a context that holds the prompts of the samples."""
    number, steps = NAMES.index(name), int(os.environ.get("TINY_STEPS", "12"))
    model = ModelConfig(dim=16, n_layers=1 + number // 2, n_heads=2, vocab_size=320,
                        multiple_of=8, max_seq_len=256)  # fmt: skip
    changes = {"name": name, "model": model, "seed": number, "tokens": steps * 128}
    return tiny_config("data/corpus/nano", "runs", **changes)


def run(*arguments: str) -> None:
    """Call the command line."""
    with patch.object(reproduce, "load_preset", preset), patch.object(samples, "MAX_NEW_TOKENS", 4):
        cli.main([*arguments])


if __name__ == "__main__":
    run("reproduce", "--questions", "4", "--lanes", "2")
