"""llama2.c's format, version 0: a header and float32 tensors, one kind after another.

The program that reads it is 700 lines of C without a library. Rotary pairs are neighbors there as
here. The format has no field for two settings: llama2.c turns by angles of base 10,000 and adds
1e-5 to the mean square in RMSNorm (1e-6 in the paper), which matters only for vectors near zero.
"""

import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from minillama.config import ModelConfig
from minillama.errors import CheckpointError, ConfigError
from minillama.files import atomic_path
from minillama.interop.common import (
    FETCH_AGAIN,
    assemble_model,
    check_llama_vocabulary,
    explained_write,
    model_shapes,
)
from minillama.interop.huggingface_config import config_from_huggingface
from minillama.interop.vocabulary import Kind, Piece, read_pieces, tokenizer_of
from minillama.model import Llama
from minillama.tokenizer import SPACE, Tokenizer

KINDS = (
    "attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo",
    "ffn_norm", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3",
)  # fmt: skip
"""The weights of the layers in the order of the file; each kind for all layers in turn."""

HEADER = struct.Struct("<7i")
HEADER_KEYS = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
               "num_key_value_heads", "vocab_size", "max_position_embeddings")  # fmt: skip
"""Seven whole numbers, by Hugging Face's names. A negative vocabulary tells that the model has an
output matrix of its own."""

MARKS = {Tokenizer.bos_id: "\n<s>\n", Tokenizer.eos_id: "\n</s>\n"}
"""The control pieces, named as no prompt is."""


def save(model: Llama, tokenizer: Tokenizer, path: str | Path) -> Path:
    """Write the weights to ``path`` and the vocabulary to ``tokenizer.bin`` beside it.

    Raises:
        CheckpointError: the tokenizer is another model's, or the files cannot be written.
        ConfigError: the model's rotary base is not llama2.c's.
    """
    path, config = Path(path), model.config
    check_llama_vocabulary(tokenizer, config, path)
    if config.rope_base != ModelConfig.rope_theta:
        raise ConfigError(
            f"rope_theta = {config.rope_base:g}, but llama2.c knows only 10000",
            "save the model in another format",
        )
    # The weights; after the layers cosines and sines, each (max_seq_len, head_dim / 2).
    state = model.state_dict()
    tensors = [state[name] for name in _names_in_order(config.n_layers)]
    tensors += model.rotary.unbind(-1)
    vocab_size = config.vocab_size
    if not torch.equal(state["tok_embeddings.weight"], state["output.weight"]):
        tensors.append(state["output.weight"])
        vocab_size = -vocab_size
    sizes = (config.dim, config.hidden_dim, config.n_layers, config.n_heads, config.n_heads)
    with (
        explained_write(path),
        atomic_path(path.with_name("tokenizer.bin")) as vocabulary_tmp,
        atomic_path(path) as tmp,
    ):
        vocabulary_tmp.write_bytes(vocabulary_bytes(tokenizer))
        with open(tmp, "wb") as file:
            file.write(HEADER.pack(*sizes, vocab_size, config.max_seq_len))
            for tensor in tensors:
                file.write(tensor.detach().cpu().float().contiguous().numpy().astype("<f4"))
    return path


def _names_in_order(n_layers: int) -> list[str]:
    """Meta's names in the order of the file, without the output matrix, which comes after all."""
    layers = [f"layers.{i}.{kind}.weight" for kind in KINDS for i in range(n_layers)]
    return ["tok_embeddings.weight", *layers, "norm.weight"]


def vocabulary_bytes(tokenizer: Tokenizer) -> bytes:
    """Return ``tokenizer.bin``: the longest piece's length; then score, length, bytes of each.

    Pieces are as SentencePiece names them, with plain spaces; llama2.c knows ``<0x0A>`` for a byte.
    """
    content, longest = [], 0
    for i, piece in enumerate(read_pieces(tokenizer)):
        text = MARKS.get(i, piece.text).replace(SPACE, " ").encode()
        content.append(struct.pack("<fi", piece.score, len(text)) + text)
        longest = max(longest, len(text))
    return struct.pack("<i", longest) + b"".join(content)


def load(path: str | Path) -> tuple[Llama, Tokenizer]:
    """Read a model file and ``tokenizer.bin`` beside it; the weights are float32.

    Raises:
        CheckpointError: a file is missing or damaged, or they do not fit one another.
        ConfigError: the model is not one of the paper's architecture.
    """
    path = Path(path)
    try:
        tokenizer = _read_vocabulary(path.with_name("tokenizer.bin"))
        with open(path, "rb") as file:
            return _read_model(file, tokenizer, path), tokenizer
    except struct.error:
        raise CheckpointError(f"{path} is damaged (it has no header)", FETCH_AGAIN) from None
    except OSError as error:
        what = f"{error.filename} cannot be read ({error.strerror})"
        raise CheckpointError(what, FETCH_AGAIN) from None


def _read_model(file: BinaryIO, tokenizer: Tokenizer, path: Path) -> Llama:
    header = dict(zip(HEADER_KEYS, HEADER.unpack(file.read(HEADER.size)), strict=True))
    tied = header["vocab_size"] > 0
    header["vocab_size"] = abs(header["vocab_size"])
    config = config_from_huggingface({**header, "rms_norm_eps": 1e-5}, str(path))
    check_llama_vocabulary(tokenizer, config, path)

    # The file's size follows from the header: look before any memory is taken.
    shapes = model_shapes(config)
    names = _names_in_order(config.n_layers)
    angles = config.max_seq_len * config.head_dim
    output = 0 if tied else shapes["output.weight"].numel()
    numbers = sum(shapes[name].numel() for name in names) + angles + output
    size = path.stat().st_size
    if size != HEADER.size + 4 * numbers:
        what = f"{path} has {size} bytes, not {HEADER.size + 4 * numbers}"
        raise CheckpointError(what, FETCH_AGAIN)

    def read(shape: torch.Size) -> Tensor:
        return torch.from_numpy(np.fromfile(file, "<f4", shape.numel())).view(shape)

    state = {name: read(shapes[name]) for name in names}
    file.seek(4 * angles, os.SEEK_CUR)
    embeddings = state["tok_embeddings.weight"]
    state["output.weight"] = embeddings.clone() if tied else read(shapes["output.weight"])
    return assemble_model(config, state)


def _read_vocabulary(path: Path) -> Tokenizer:
    content, position, entries = path.read_bytes(), 4, []
    while position < len(content):
        head = content[position : position + 8]
        score, length = struct.unpack("<fi", head) if len(head) == 8 else (0.0, -1)
        text = content[position + 8 : position + 8 + length]
        if not 0 <= length == len(text):
            raise CheckpointError(f"{path} is damaged", FETCH_AGAIN)
        entries.append(_piece(len(entries), text.decode(errors="replace"), score))
        position += 8 + length
    return tokenizer_of(entries, path)


def _piece(number: int, text: str, score: float) -> Piece:
    """An entry of the file as SentencePiece has it."""
    if number in MARKS:
        return Piece(text.strip(), score, Kind.CONTROL)
    kind = Kind.NORMAL
    if number == Tokenizer.unk_id:
        kind = Kind.UNKNOWN
    elif re.fullmatch("<0x[0-9A-F]{2}>", text):
        kind = Kind.BYTE
    return Piece(text.replace(" ", SPACE), score, kind)
