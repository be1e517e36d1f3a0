"""What all formats share: settings, a tokenizer that fits, and a model assembled from weights."""

import contextlib
import os
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from torch import Tensor

from minillama.config import ModelConfig
from minillama.errors import CheckpointError, DataError
from minillama.files import atomic_path, read_json, remove
from minillama.model import Llama, model_table
from minillama.tokenizer import Tokenizer

MEND = "fetch the folder again"

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""Types that a model can compute with; others, such as 8 bits, only store."""

LARGEST = {"dim": 2**17, "hidden_dim": 2**20, "n_layers": 2**10, "vocab_size": 2**20,
           "max_seq_len": 2**20}  # fmt: skip
"""More than any model has. Damaged settings beyond would take hours, or all memory."""


def check_size(config: ModelConfig, source: object) -> ModelConfig:
    """The configuration; raises ``CheckpointError`` if it is beyond ``LARGEST``."""
    for field, largest in LARGEST.items():
        if (value := getattr(config, field)) > largest:
            raise CheckpointError(
                f"{source}: {field} = {value}, but at most {largest} can be loaded", "check it"
            )
    return config


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ``CheckpointError`` naming the file."""
    try:
        value = read_json(path)
    except DataError as error:
        raise CheckpointError(error.what, MEND) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no settings", MEND)
    return value


def read_tokenizer(path: Path) -> Tokenizer:
    """A SentencePiece model. Raises ``CheckpointError`` naming the file."""
    try:
        return Tokenizer.load(path)
    except DataError as error:
        raise CheckpointError(error.what, MEND) from None


def check_vocabulary(tokenizer: Tokenizer, config: ModelConfig, folder: Path) -> None:
    """Raise ``CheckpointError`` unless pieces are as many as the model's, and marks 0, 1, 2."""
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} pieces but the model has "
            f"{config.vocab_size}",
            "use the tokenizer that the model was trained with",
        )
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    marks = processor.unk_id(), processor.bos_id(), processor.eos_id()
    if marks != (Tokenizer.unk_id, Tokenizer.bos_id, Tokenizer.eos_id):
        raise CheckpointError(
            f"{folder}: <unk>, <s> and </s> have the ids {marks}, not (0, 1, 2)",
            "only vocabularies laid out as LLaMA's can be used",
        )


@contextlib.contextmanager
def whole_folder(folder: Path, weights: str, files: Collection[str], last: str) -> Iterator[Path]:
    """Yield a folder aside, whose files become those of ``folder`` if the block succeeds.

    If the folder exists, files of the same names are replaced. ``last``, without which it is no
    model, is then taken away first and put there last: whenever it is cut off, no half of one model
    is read with half of another.

    Args:
        folder: where the files are to be.
        weights: how the names of files with weights end.
        files: those that will be written.
        last: the file with the settings.

    Raises:
        CheckpointError: the folder holds weights of another checkpoint, which would be mixed in.
    """
    others = {file for file in folder.glob(f"*{weights}") if file.name not in files}
    if others:
        raise CheckpointError(f"{min(others)} is of another checkpoint", "name another folder")
    new = folder / f".{uuid.uuid4().hex[:8]}.new" if folder.exists() else folder
    with atomic_path(new) as aside:
        aside.mkdir()
        yield aside
    if new != folder:
        try:
            (folder / last).unlink(missing_ok=True)
            for file in sorted(new.iterdir(), key=lambda file: file.name == last):
                os.replace(file, folder / file.name)
        finally:
            remove(new)


def blank(config: ModelConfig) -> Llama:
    """A model whose weights have shapes and no memory."""
    with torch.device("meta"):
        return Llama(config)


def assemble(config: ModelConfig, state: dict[str, Tensor]) -> Llama:
    """The model of these weights, which are not copied and keep their dtype."""
    model = blank(config)
    model.load_state_dict(state, assign=True)
    model.rotary = model_table(config)
    return model.eval()
