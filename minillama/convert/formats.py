"""The formats by name, for whoever only knows which folder and which program."""

from pathlib import Path
from typing import Literal

from minillama.convert import huggingface, llama2c, meta
from minillama.errors import ConfigError
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

Format = Literal["huggingface", "meta", "llama2c"]


def load(folder: Path, max_seq_len: int = 2048) -> tuple[Llama, Tokenizer] | None:
    """The model of a folder in a format that holds all of it, told by its files; else None."""
    if (folder / "params.json").exists():
        return meta.load(folder, max_seq_len)
    if (folder / "config.json").exists():
        return huggingface.load(folder)
    return None


def save(model: Llama, tokenizer: Tokenizer, to: Format, folder: Path, shards: int = 1) -> Path:
    """Write the format's files into ``folder``; only Meta's has ``shards``.

    Raises:
        CheckpointError: the tokenizer is another model's, or the folder cannot be written.
        ConfigError: the format cannot hold the model, or not in so many shards.
    """
    if to != "meta" and shards != 1:
        raise ConfigError(f"{shards} shards for {to}", "leave --shards out: only meta has them")
    if to == "meta":
        return meta.save(model, tokenizer, folder, shards)
    if to == "huggingface":
        return huggingface.save(model, tokenizer, folder)
    return llama2c.save(model, tokenizer, folder / "model.bin")
