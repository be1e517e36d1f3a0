"""The files of a checkpoint of many processes: each writes its pieces, any mesh reads them again.

    weights-00003-of-00008.safetensors   rank 3's pieces of the weights
    moments-00003-of-00008.safetensors   and of the optimizer's moments
    index.json                           where each piece belongs in its tensor

Who writes which piece, copies only once, and who must read which part of which piece on another
mesh is planned by ``torch.distributed.checkpoint``. Its own storages either keep a pickle, which
may run code when it is opened, or every tensor whole; so the storage is ours: safetensors, JSON.
"""

import dataclasses
import json
import math
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint import metadata as meta
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from minillama.errors import CheckpointError
from minillama.files import atomic_path, read_json, remove, sha256, write_json, write_text

INDEX = "index.json"
MEND = "delete this checkpoint folder; training goes on from the one before"


@dataclasses.dataclass(frozen=True)
class Piece:
    """A box of a tensor: the file that holds it, where it begins, and its shape."""

    file: str
    start: tuple[int, ...]
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor's whole shape and the pieces that it was cut into."""

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]


Index = dict[str, Entry]
"""Every tensor of a checkpoint by name; moments are called ``exp_avg:`` and the weight's name."""


def is_weight(name: str) -> bool:
    """Whether a tensor of a checkpoint is a weight, not one of the optimizer's."""
    return ":" not in name


def write_index(path: Path, index: Index) -> None:
    """Write where every piece is, a line for each tensor."""
    lines = []
    for name, entry in sorted(index.items()):
        pieces = [[piece.file, piece.start, piece.shape] for piece in entry.pieces]
        value = json.dumps({"shape": entry.shape, "pieces": pieces}, separators=(",", ":"))
        lines.append(f"{json.dumps(name)}: {value}")
    write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def read_index(folder: Path) -> Index:
    """Where every piece of a checkpoint is.

    Raises:
        CheckpointError: the index is malformed, or its pieces do not fill a tensor.
    """
    values = read_json(folder / INDEX)
    try:
        index = {
            name: Entry(
                _sizes(value["shape"]),
                tuple(Piece(file, _sizes(at), _sizes(size)) for file, at, size in value["pieces"]),
            )
            for name, value in values.items()
        }
        for name, entry in index.items():
            filled = sum(math.prod(piece.shape) for piece in entry.pieces)
            if filled != math.prod(entry.shape) or not all(_fits(p, entry) for p in entry.pieces):
                raise ValueError(f"the pieces of {name} do not fill it")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / INDEX} is malformed ({error})", MEND) from None
    return index


def _sizes(values: Any) -> tuple[int, ...]:
    if not all(type(value) is int and value >= 0 for value in values):
        raise ValueError(f"{values} are no sizes")
    return tuple(values)


def _fits(piece: Piece, entry: Entry) -> bool:
    ends = [start + size for start, size in zip(piece.start, piece.shape, strict=True)]
    inside = all(end <= size for end, size in zip(ends, entry.shape, strict=True))
    return inside and Path(piece.file).name == piece.file


class PieceWriter(dcp.StorageWriter):
    """Writes a checkpoint folder aside, and moves it to its place when all ranks have written.

    Args:
        target: the checkpoint's folder, on a disk that all ranks see.
        state: written to state.json by the first rank.
    """

    def __init__(self, target: Path, state: dict[str, Any]) -> None:
        self.target, self.state = target, state
        self.aside = target.with_name(f".{target.name}.written.tmp")

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        """Nothing to prepare."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:
        """Nothing to prepare."""

    def prepare_local_plan(self, plan: dcp.SavePlan) -> dcp.SavePlan:
        """The planner's plan is good."""
        return plan

    def prepare_global_plan(self, plans: list[dcp.SavePlan]) -> list[dcp.SavePlan]:
        """Make the folder, on the first rank, and tell each rank how its files are called."""
        remove(self.aside)
        self.aside.mkdir(parents=True)
        return [
            dataclasses.replace(plan, storage_data=f"{rank:05d}-of-{len(plans):05d}.safetensors")
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: dcp.SavePlan, planner: dcp.SavePlanner) -> Future[list[WriteResult]]:
        """Write this rank's pieces and checksum its files."""
        files: dict[str, dict[str, Tensor]] = {}
        for item in plan.items:
            kind = "weights" if is_weight(item.index.fqn) else "moments"
            tensor = planner.resolve_data(item).detach().cpu().contiguous()
            files.setdefault(f"{kind}-{plan.storage_data}", {})[item.index.fqn] = tensor
        written = []
        for name, tensors in files.items():
            with atomic_path(self.aside / name) as path:
                save_file(tensors, path)
            digest = sha256(self.aside / name)
            written += [
                WriteResult(item.index, tensors[item.index.fqn].nbytes, (name, digest))
                for item in plan.items
                if item.index.fqn in tensors
            ]
        future: Future[list[WriteResult]] = Future()
        future.set_result(written)
        return future

    def finish(self, metadata: dcp.Metadata, results: list[list[WriteResult]]) -> None:
        """Write index, state and manifest, and give the folder its name, on the first rank."""
        written = [result for of_rank in results for result in of_rank]
        pieces: dict[str, list[Piece]] = {}
        for result in written:
            name, start = result.index.fqn, tuple(result.index.offset)
            chunks = metadata.state_dict_metadata[name].chunks
            shape = next(tuple(c.sizes) for c in chunks if tuple(c.offsets) == start)
            pieces.setdefault(name, []).append(Piece(result.storage_data[0], start, shape))
        sizes = {name: tuple(metadata.state_dict_metadata[name].size) for name in pieces}
        index = {name: Entry(sizes[name], tuple(pieces[name])) for name in pieces}
        write_index(self.aside / INDEX, index)
        write_json(self.aside / "state.json", self.state)
        sums = dict(result.storage_data for result in written)
        sums |= {name: sha256(self.aside / name) for name in (INDEX, "state.json")}
        write_json(self.aside / "manifest.json", dict(sorted(sums.items())))
        remove(self.target)
        with atomic_path(self.target) as last:
            os.replace(self.aside, last)

    def give_up(self) -> None:
        """Delete what was written aside, on the first rank."""
        remove(self.aside)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        """Folders come by the constructor."""
        return False


class PieceReader(dcp.StorageReader):
    """Reads the parts of pieces that a plan asks for, and not more.

    Args:
        folder: where the files lie.
        index: where every piece is.
        loaded: tensors that are no pieces of files, by name, each one whole.
    """

    def __init__(self, folder: Path, index: Index, loaded: dict[str, Tensor] | None = None) -> None:
        self.folder, self.loaded = folder, loaded or {}
        whole = {
            name: Entry(tuple(t.shape), (Piece("", (0,) * t.ndim, tuple(t.shape)),))
            for name, t in self.loaded.items()
        }
        self.index = index | whole

    def reset(self, checkpoint_id: str | os.PathLike | None = None) -> None:
        """Nothing to prepare."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> dcp.Metadata:
        """The index, in the words of torch's planner."""
        tensors, files = {}, {}
        for name, entry in self.index.items():
            chunks = []
            for piece in entry.pieces:
                start, shape = torch.Size(piece.start), torch.Size(piece.shape)
                chunks.append(meta.ChunkStorageMetadata(start, shape))
                files[meta.MetadataIndex(name, start)] = piece
            tensors[name] = meta.TensorStorageMetadata(
                meta.TensorProperties(), torch.Size(entry.shape), chunks
            )
        return dcp.Metadata(tensors, storage_data=files)

    def set_up_storage_reader(
        self, metadata: dcp.Metadata, is_coordinator: bool, *args: Any, **kwargs: Any
    ) -> None:
        """Keep which file holds which piece."""
        self.pieces: dict[meta.MetadataIndex, Piece] = metadata.storage_data

    def prepare_local_plan(self, plan: dcp.LoadPlan) -> dcp.LoadPlan:
        """The planner's plan is good."""
        return plan

    def prepare_global_plan(self, plans: list[dcp.LoadPlan]) -> list[dcp.LoadPlan]:
        """The planner's plans are good."""
        return plans

    def read_data(self, plan: dcp.LoadPlan, planner: dcp.LoadPlanner) -> Future[None]:
        """Copy what is asked for into the tensors that are to be filled."""
        by_file: dict[str, list[Any]] = {}
        for item in plan.items:
            by_file.setdefault(self.pieces[item.storage_index].file, []).append(item)
        for file, items in by_file.items():
            if not file:
                self._copy(items, planner, self.loaded.__getitem__)
                continue
            with safe_open(self.folder / file, framework="pt") as opened:
                self._copy(items, planner, opened.get_slice)
        future: Future[None] = Future()
        future.set_result(None)
        return future

    def _copy(self, items: list[Any], planner: dcp.LoadPlanner, find: Callable[[str], Any]) -> None:
        for item in items:
            box = tuple(
                slice(start, start + size)
                for start, size in zip(item.storage_offsets, item.lengths, strict=True)
            )
            target = planner.resolve_tensor(item).detach()
            target.copy_(find(item.storage_index.fqn)[box])
            planner.commit_tensor(item, target)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike) -> bool:
        """Folders come by the constructor."""
        return False


def fill(
    reader: PieceReader, tensors: dict[str, Tensor], path: Path, together: bool = False
) -> None:
    """Copy a checkpoint's tensors into ``tensors``, in place; of DTensors, the local part.

    Args:
        path: named in errors.
        together: all ranks call this, and an error of one is raised on all.

    Raises:
        CheckpointError: the checkpoint is of another model, or cannot be read.
    """
    kinds = {is_weight(name) for name in tensors}
    saved = {name: e.shape for name, e in reader.index.items() if is_weight(name) in kinds}
    wanted = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in sorted(saved.keys() | wanted.keys(), key=lambda name: (not is_weight(name), name)):
        if saved.get(name) != wanted.get(name):
            there, here = (shapes.get(name, "absent") for shapes in (saved, wanted))
            raise CheckpointError(
                f"{path} does not fit the model: {name} is {there} there and {here} in the model",
                "use the configuration that the checkpoint was trained with",
            )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "assuming the intent is to load in a single process"
            dcp.load(dict(tensors), storage_reader=reader, no_dist=not together)
    except dcp.CheckpointException as failed:
        rank, (error, _) = sorted(failed.failures.items())[0]
        reason = f"{str(error).splitlines()[0]} (rank {rank})"
        raise CheckpointError(f"cannot read {path.parent}: {reason}", MEND) from None
