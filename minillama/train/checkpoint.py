"""Checkpoints that are whole or absent, and a run folder that always has a last good one.

``checkpoints/step-00000100/`` is written under another name, checksummed and renamed, so a crash at
any moment leaves the previous checkpoint in place. Loading compares the checksums and falls back to
an older one. Beside state.json and manifest.json, which has the checksums, lie

- of one process: ``model.safetensors`` and ``optimizer.pt``;
- of many, each of which holds a part (``scale.distributed_checkpoint``): its shards of the weights
  in ``shard-00001-model-00001-of-00002.safetensors``, and of the optimizer's state in ``-00002-``.
"""

import errno
import hashlib
import os
import pickle
import re
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.utils._pytree import tree_map_only

from minillama.config import ModelConfig
from minillama.errors import CheckpointError, DataError
from minillama.files import atomic_path, read_json, remove, sha256, write_json
from minillama.model import Llama
from minillama.tokenizer import Tokenizer
from minillama.train.config import read_config

PARTS = {"model.safetensors", "optimizer.pt", "state.json"}
SHARD = re.compile(r"shard-\d{5}-model-0000[12]-of-00002\.safetensors")
OPTIMIZER = "state."
"""How the names of the optimizer's tensors begin in a sharded checkpoint."""
HINT = "delete this checkpoint folder; training goes on from the one before"


def steps(run: str | Path) -> list[int]:
    """The steps at which a run has a checkpoint, in order."""
    found = (re.fullmatch(r"step-(\d{8})", p.name) for p in Path(run, "checkpoints").glob("step-*"))
    return sorted(int(match[1]) for match in found if match)


def folder(run: str | Path, step: int) -> Path:
    """Where the checkpoint of ``step`` lies."""
    return Path(run) / "checkpoints" / f"step-{step:08d}"


def save(
    run: Path, step: int, model: Llama, optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> Path:
    """Write model, optimizer and state of a step.

    Raises:
        CheckpointError: the disk is full or not writable; earlier checkpoints are untouched.
    """
    return write(run, step, model.state_dict(), optimizer.state_dict(), state)


def write(
    run: Path,
    step: int,
    weights: dict[str, Tensor],
    optimizer: dict[str, Any],
    state: dict[str, Any],
) -> Path:
    """Write what ``save`` says, of state dictionaries."""
    target = folder(run, step)
    delete(target)
    try:
        with atomic_path(target) as tmp:
            tmp.mkdir()
            save_file(weights, tmp / "model.safetensors")
            torch.save(optimizer, tmp / "optimizer.pt")
            write_json(tmp / "state.json", {**state, "step": step})
            digests = {file.name: sha256(file) for file in sorted(tmp.iterdir())}
            write_json(tmp / "manifest.json", digests)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise cannot_write(target, error) from error
    return target


def cannot_write(target: Path, error: BaseException, who: str = "") -> CheckpointError:
    """The error of a checkpoint that could not be written; ``who`` names the rank."""
    reason = str(error).split("\n")[0]
    if getattr(error, "errno", None) == errno.ENOSPC or "no space left" in reason.lower():
        reason = "the disk is full"
    last = steps(target.parents[1])
    kept = f"the checkpoint of step {last[-1]} is intact" if last else "none was written before"
    hint = f"{kept}; make room and run the same command again"
    return CheckpointError(f"cannot write {target}: {reason}{who}", hint)


def delete(checkpoint: Path) -> None:
    """Delete a checkpoint if it is there; a crash on the way leaves it whole or gone."""
    tmp = checkpoint.with_name(f".{checkpoint.name}.tmp")
    if checkpoint.exists():
        remove(tmp)
        os.replace(checkpoint, tmp)
        remove(tmp)


def prune(run: Path, keep: set[int], last: int = 2) -> None:
    """Delete all checkpoints but the ``last`` newest and the steps in ``keep``."""
    for step in steps(run)[:-last]:
        if step not in keep:
            delete(folder(run, step))


class LocalSaver:
    """Writes the checkpoints of a run, if asked while training goes on.

    In the background at most one is being written, from a copy in the CPU's memory; a failure is
    raised by the next call.

    Args:
        run: the run folder.
        keep: steps whose checkpoints are kept for good.
        background: return as soon as the copy is made.
    """

    def __init__(self, run: Path, keep: set[int], background: bool = False) -> None:
        self.run, self.keep = run, keep
        self._executor = ThreadPoolExecutor(1) if background else None
        self._writing: Future[None] | None = None

    def save(
        self, step: int, model: Llama, optimizer: torch.optim.Optimizer, state: dict[str, Any]
    ) -> None:
        """Write the checkpoint of ``step`` and delete those that are no longer needed.

        Raises:
            CheckpointError: it, or the one before in the background, could not be written.
        """
        self.wait()
        tensors = self.collect(model, optimizer)
        if self._executor is None:
            self.write(step, tensors, state)
        else:
            copies = tree_map_only(Tensor, copy_to_cpu, tensors)
            self._writing = self._executor.submit(self.write, step, copies, state)

    def collect(self, model: Llama, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """What this process has to write."""
        return {"weights": model.state_dict(), "optimizer": optimizer.state_dict()}

    def write(self, step: int, tensors: dict[str, Any], state: dict[str, Any]) -> None:
        """Write what was collected, and delete old checkpoints."""
        write(self.run, step, **tensors, state=state)
        prune(self.run, self.keep)

    @property
    def failed(self) -> bool:
        """Whether the checkpoint in the background could not be written, as far as is known."""
        writing = self._writing
        return writing is not None and writing.done() and writing.exception() is not None

    def wait(self) -> None:
        """Return when nothing is being written any more.

        Raises:
            CheckpointError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing:
            writing.result()


def copy_to_cpu(tensor: Tensor) -> Tensor:
    """A copy of a tensor, of a DTensor's local part, in the CPU's memory."""
    return tensor.detach().to("cpu", copy=True)


def is_sharded(checkpoint: Path) -> bool:
    """Whether many processes wrote this checkpoint, each its shards."""
    return any(checkpoint.glob("shard-*"))


def read_manifest(checkpoint: Path) -> dict[str, str]:
    """The SHA-256 digest of every file of a checkpoint. Raises ``CheckpointError``."""
    try:
        manifest = read_json(checkpoint / "manifest.json")
    except DataError as error:
        raise CheckpointError(error.what, HINT) from None
    names = set(manifest) if isinstance(manifest, dict) else set()
    shards = set(filter(SHARD.fullmatch, names))
    if names != PARTS and not (shards and names == shards | {"state.json"}):
        raise CheckpointError(f"{checkpoint}/manifest.json is malformed", HINT)
    return manifest


def weights_digest(checkpoint: Path) -> str:
    """What identifies the weights of a checkpoint: the digest of their file, or of all digests."""
    manifest = read_manifest(checkpoint)
    if "model.safetensors" in manifest:
        return manifest["model.safetensors"]
    digests = [manifest[name] for name in sorted(manifest) if "-00001-of-" in name]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def verify(checkpoint: Path, part: int = 0, parts: int = 1) -> None:
    """Compare every file with the manifest. Raises ``CheckpointError`` naming the first bad one.

    Many processes share the work: each looks at its ``part`` of the files, of ``parts``.
    """
    manifest = read_manifest(checkpoint)
    for name in list(manifest)[part::parts]:
        file = checkpoint / name
        if not file.exists():
            raise CheckpointError(f"{file} is missing", HINT)
        if sha256(file) != manifest[name]:
            raise CheckpointError(f"{file} is damaged (its checksum differs)", HINT)
    for file in checkpoint.glob("*.safetensors"):  # all of them are read
        if file.name not in manifest:
            raise CheckpointError(f"{checkpoint}/manifest.json misses {file.name}", HINT)


def last_good(run: str | Path) -> int | None:
    """The newest step whose checkpoint is whole; damaged ones are named in a warning."""
    for step in reversed(steps(run)):
        try:
            verify(folder(run, step))
            return step
        except CheckpointError as error:
            warnings.warn(f"skipping a damaged checkpoint: {error}", stacklevel=2)
    return None


def load_state(run: Path, step: int) -> dict[str, Any]:
    """The state saved with ``step``: at least ``step`` and the fingerprint of its data."""
    return read_json(folder(run, step) / "state.json")


def restore(run: Path, step: int, model: Llama, optimizer: torch.optim.Optimizer) -> None:
    """Load the weights and optimizer state that one process saved, in place, bit for bit."""
    load_weights(model, folder(run, step))
    optimizer.load_state_dict(load_optimizer(folder(run, step) / "optimizer.pt"))


def load_optimizer(path: Path, on_disk: bool = False) -> dict[str, Any]:
    """The optimizer's state dictionary; ``on_disk``: its tensors are read when they are used.

    Raises:
        CheckpointError: the file holds anything but plain values and tensors, such as code.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=on_disk)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is not an optimizer's state", HINT) from error


def load_weights(model: Llama, checkpoint: Path) -> None:
    """Copy a checkpoint's weights, of either form, into ``model``, whose shapes must agree."""
    read_tensors(checkpoint, model.state_dict())


def read_tensors(checkpoint: Path, tensors: dict[str, Tensor], together: bool = False) -> None:
    """Fill ``tensors`` from the safetensors files of a checkpoint; of a DTensor, the local part.

    Args:
        checkpoint: the folder.
        tensors: the weights, or weights and moments, by the names that they were saved under.
        together: all ranks call this, and an error of one is raised on all.

    Raises:
        CheckpointError: the checkpoint is of another model, or cannot be read.
    """
    reader = dcp.HuggingFaceStorageReader(str(checkpoint))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "assuming the intent is to load in a single process"
            planner = _StrictPlanner(checkpoint)
            dcp.load(tensors, storage_reader=reader, planner=planner, no_dist=not together)
    except dcp.CheckpointException as failed:
        rank, (error, _) = min(failed.failures.items())
        if isinstance(error, CheckpointError):
            raise error from None
        reason = f"{str(error).splitlines()[0]} (rank {rank})"
        raise CheckpointError(f"cannot read {checkpoint}: {reason}", HINT) from None


class _StrictPlanner(dcp.DefaultLoadPlanner):
    """Refuses a checkpoint of more or other tensors than are to be filled, or one with holes."""

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self.checkpoint = checkpoint

    def set_up_planner(
        self, state_dict: dict[str, Tensor], metadata: Any = None, is_coordinator: bool = False
    ) -> None:
        """Compare names, shapes and sizes. Raises ``CheckpointError``."""
        saved = metadata.state_dict_metadata
        if not any(name.startswith(OPTIMIZER) for name in state_dict):
            saved = {name: saved[name] for name in saved if not name.startswith(OPTIMIZER)}
        for name in sorted(saved.keys() | state_dict.keys()):
            there = list(saved[name].size) if name in saved else "absent"
            here = list(state_dict[name].shape) if name in state_dict else "absent"
            if there != here:
                raise CheckpointError(
                    f"{self.checkpoint} does not fit the model: "
                    f"{name} is {there} there and {here} in the model",
                    "use the configuration that the checkpoint was trained with",
                )
            sizes = [chunk.sizes.numel() for chunk in saved[name].chunks]
            if sum(sizes) != state_dict[name].numel():
                what = f"{self.checkpoint}: the shards of {name} do not fill it"
                raise CheckpointError(what, HINT)
        super().set_up_planner(state_dict, metadata, is_coordinator)


def load_model(
    run: str | Path, step: int | None = None, device: str = "cpu"
) -> tuple[Llama, Tokenizer]:
    """The model of a run at ``step`` (the last good one by default), and its tokenizer.

    Raises:
        CheckpointError: no such run or step, a damaged file, or a tokenizer of another vocabulary.
    """
    run, found = Path(run), steps(run)
    if not found:
        raise CheckpointError(f"{run} has no checkpoints", "name a run folder, or train it first")
    if step is None:
        step = last_good(run)
    elif step in found:
        verify(folder(run, step))
    else:
        raise CheckpointError(f"{run} has no checkpoint of step {step}", f"it has {found}")
    if step is None:
        raise CheckpointError(f"every checkpoint of {run} is damaged", "train the run again")
    config, path = read_config(run / "config.toml").model, run / "tokenizer.model"
    tokenizer = Tokenizer.load(path)
    check_vocabulary(tokenizer, config, path)
    if load_state(run, step).get("tokenizer") not in (None, sha256(path)):
        raise CheckpointError(
            f"{path} is not the tokenizer that the model was trained with",
            "copy it again from the corpus's folder",
        )
    model = Llama(config)
    load_weights(model, folder(run, step))
    return model.to(device).eval(), tokenizer


def check_vocabulary(tokenizer: Tokenizer, config: ModelConfig, path: Path) -> None:
    """Raise ``CheckpointError`` unless tokenizer and model have the same number of pieces."""
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{path} has {tokenizer.vocab_size} pieces but the model has {config.vocab_size}",
            "use the tokenizer that the model was trained with",
        )
