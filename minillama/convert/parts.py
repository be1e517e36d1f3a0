"""What all formats share: settings, a tokenizer that fits, and a model assembled from weights."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minillama.config import ModelConfig
from minillama.errors import CheckpointError, DataError
from minillama.files import read_json
from minillama.model import Llama, rotary_table
from minillama.tokenizer import Tokenizer

MEND = "fetch the folder again"


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
    """Raise ``CheckpointError`` unless tokenizer and model have the same number of pieces."""
    if tokenizer.vocab_size != config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} pieces but the model has "
            f"{config.vocab_size}",
            "use the tokenizer that the model was trained with",
        )


def blank(config: ModelConfig) -> Llama:
    """A model whose weights have shapes and no memory."""
    with torch.device("meta"):
        return Llama(config)


def assemble(config: ModelConfig, state: dict[str, Tensor]) -> Llama:
    """The model of these weights, which are not copied and keep their dtype."""
    model = blank(config)
    model.load_state_dict(state, assign=True)
    model.rotary = rotary_table(config.head_dim, config.max_seq_len, config.rope_theta)
    return model.eval()
