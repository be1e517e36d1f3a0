"""What all formats share: settings, a tokenizer that fits, and a model assembled from weights."""

import contextlib
import os
import uuid
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from safetensors import SafetensorError
from torch import Tensor

from minillama.config import ModelConfig
from minillama.errors import CheckpointError, DataError
from minillama.files import atomic_path, read_json, remove
from minillama.model import Llama, model_table
from minillama.tokenizer import Tokenizer

FETCH_AGAIN = "fetch the folder again"

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Types that a model can compute with; others, such as 8 bits, only store."""

LARGEST = {
    "dim": 2**17,
    "hidden_dim": 2**20,
    "n_layers": 2**10,
    "vocab_size": 2**20,
    "max_seq_len": 2**20,
}
"""More than any model has. Damaged settings beyond would take hours, or all memory."""


def check_size(config: ModelConfig, source: object) -> ModelConfig:
    """Return the configuration; raise ``CheckpointError`` if it is beyond ``LARGEST``."""
    for field, largest in LARGEST.items():
        value = getattr(config, field)
        if value > largest:
            raise CheckpointError(
                f"{source}: {field} = {value}, but at most {largest} can be loaded", "check it"
            )
    return config


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises ``CheckpointError`` naming the file."""
    try:
        value = read_json(path)
    except DataError as error:
        raise CheckpointError(error.what, FETCH_AGAIN) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no settings", FETCH_AGAIN)
    return value


def read_tokenizer(path: Path) -> Tokenizer:
    """Read a SentencePiece model. Raises ``CheckpointError`` naming the file."""
    try:
        return Tokenizer.load(path)
    except DataError as error:
        raise CheckpointError(error.what, FETCH_AGAIN) from None


def check_llama_vocabulary(tokenizer: Tokenizer, config: ModelConfig, source: Path) -> None:
    """Raise ``CheckpointError`` unless pieces are as many as the model's, and marks 0, 1, 2."""
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{source}: the tokenizer has {tokenizer.vocab_size} pieces but the model has "
            f"{config.vocab_size}",
            "use the tokenizer that the model was trained with",
        )
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    marks = processor.unk_id(), processor.bos_id(), processor.eos_id()
    if marks != (Tokenizer.unk_id, Tokenizer.bos_id, Tokenizer.eos_id):
        raise CheckpointError(
            f"{source}: <unk>, <s> and </s> have the ids {marks}, not (0, 1, 2)",
            "only vocabularies laid out as LLaMA's can be used",
        )


def model_shapes(config: ModelConfig) -> dict[str, torch.Size]:
    """Return the shape of every weight, by Meta's name, without making any of them."""
    return {name: weight.shape for name, weight in empty_model(config).state_dict().items()}


def check_tensors(
    found: Mapping[str, Tensor], expected: Mapping[str, torch.Size], source: object
) -> None:
    """Raise ``CheckpointError`` unless names and shapes are the model's, and all types floats.

    Args:
        found: tensors by name; those of the device "meta" will do.
        expected: the shape of every tensor, under the same names.
        source: what is named in the error.
    """
    hint = "it is not the model that its settings describe"
    if wrong := sorted(found.keys() ^ expected.keys()):
        problem = "has an unknown tensor" if wrong[0] in found else "lacks the tensor"
        raise CheckpointError(f"{source} {problem} '{wrong[0]}'", hint)
    for name, shape in expected.items():
        tensor = found[name]
        if tensor.shape != shape or tensor.dtype not in FLOATS:
            actual = f"{tuple(tensor.shape)} {tensor.dtype}"
            what = f"{source}: '{name}' is {actual}, not {tuple(shape)} of a float type"
            raise CheckpointError(what, hint)


@contextlib.contextmanager
def whole_folder(folder: Path, weights: str, files: Collection[str], last: str) -> Iterator[Path]:
    """Yield a temporary folder, whose files become those of ``folder`` if the block succeeds.

    If the folder exists, files of the same names are replaced. ``last``, without which it is no
    model, is then taken away first and put there last: whenever it is cut off, no half of one model
    is read with half of another.

    Args:
        folder: where the files are to be.
        weights: how the names of files with weights end.
        files: those that will be written.
        last: the file with the settings.

    Raises:
        CheckpointError: the folder holds weights of another checkpoint, which would be mixed in,
            or it cannot be written.
    """
    there = folder.glob(f"*{weights}")
    others = [file for file in there if file.name not in files]
    if others:
        raise CheckpointError(f"{min(others)} is of another checkpoint", "name another folder")
    new = folder / f".{uuid.uuid4().hex[:8]}.new" if folder.exists() else folder
    with atomic_path(new) as tmp:
        tmp.mkdir()
        yield tmp
    if new != folder:
        try:
            (folder / last).unlink(missing_ok=True)
            for file in sorted(new.iterdir(), key=lambda file: file.name == last):
                os.replace(file, folder / file.name)
        finally:
            remove(new)


@contextlib.contextmanager
def explained_write(target: Path) -> Iterator[None]:
    """Turn what goes wrong while ``target`` is written into one ``CheckpointError``."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = str(error).split("\n")[0]
        raise CheckpointError(f"cannot write {target}: {reason}", "name another place") from error


def empty_model(config: ModelConfig) -> Llama:
    """Build a model whose weights have shapes and no memory."""
    with torch.device("meta"):
        return Llama(config)


def assemble_model(config: ModelConfig, state: dict[str, Tensor]) -> Llama:
    """Build the model of these weights, which are not copied and keep their dtype."""
    model = empty_model(config)
    model.load_state_dict(state, assign=True)
    model.rotary = model_table(config)
    return model.eval()
