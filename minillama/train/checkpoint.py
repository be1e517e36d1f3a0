"""Checkpoints that are whole or absent, and a run folder that always has a last good one.

``checkpoints/step-00000100/`` is written aside, checksummed and renamed, so a crash at any moment
leaves the previous checkpoint in place. Loading checks the sums and falls back to an older one.

What one process writes is here. Where the model is spread over many, each writes its own pieces
(``sharded``); both forms have a state.json and a manifest.json, and are read by what is below.
"""

import errno
import hashlib
import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from minillama.config import ModelConfig
from minillama.errors import CheckpointError, MinillamaError
from minillama.files import atomic_path, read_json, remove, sha256, write_json
from minillama.model import Llama
from minillama.scale.checkpoint_storage import INDEX, MEND, PieceReader, fill, is_weight, read_index
from minillama.tokenizer import Tokenizer

PARTS = ("model.safetensors", "optimizer.pt", "state.json")
PIECES = re.compile(r"(weights|moments)-\d{5}-of-\d{5}\.safetensors")


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
        with atomic_path(target) as aside:
            aside.mkdir()
            save_file(weights, aside / "model.safetensors")
            torch.save(optimizer, aside / "optimizer.pt")
            write_json(aside / "state.json", {**state, "step": step})
            sums = {file.name: sha256(file) for file in sorted(aside.iterdir())}
            write_json(aside / "manifest.json", sums)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise cannot_write(target, error) from error
    return target


def cannot_write(target: Path, error: BaseException, who: str = "") -> CheckpointError:
    """What to tell when the checkpoint ``target`` could not be written; ``who`` names the rank."""
    reason = str(error).split("\n")[0]
    full = getattr(error, "errno", None) == errno.ENOSPC or "no space left" in reason.lower()
    last = steps(target.parents[1])
    kept = f"the checkpoint of step {last[-1]} is intact" if last else "none was written before"
    return CheckpointError(
        f"cannot write {target}: {'the disk is full' if full else reason}{who}",
        f"{kept}; make room and run the same command again",
    )


def delete(checkpoint: Path) -> None:
    """Delete a checkpoint if it is there; a crash on the way leaves it whole or gone."""
    aside = checkpoint.with_name(f".{checkpoint.name}.tmp")
    if checkpoint.exists():
        remove(aside)
        os.replace(checkpoint, aside)
        remove(aside)


def prune(run: Path, keep: set[int], last: int = 2) -> None:
    """Delete all checkpoints but the ``last`` newest and the steps in ``keep``."""
    for step in steps(run)[:-last]:
        if step not in keep:
            delete(folder(run, step))


def is_sharded(checkpoint: Path) -> bool:
    """Whether many processes wrote this checkpoint, each its pieces."""
    return (checkpoint / INDEX).exists()


def read_manifest(checkpoint: Path) -> dict[str, str]:
    """The SHA-256 digest of every file of a checkpoint. Raises ``CheckpointError``."""
    try:
        manifest = read_json(checkpoint / "manifest.json")
    except MinillamaError as error:
        raise CheckpointError(error.what, MEND) from None
    names = set(manifest) if isinstance(manifest, dict) else set()
    pieces = {name for name in names if PIECES.fullmatch(name)}
    if names != set(PARTS) and not (pieces and names - pieces == {INDEX, "state.json"}):
        raise CheckpointError(f"{checkpoint}/manifest.json is malformed", MEND)
    return manifest


def weights_digest(checkpoint: Path) -> str:
    """What identifies the weights of a checkpoint: the digest of their file, or of all digests."""
    manifest = read_manifest(checkpoint)
    if "model.safetensors" in manifest:
        return manifest["model.safetensors"]
    sums = [manifest[name] for name in sorted(manifest) if name.startswith("weights-")]
    return hashlib.sha256("".join(sums).encode()).hexdigest()


def verify(checkpoint: Path, part: int = 0, parts: int = 1) -> None:
    """Compare every file with the manifest. Raises ``CheckpointError`` naming the first bad one.

    Many processes share the work: each looks at its ``part`` of the files, of ``parts``.
    """
    manifest = read_manifest(checkpoint)
    for name, digest in list(manifest.items())[part::parts]:
        file = checkpoint / name
        if not file.exists() or sha256(file) != digest:
            raise CheckpointError(
                f"{file} is {'missing' if not file.exists() else 'damaged (its checksum differs)'}",
                MEND,
            )
    if part == 0 and is_sharded(checkpoint):
        files = {p.file for entry in read_index(checkpoint).values() for p in entry.pieces}
        if missing := files - manifest.keys():
            raise CheckpointError(f"{checkpoint}/manifest.json misses {min(missing)}", MEND)


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
    """Load a step's weights and optimizer state in place, bit for bit.

    Raises:
        CheckpointError: the checkpoint holds another model.
    """
    where = folder(run, step)
    load_weights(model, where)
    optimizer.load_state_dict(load_optimizer(where / "optimizer.pt"))


def load_optimizer(path: Path, on_disk: bool = False) -> dict[str, Any]:
    """The optimizer's state dictionary; ``on_disk``: its tensors are read when they are used.

    Raises:
        CheckpointError: the file holds anything but plain values and tensors, such as code.
    """
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=on_disk)
        moments = [value for of_weight in saved["state"].values() for value in of_weight.values()]
        if not all(isinstance(value, Tensor) for value in moments):
            raise TypeError("a moment that is no tensor")
    except (pickle.UnpicklingError, RuntimeError, LookupError, TypeError, AttributeError,
            EOFError) as error:  # fmt: skip
        raise CheckpointError(f"{path} is not an optimizer's state", MEND) from error
    return saved


def load_weights(model: Llama, checkpoint: Path) -> None:
    """Copy a checkpoint's weights, of either form, into ``model``, whose shapes must agree."""
    if is_sharded(checkpoint):
        index = read_index(checkpoint)
        weights = {name: entry for name, entry in index.items() if is_weight(name)}
        fill(PieceReader(checkpoint, weights), model.state_dict(), checkpoint / INDEX)
        return
    path = checkpoint / "model.safetensors"
    try:
        model.load_state_dict(load_file(path))
    except RuntimeError as error:
        first = str(error).strip().split("\n")[1:2] or [str(error)]
        raise CheckpointError(
            f"{path} does not fit the model: {first[0].strip()}",
            "use the configuration that the checkpoint was trained with",
        ) from None


def load_model(
    run: str | Path, step: int | None = None, device: str = "cpu"
) -> tuple[Llama, Tokenizer]:
    """The model of a run at ``step`` (the last good one by default), and its tokenizer.

    Raises:
        CheckpointError: no such run or step, a damaged file, or a tokenizer of another vocabulary.
    """
    from minillama.train.config import read_config  # config names nothing of this module

    run = Path(run)
    if not steps(run):
        raise CheckpointError(f"{run} has no checkpoints", "name a run folder, or train it first")
    if step is None:
        step = last_good(run)
        if step is None:
            raise CheckpointError(f"every checkpoint of {run} is damaged", "train the run again")
    elif step not in steps(run):
        raise CheckpointError(f"{run} has no checkpoint of step {step}", f"it has {steps(run)}")
    else:
        verify(folder(run, step))
    config: ModelConfig = read_config(run / "config.toml").model
    tokenizer = Tokenizer.load(run / "tokenizer.model")
    check_vocabulary(tokenizer, config, run / "tokenizer.model")
    trained_with = load_state(run, step).get("tokenizer")
    if trained_with not in (None, sha256(run / "tokenizer.model")):
        raise CheckpointError(
            f"{run}/tokenizer.model is not the tokenizer that the model was trained with",
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
