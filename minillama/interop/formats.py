"""The formats by name, for whoever only knows which folder and which program."""

import math
from pathlib import Path

import torch

from minillama.errors import CheckpointError, ConfigError, nearest
from minillama.inference.decoder import check_weights
from minillama.interop import gguf, huggingface, llama2c, meta
from minillama.interop.shards import MAX_BYTES
from minillama.model import Llama
from minillama.tokenizer import Tokenizer

FORMATS = ("huggingface", "meta", "llama2c", "gguf")
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
GIGABYTE = 10**9


def load(source: Path, max_seq_len: int = 2048) -> tuple[Llama, Tokenizer] | None:
    """Read the model of a folder or file in any of the formats, told by its files; else None.

    ``max_seq_len`` is the context length for Meta's format, which does not hold it.
    """
    if (source / "params.json").exists():
        return meta.load(source, max_seq_len)
    if (source / "config.json").exists():
        return huggingface.load(source)
    for file in (source, source / "model.gguf", source / "model.bin"):
        if not file.is_file():
            continue
        if file.suffix == ".gguf":
            return gguf.load(file)
        if file.suffix == ".bin":
            return llama2c.load(file)
    return None


def save(
    model: Llama,
    tokenizer: Tokenizer,
    to: str,
    folder: Path,
    shards: int = 1,
    shard_gb: float | None = None,
    dtype: str | None = None,
) -> Path:
    """Write the files of format ``to`` into ``folder``; returns what was written.

    Args:
        model: the model, whose weights are changed to the dtype.
        tokenizer: its tokenizer.
        to: the format's name.
        folder: made if it is not there.
        shards: the number of files; Meta's format only.
        shard_gb: the largest size of a file; Hugging Face's format only.
        dtype: of the weights; by default, they keep theirs.

    Raises:
        CheckpointError: a weight is no finite number, the tokenizer is another model's, or the
            folder cannot be written, or is a run's or another format's.
        ConfigError: the format or the dtype is unknown, or cannot hold the model.
    """
    # What was asked for.
    check_format(to)
    if to != "meta" and shards != 1:
        raise ConfigError(f"{shards} shards for {to}", "leave --shards out: only meta has them")
    if shard_gb is not None and (to != "huggingface" or not 0 < shard_gb < math.inf):
        hint = "it must be positive" if to == "huggingface" else "only huggingface has it"
        raise ConfigError(f"--shard-gb {shard_gb:g} for {to}", hint)
    if dtype is not None:
        if dtype not in DTYPES:
            raise ConfigError(f"unknown dtype '{dtype}'", nearest(dtype, DTYPES))
        for weight in model.parameters():  # not the rotary table, which stays float32
            weight.data = weight.data.to(DTYPES[dtype])
    check_weights(model)
    # Whoever loads a folder with files of two formats would take one model for the other.
    other = {"huggingface": "params.json", "meta": "config.json"}.get(to, "checkpoints")
    for name in ("checkpoints", other):
        if (folder / name).exists():
            raise CheckpointError(f"{folder} holds another model ({name})", "name another folder")
    # The files.
    if to == "meta":
        return meta.save(model, tokenizer, folder, shards)
    if to == "huggingface":
        largest = MAX_BYTES if shard_gb is None else int(shard_gb * GIGABYTE)
        return huggingface.save(model, tokenizer, folder, largest)
    if to == "gguf":
        return gguf.save(model, tokenizer, folder / "model.gguf")
    return llama2c.save(model, tokenizer, folder / "model.bin")


def check_format(name: str) -> None:
    """Raise ``ConfigError`` that suggests the nearest format, if there is none of this name."""
    if name not in FORMATS:
        raise ConfigError(f"unknown format '{name}'", nearest(name, FORMATS))
