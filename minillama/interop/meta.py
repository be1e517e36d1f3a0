"""Meta's original layout: ``params.json``, ``consolidated.NN.pth``, ``tokenizer.model``.

Names and rotary pairs are ours. What differs is that the files of the larger models are shards of a
model-parallel run: each holds a slice of every matrix, cut by rows where the product's outputs were
divided over the GPUs, by columns where its inputs were. Norms are in every shard.

The .pth files are pickles, which could run any code. They are read with ``weights_only``, which
builds tensors and nothing else, and through a memory map, so that no shard is ever in memory whole.
"""

import operator
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillama.config import ModelConfig
from minillama.errors import CheckpointError, ConfigError
from minillama.files import write_json
from minillama.interop.common import (
    FLOATS,
    MEND,
    assemble,
    blank,
    check_size,
    check_vocabulary,
    read_object,
    read_tokenizer,
    whole_folder,
)
from minillama.model import Llama, rotary_angles
from minillama.tokenizer import Tokenizer

AXES = {"wq": 0, "wk": 0, "wv": 0, "w1": 0, "w3": 0, "output": 0,
        "wo": 1, "w2": 1, "tok_embeddings": 1}  # fmt: skip
"""Along which axis each matrix is cut: 0 rows, 1 columns (for embeddings, their features)."""

SHARDS = (1, 2, 4, 8)
"""Meta's numbers of shards: 7B, 13B, 33B and 65B."""

SIZES = ("dim", "n_layers", "n_heads", "multiple_of")
RELEASES = 16
"""While a shard is read, its pages are given back so many times."""


def axis_of(name: str) -> int | None:
    """Where a weight is cut; None for the norms, which are not."""
    return AXES.get(name.split(".")[-2])


def part_shape(name: str, shape: torch.Size, shards: int) -> torch.Size:
    """The shape of one shard's part of a weight."""
    axis = axis_of(name)
    return torch.Size(n // shards if i == axis else n for i, n in enumerate(shape))


def save(model: Llama, tokenizer: Tokenizer, folder: str | Path, shards: int = 1) -> Path:
    """Write a folder that Meta's own code reads; the weights keep their dtype.

    The format has no field for the context length: ``load`` takes it as an argument.

    Raises:
        CheckpointError: the tokenizer is another model's, other shards lie in the folder, or it
            cannot be written.
        ConfigError: the model cannot be cut into so many shards, or its rotary angles are scaled
            otherwise than by another base.
    """
    folder, config = Path(folder), model.config
    check_vocabulary(tokenizer, config, folder)
    _check_divisible(config, shards)
    files = [f"consolidated.{rank:02}.pth" for rank in range(shards)]
    params = {field: getattr(config, field) for field in (*SIZES, "norm_eps")} | {"vocab_size": -1}
    if config.rope_base != ModelConfig.rope_theta:  # a field that Meta's first code did not know
        params["rope_theta"] = config.rope_base
    try:
        with whole_folder(folder, ".pth", files, "params.json") as aside:
            for rank, file in enumerate(files):
                torch.save(_part(model, rank, shards), aside / file)
            tokenizer.save(aside / "tokenizer.model")
            write_json(aside / "params.json", params)
    except (OSError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"cannot write {folder}: {reason}", "name another folder") from error
    return folder


def _check_divisible(config: ModelConfig, shards: int) -> None:
    if shards not in SHARDS:
        raise ConfigError(f"{shards} shards", f"Meta's format has {', '.join(map(str, SHARDS))}")
    for field in ("n_heads", "hidden_dim", "vocab_size"):  # heads divide dim
        if getattr(config, field) % shards:
            raise ConfigError(
                f"{field} = {getattr(config, field)} cannot be cut into {shards} shards",
                "choose fewer",
            )


def _part(model: Llama, rank: int, shards: int) -> dict[str, Tensor]:
    """What one shard holds, in memory of its own: else the file would hold the whole."""
    part = {}
    for name, weight in model.state_dict().items():
        axis = axis_of(name)
        slice_ = weight if axis is None else weight.chunk(shards, axis)[rank]
        part[name] = slice_.detach().cpu().clone(memory_format=torch.contiguous_format)
    config = model.config
    frequencies = rotary_angles(config.head_dim, 2, config.rope_base)[1]
    part["rope.freqs"] = frequencies.to(model.output.weight.dtype)
    return part


def load(folder: str | Path, max_seq_len: int = 2048) -> tuple[Llama, Tokenizer]:
    """Read a model and its tokenizer, which lies in the folder or the one above.

    The weights keep their dtype. Beside them, memory holds at most a sixteenth of one shard and its
    largest tensor.

    Args:
        folder: where ``params.json`` is.
        max_seq_len: the context length, which the format does not hold; 2,048 in the paper.

    Raises:
        CheckpointError: a file is missing, damaged or no plain checkpoint, or the files do not fit
            one another.
        ConfigError: the model is not one of the paper's architecture.
    """
    folder = Path(folder)
    given = read_object(folder / "params.json")
    pieces = folder / "tokenizer.model"
    tokenizer = read_tokenizer(pieces if pieces.exists() else folder.parent / pieces.name)
    config = _read_config(given, tokenizer, max_seq_len, folder / "params.json")
    check_vocabulary(tokenizer, config, folder)
    files = _find_shards(folder)
    _check_divisible(config, len(files))
    return assemble(config, _join(files, config)), tokenizer


def _read_config(
    given: dict[str, Any], tokenizer: Tokenizer, max_seq_len: int, source: Path
) -> ModelConfig:
    try:
        settings = {field: operator.index(given[field]) for field in SIZES}
        vocab_size = operator.index(given.get("vocab_size", -1))
        norm_eps = float(given["norm_eps"])
        rope_theta = float(given.get("rope_theta", ModelConfig.rope_theta))
    except KeyError as error:
        raise CheckpointError(f"{source} lacks {error}", MEND) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{source} is malformed ({error})", MEND) from None
    plain = {"n_kv_heads": settings["n_heads"], "ffn_dim_multiplier": 1, "use_scaled_rope": False}
    for key, value in plain.items():
        if given.get(key) not in (None, value):
            raise ConfigError(
                f"{source}: {key} = {given[key]!r} instead of {value!r}",
                "only models of the paper's architecture can be loaded",
            )
    config = ModelConfig(
        **settings,
        vocab_size=tokenizer.vocab_size if vocab_size == -1 else vocab_size,
        norm_eps=norm_eps,
        rope_theta=rope_theta,
        max_seq_len=max_seq_len,
    )
    return check_size(config, source)


def _find_shards(folder: Path) -> list[Path]:
    """The files of all ranks, in order."""
    found = {file.name for file in folder.glob("consolidated.*.pth")}
    ranks = [int(m[1]) for name in found if (m := re.fullmatch(r"consolidated\.(\d\d)\.pth", name))]
    count = max(ranks, default=0) + 1
    names = [f"consolidated.{rank:02}.pth" for rank in range(count)]
    if missing := sorted(set(names) - found):
        raise CheckpointError(f"{folder / missing[0]} does not exist", MEND)
    if count not in SHARDS:
        raise CheckpointError(f"{folder} holds {count} shards, not 1, 2, 4 or 8", MEND)
    return [folder / name for name in names]


def _join(files: list[Path], config: ModelConfig) -> dict[str, Tensor]:
    """All weights, put together shard by shard and tensor by tensor."""
    shapes = {name: weight.shape for name, weight in blank(config).state_dict().items()}
    dtypes: dict[str, torch.dtype] = {}
    for file in files:  # before any memory is taken
        _check(file, _open(file), shapes, dtypes, len(files))
    state: dict[str, Tensor] = {}
    for rank, file in enumerate(files):
        for name, part in _stream(file):
            if rank == 0:
                state[name] = torch.empty(shapes[name], dtype=part.dtype)
            axis = axis_of(name)
            if axis is not None:
                state[name].chunk(len(files), axis)[rank].copy_(part)
            elif rank == 0:  # a norm, of which every shard has a copy
                state[name].copy_(part)
    return state


def _check(
    file: Path,
    part: dict[str, Tensor],
    shapes: dict[str, torch.Size],
    dtypes: dict[str, torch.dtype],
    shards: int,
) -> None:
    """Names, shapes and types of a shard against the model's and the other shards'."""
    if wrong := sorted(part.keys() ^ shapes.keys()):
        problem = "has an unknown tensor" if wrong[0] in part else "lacks the tensor"
        raise CheckpointError(f"{file} {problem} '{wrong[0]}'", "it is not of params.json's model")
    for other in set(SHARDS) - {shards}:
        if all(part[name].shape == part_shape(name, s, other) for name, s in shapes.items()):
            raise CheckpointError(
                f"{file} is one of {other} shards, but the folder holds {shards}", MEND
            )
    for name, shape in shapes.items():
        found, expected = part[name], part_shape(name, shape, shards)
        if found.shape != expected or found.dtype not in FLOATS:
            raise CheckpointError(
                f"{file}: '{name}' is {tuple(found.shape)} {found.dtype}, not {tuple(expected)} of "
                "a float type",
                "it is not of params.json's model",
            )
        if dtypes.setdefault(name, found.dtype) != found.dtype:
            raise CheckpointError(
                f"{file}: '{name}' is {found.dtype}, but {dtypes[name]} in the first shard", MEND
            )


def _stream(file: Path) -> Iterator[tuple[str, Tensor]]:
    """The weights of a shard, one after another.

    Pages of a map that have been read count as memory until the map is closed, so it is opened anew
    now and then.
    """
    opened, read = _open(file), 0
    for name in list(opened):
        if read > file.stat().st_size / RELEASES:
            opened, read = _open(file), 0
        read += opened[name].nbytes
        yield name, opened[name]


def _open(file: Path) -> dict[str, Tensor]:
    """The weights of a shard, mapped and not yet read."""
    try:
        part = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{file} is damaged or holds more than weights, which could run code",
            "get it from another source",
        ) from None
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{file} cannot be read ({reason})", "check it") from None
    except Exception as error:  # what damaged archives and pickles raise is not documented
        reason = str(error).split("\n")[0].split(". ")[0]
        if not zipfile.is_zipfile(file):
            reason = "no zip archive, which checkpoints are"
        raise CheckpointError(f"{file} is damaged ({reason})", MEND) from None
    if not isinstance(part, dict) or not all(map(_is_plain, part, part.values())):
        raise CheckpointError(f"{file} holds no plain table of weights", MEND)
    # Frequencies follow from the configuration. The first release had them in every layer.
    return {name: value for name, value in part.items() if not name.endswith("rope.freqs")}


def _is_plain(name: Any, value: Any) -> bool:
    """A named tensor with numbers in it: not sparse, and not a shape alone."""
    is_tensor = isinstance(name, str) and isinstance(value, Tensor)
    return is_tensor and value.layout is torch.strided and value.device.type == "cpu"
