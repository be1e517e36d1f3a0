"""Safetensors files as transformers lays them out: one, or several and an index that names them.

Tensors are read one at a time from a memory map that is closed again, since pages of a map that
have been read count as memory.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from huggingface_hub import StateDictSplit
from huggingface_hub.serialization import split_state_dict_into_shards_factory
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minillama.errors import CheckpointError
from minillama.files import write_json
from minillama.interop.common import FETCH_AGAIN, read_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_BYTES = 5_000_000_000
"""The usual limit of one file."""


def plan_shards(sizes: Mapping[str, int], max_bytes: int = MAX_BYTES) -> StateDictSplit:
    """Decide which tensors, given by their bytes, go into which file of at most ``max_bytes``."""
    return split_state_dict_into_shards_factory(
        dict(sizes),
        get_storage_size=lambda size: size,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_bytes,
    )


def write_shards(folder: Path, plan: StateDictSplit, tensor: Callable[[str], Tensor]) -> None:
    """Write the files of a plan; of the tensors, only those of one file exist at a time."""
    parameters = 0
    for file, names in plan.filename_to_tensors.items():
        content = {name: tensor(name) for name in names}
        parameters += sum(weight.numel() for weight in content.values())
        save_file(content, folder / file, metadata={"format": "pt"})
    if plan.is_sharded:
        totals = {"total_parameters": parameters, **plan.metadata}
        weight_map = dict(sorted(plan.tensor_to_filename.items()))
        write_json(folder / INDEX, {"metadata": totals, "weight_map": weight_map})


def find_tensors(folder: Path) -> dict[str, Path]:
    """Return the file of every tensor.

    Raises:
        CheckpointError: a file is missing or damaged, or the index is not of these files.
    """
    single, index = folder / SINGLE, folder / INDEX
    if not index.exists():
        return dict.fromkeys(read_names(single), single)
    if single.exists():
        raise CheckpointError(f"{folder} holds {SINGLE} and {INDEX}", "remove what is not wanted")
    places = _read_index(index)
    for file in sorted(set(places.values())):
        here = set(read_names(folder / file))
        listed = {name for name, place in places.items() if place == file}
        if wrong := sorted(here ^ listed):
            problem = "has" if wrong[0] in here else "lacks"
            where = f"in {places[wrong[0]]}" if wrong[0] in places else "nowhere"
            what = f"{problem} the tensor '{wrong[0]}', which the index has {where}"
            raise CheckpointError(f"{folder / file} {what}", FETCH_AGAIN)
    return {name: folder / file for name, file in places.items()}


def _read_index(index: Path) -> dict[str, str]:
    """The file of every tensor, all in the index's own folder."""
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} names no file", FETCH_AGAIN)
    plain = re.compile(r"[\w.-]+\.safetensors")
    for file in places.values():
        if not isinstance(file, str) or not plain.fullmatch(file):
            what = f"{index} names {file!r}, which is not in its folder"
            raise CheckpointError(what, FETCH_AGAIN)
    return places


def read_names(path: Path) -> list[str]:
    """Return the names of the tensors in one file. Raises ``CheckpointError``."""
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist", "only safetensors are read") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged ({error})", "fetch it again") from None


def read_tensor(path: Path, name: str) -> Tensor:
    """Return one tensor, on the pages of the file: to be copied and let go."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)
