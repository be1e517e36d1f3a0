"""Safetensors files as transformers lays them out: one, or several and an index that names them.

Tensors are read one at a time from a memory map that is closed again, since pages of a map that
have been read count as memory.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from minillama.errors import CheckpointError
from minillama.files import write_json
from minillama.interop.common import MEND, read_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_BYTES = 5_000_000_000
"""The usual limit of one file."""


def plan(sizes: Mapping[str, int], max_bytes: int = MAX_BYTES) -> dict[str, list[str]]:
    """Which tensors go into which file: in order, and one that is too large has its own.

    Args:
        sizes: the bytes of every tensor.
        max_bytes: of one file, headers not counted.
    """
    parts: list[list[str]] = []
    current: list[str] = []
    used = 0
    for name, size in sizes.items():
        if size > max_bytes:
            parts.append([name])
            continue
        if used + size > max_bytes:
            parts.append(current)
            current, used = [], 0
        current.append(name)
        used += size
    parts += [current] if current else []
    if len(parts) == 1:
        return {SINGLE: parts[0]}
    return {f"model-{i:05}-of-{len(parts):05}.safetensors": part for i, part in enumerate(parts, 1)}


def write(
    folder: Path,
    files: Mapping[str, Iterable[str]],
    sizes: Mapping[str, int],
    tensor: Callable[[str], Tensor],
) -> None:
    """Write the files of a ``plan``; of the tensors, only those of one file exist at a time."""
    parameters = 0
    for file, names in files.items():
        content = {name: tensor(name) for name in names}
        parameters += sum(weight.numel() for weight in content.values())
        save_file(content, folder / file, metadata={"format": "pt"})
    if list(files) != [SINGLE]:
        places = {name: file for file, names in files.items() for name in names}
        totals = {"total_parameters": parameters, "total_size": sum(sizes.values())}
        weight_map = dict(sorted(places.items()))
        write_json(folder / INDEX, {"metadata": totals, "weight_map": weight_map})


def find(folder: Path) -> dict[str, Path]:
    """The file of every tensor.

    Raises:
        CheckpointError: a file is missing or damaged, or the index is not of these files.
    """
    single, index = folder / SINGLE, folder / INDEX
    if not index.exists():
        return dict.fromkeys(header(single), single)
    if single.exists():
        raise CheckpointError(f"{folder} holds {SINGLE} and {INDEX}", "remove what is not wanted")
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} names no file", MEND)
    for file in places.values():
        if not isinstance(file, str) or not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise CheckpointError(f"{index} names {file!r}, which is not in its folder", MEND)
    for file in sorted(set(places.values())):
        here = header(folder / file).keys()
        if wrong := sorted(here ^ {name for name in places if places[name] == file}):
            problem = "has" if wrong[0] in here else "lacks"
            where = f"in {places[wrong[0]]}" if wrong[0] in places else "nowhere"
            what = f"{problem} the tensor '{wrong[0]}', which the index has {where}"
            raise CheckpointError(f"{folder / file} {what}", MEND)
    return {name: folder / file for name, file in places.items()}


def header(path: Path) -> dict[str, Tensor]:
    """The tensors of one file, with shapes and types and without numbers."""
    return {name: read(path, name).to("meta") for name in _names(path)}


def _names(path: Path) -> list[str]:
    try:
        with safe_open(path, framework="pt") as file:
            return list(file.keys())
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist", "only safetensors are read") from None
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged ({error})", "fetch it again") from None


def read(path: Path, name: str) -> Tensor:
    """One tensor, on the pages of the file: to be copied and let go."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(name)
