"""Meta's original layout: ``params.json``, ``consolidated.NN.pth``, ``tokenizer.model``.

Names and rotary pairs are ours. What differs is that the files of the larger models are shards of a
model-parallel run: each holds a slice of every matrix, cut by rows where the product's outputs were
divided over the GPUs, by columns where its inputs were. Norms are in every shard.

The .pth files are pickles, which could run any code. They are read with ``weights_only``, which
builds tensors and nothing else, and through a memory map, so that no shard is ever in memory whole.
"""

import operator
import pickle
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
    FETCH_AGAIN,
    assemble_model,
    check_llama_vocabulary,
    check_size,
    check_tensors,
    explained_write,
    model_shapes,
    read_object,
    read_tokenizer,
    whole_folder,
)
from minillama.model import Llama, rotary_angles
from minillama.tokenizer import Tokenizer

ROWS = {"wq", "wk", "wv", "w1", "w3", "output"}
COLUMNS = {"wo", "w2", "tok_embeddings"}
"""Along which axis each matrix is cut (of embeddings, the columns are their features)."""

SHARDS = (1, 2, 4, 8)
"""Meta's numbers of shards: 7B, 13B, 33B and 65B."""

SIZES = ("dim", "n_layers", "n_heads", "multiple_of")
RELEASES = 16
"""While a shard is read, its pages are given back so many times."""


def cut_axis(name: str) -> int | None:
    """Return the axis along which a weight is cut; None for the norms, which are not."""
    matrix = name.split(".")[-2]
    if matrix in ROWS:
        return 0
    return 1 if matrix in COLUMNS else None


def shard_shapes(shapes: dict[str, torch.Size], shards: int) -> dict[str, torch.Size]:
    """Return the shape of one shard's slice of every weight."""
    cut = {}
    for name, shape in shapes.items():
        sizes, axis = list(shape), cut_axis(name)
        if axis is not None:
            sizes[axis] //= shards
        cut[name] = torch.Size(sizes)
    return cut


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
    check_llama_vocabulary(tokenizer, config, folder)
    _check_divisible(config, shards)
    files = [f"consolidated.{rank:02}.pth" for rank in range(shards)]
    params = {field: getattr(config, field) for field in (*SIZES, "norm_eps")}
    params["vocab_size"] = -1
    if config.rope_base != ModelConfig.rope_theta:  # a field that Meta's first code did not know
        params["rope_theta"] = config.rope_base
    with explained_write(folder), whole_folder(folder, ".pth", files, "params.json") as tmp:
        for rank, file in enumerate(files):
            torch.save(_slice_model(model, rank, shards), tmp / file)
        tokenizer.save(tmp / "tokenizer.model")
        write_json(tmp / "params.json", params)
    return folder


def _check_divisible(config: ModelConfig, shards: int) -> None:
    if shards not in SHARDS:
        raise ConfigError(f"{shards} shards", f"Meta's format has {', '.join(map(str, SHARDS))}")
    for field in ("n_heads", "hidden_dim", "vocab_size"):  # heads divide dim
        value = getattr(config, field)
        fits = value % shards == 0
        if not fits:
            what = f"{field} = {value} cannot be cut into {shards} shards"
            raise ConfigError(what, "choose fewer")


def _slice_model(model: Llama, rank: int, shards: int) -> dict[str, Tensor]:
    """What one shard holds, in memory of its own: else the file would hold the whole."""
    slices = {}
    for name, weight in model.state_dict().items():
        axis = cut_axis(name)
        part = weight if axis is None else weight.chunk(shards, axis)[rank]
        slices[name] = part.detach().cpu().clone(memory_format=torch.contiguous_format)
    config = model.config
    frequencies = rotary_angles(config.head_dim, 2, config.rope_base)[1]
    slices["rope.freqs"] = frequencies.to(model.output.weight.dtype)
    return slices


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
    own, shared = folder / "tokenizer.model", folder.parent / "tokenizer.model"
    tokenizer = read_tokenizer(own if own.exists() else shared)
    config = _read_config(folder / "params.json", tokenizer, max_seq_len)
    check_llama_vocabulary(tokenizer, config, folder)
    files = _find_shards(folder)
    _check_divisible(config, len(files))
    state = _join_shards(files, config)
    return assemble_model(config, state), tokenizer


def _read_config(source: Path, tokenizer: Tokenizer, max_seq_len: int) -> ModelConfig:
    given = read_object(source)
    try:
        settings = {field: operator.index(given[field]) for field in SIZES}
        settings["vocab_size"] = operator.index(given.get("vocab_size", -1))
        settings["norm_eps"] = float(given["norm_eps"])
        settings["rope_theta"] = float(given.get("rope_theta", ModelConfig.rope_theta))
    except KeyError as error:
        raise CheckpointError(f"{source} lacks {error}", FETCH_AGAIN) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{source} is malformed ({error})", FETCH_AGAIN) from None
    # What later models of Meta's have, and the paper's have not.
    plain = {"n_kv_heads": settings["n_heads"], "ffn_dim_multiplier": 1, "use_scaled_rope": False}
    for key, value in plain.items():
        if given.get(key) not in (None, value):
            raise ConfigError(
                f"{source}: {key} = {given[key]!r} instead of {value!r}",
                "only models of the paper's architecture can be loaded",
            )
    if settings["vocab_size"] == -1:
        settings["vocab_size"] = tokenizer.vocab_size
    return check_size(ModelConfig(**settings, max_seq_len=max_seq_len), source)


def _find_shards(folder: Path) -> list[Path]:
    """The files of all ranks, in order."""
    count = max(1, len(list(folder.glob("consolidated.*.pth"))))
    files = [folder / f"consolidated.{rank:02}.pth" for rank in range(count)]
    for file in files:
        if not file.exists():
            raise CheckpointError(f"{file} does not exist", FETCH_AGAIN)
    return files


def _join_shards(files: list[Path], config: ModelConfig) -> dict[str, Tensor]:
    """All weights, put together shard by shard and tensor by tensor."""
    shapes = model_shapes(config)
    dtypes = {name: tensor.dtype for name, tensor in _open_shard(files[0]).items()}
    # Names, shapes and types of all shards, before any memory is taken.
    for file in files:
        found = _open_shard(file)
        check_tensors(found, shard_shapes(shapes, len(files)), file)
        for name, tensor in found.items():
            if tensor.dtype != dtypes[name]:
                what = f"{file}: '{name}' is {tensor.dtype}, but {dtypes[name]} in the first shard"
                raise CheckpointError(what, FETCH_AGAIN)
    # Each shard's slices; of a norm every shard has a copy.
    state = {name: torch.empty(shape, dtype=dtypes[name]) for name, shape in shapes.items()}
    for rank, file in enumerate(files):
        for name, part in _stream_shard(file):
            axis = cut_axis(name)
            target = state[name]
            if axis is not None:
                target = target.chunk(len(files), axis)[rank]
            target.copy_(part)
    return state


def _stream_shard(file: Path) -> Iterator[tuple[str, Tensor]]:
    """The weights of a shard, one after another.

    Pages of a map that have been read count as memory until the map is closed, so it is opened anew
    now and then.
    """
    opened, read = _open_shard(file), 0
    most = file.stat().st_size / RELEASES
    for name in list(opened):
        if read > most:
            opened, read = _open_shard(file), 0
        part = opened[name]
        read += part.nbytes
        yield name, part


def _open_shard(file: Path) -> dict[str, Tensor]:
    """The weights of a shard, mapped and not yet read."""
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        what = f"{file} is damaged or holds more than weights, which could run code"
        raise CheckpointError(what, "get it from another source") from None
    except OSError as error:
        reason = error.strerror or error
        raise CheckpointError(f"{file} cannot be read ({reason})", "check it") from None
    except Exception as error:  # what damaged archives and pickles raise is not documented
        reason = str(error).split("\n")[0].split(". ")[0]
        if not zipfile.is_zipfile(file):
            reason = "no zip archive, which checkpoints are"
        raise CheckpointError(f"{file} is damaged ({reason})", FETCH_AGAIN) from None
    if not isinstance(content, dict) or not all(map(_is_weight, content, content.values())):
        raise CheckpointError(f"{file} holds no plain table of weights", FETCH_AGAIN)
    # Frequencies follow from the configuration. The first release had them in every layer.
    return {name: value for name, value in content.items() if not name.endswith("rope.freqs")}


def _is_weight(name: Any, value: Any) -> bool:
    """A named tensor with numbers in it: not sparse, and not a shape alone."""
    is_tensor = isinstance(name, str) and isinstance(value, Tensor)
    return is_tensor and value.layout is torch.strided and value.device.type == "cpu"
