"""llama2.c's format, version 0: a header and float32 tensors, one kind after another.

The program that reads it is 700 lines of C without a library. Rotary pairs are neighbors there as
here. The format has no field for two settings: llama2.c turns by angles of base 10,000 and adds
1e-5 to the mean square in RMSNorm (1e-6 in the paper), which matters only for vectors near zero.
"""

import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from minillama.config import ModelConfig
from minillama.errors import CheckpointError, ConfigError
from minillama.files import atomic_path
from minillama.interop import huggingface
from minillama.interop.common import MEND, assemble, blank, check_vocabulary
from minillama.interop.vocabulary import Kind, Piece, pieces, tokenizer_of
from minillama.model import Llama
from minillama.tokenizer import SPACE, Tokenizer

KINDS = (
    "attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo",
    "ffn_norm", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3",
)  # fmt: skip
"""The weights of the layers in the order of the file; each kind for all layers in turn."""

MARKS = {Tokenizer.bos_id: "\n<s>\n", Tokenizer.eos_id: "\n</s>\n"}
"""The control pieces, named as no prompt is."""


def save(model: Llama, tokenizer: Tokenizer, path: str | Path) -> Path:
    """Write the weights to ``path`` and the vocabulary to ``tokenizer.bin`` beside it.

    Raises:
        CheckpointError: the tokenizer is another model's, or the files cannot be written.
        ConfigError: the model's rotary base is not llama2.c's.
    """
    path, config = Path(path), model.config
    check_vocabulary(tokenizer, config, path)
    if config.rope_base != ModelConfig.rope_theta:
        raise ConfigError(
            f"rope_theta = {config.rope_base:g}, but llama2.c knows only 10000",
            "save the model in another format",
        )
    try:
        with atomic_path(path.with_name("tokenizer.bin")) as beside, atomic_path(path) as aside:
            beside.write_bytes(vocabulary(tokenizer))
            with open(aside, "wb") as file:
                file.write(_header(model))
                for tensor in _tensors(model):
                    file.write(tensor.detach().cpu().float().contiguous().numpy().astype("<f4"))
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}", "name another file") from error
    return path


def _tied(model: Llama) -> bool:
    return torch.equal(model.tok_embeddings.weight, model.output.weight)


def _header(model: Llama) -> bytes:
    """Seven whole numbers; an output matrix of its own is told by a negative vocabulary."""
    config = model.config
    return struct.pack(
        "<7i", config.dim, config.hidden_dim, config.n_layers, config.n_heads, config.n_heads,
        config.vocab_size if _tied(model) else -config.vocab_size, config.max_seq_len,
    )  # fmt: skip


def _names(n_layers: int) -> list[str]:
    """Meta's names in the order of the file, without the output matrix, which comes after all."""
    layers = [f"layers.{i}.{kind}.weight" for kind in KINDS for i in range(n_layers)]
    return ["tok_embeddings.weight", *layers, "norm.weight"]


def _tensors(model: Llama) -> Iterator[Tensor]:
    state = model.state_dict()
    yield from (state[name] for name in _names(model.config.n_layers))
    yield from model.rotary.unbind(-1)  # cosines, then sines, each (max_seq_len, head_dim / 2)
    if not _tied(model):
        yield state["output.weight"]


def vocabulary(tokenizer: Tokenizer) -> bytes:
    """The content of ``tokenizer.bin``: the longest piece's length; score, length, bytes of each.

    Pieces are as SentencePiece names them, with plain spaces; llama2.c knows ``<0x0A>`` for a byte.
    """
    entries = [
        (MARKS.get(i, text).replace(SPACE, " ").encode(), score)
        for i, (text, score, _) in enumerate(pieces(tokenizer))
    ]
    content = b"".join(struct.pack("<fi", score, len(text)) + text for text, score in entries)
    return struct.pack("<i", max(len(text) for text, _ in entries)) + content


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
            return _read(file, tokenizer, path), tokenizer
    except struct.error:
        raise CheckpointError(f"{path} is damaged (it has no header)", MEND) from None
    except OSError as error:
        raise CheckpointError(f"{error.filename} cannot be read ({error.strerror})", MEND) from None


def _read(file: BinaryIO, tokenizer: Tokenizer, path: Path) -> Llama:
    header = struct.unpack("<7i", file.read(28))
    config, tied = _config(header, path), header[5] > 0
    check_vocabulary(tokenizer, config, path)
    shapes = {name: weight.shape for name, weight in blank(config).state_dict().items()}
    angles = config.max_seq_len * config.head_dim
    own_output = 0 if tied else shapes["output.weight"].numel()
    counts = {name: shapes[name].numel() for name in _names(config.n_layers)}
    size = 28 + 4 * (sum(counts.values()) + angles + own_output)
    if path.stat().st_size != size:
        raise CheckpointError(f"{path} has {path.stat().st_size} bytes, not {size}", MEND)
    state = {
        name: torch.from_numpy(np.fromfile(file, "<f4", count)).view(shapes[name])
        for name, count in counts.items()
    }
    file.seek(4 * angles, os.SEEK_CUR)
    output = torch.from_numpy(np.fromfile(file, "<f4", own_output))
    embeddings = state["tok_embeddings.weight"]
    state["output.weight"] = embeddings.clone() if tied else output.view(shapes["output.weight"])
    return assemble(config, state)


def _config(header: tuple[int, ...], path: Path) -> ModelConfig:
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "vocab_size", "max_position_embeddings")  # fmt: skip
    given = dict(zip(keys, header, strict=True)) | {"vocab_size": abs(header[5])}
    return huggingface.config_from_huggingface({**given, "rms_norm_eps": 1e-5}, str(path))


def _read_vocabulary(path: Path) -> Tokenizer:
    marks = {0: Kind.UNKNOWN, Tokenizer.bos_id: Kind.CONTROL, Tokenizer.eos_id: Kind.CONTROL}
    content, at, entries = path.read_bytes(), 4, []
    while at < len(content):
        head = content[at : at + 8]
        score, length = struct.unpack("<fi", head) if len(head) == 8 else (0.0, -1)
        text = content[at + 8 : at + 8 + length]
        if not 0 <= length == len(text):
            raise CheckpointError(f"{path} is damaged", MEND)
        piece = text.decode(errors="replace")
        kind = Kind.BYTE if re.fullmatch("<0x[0-9A-F]{2}>", piece) else Kind.NORMAL
        kind = marks.get(len(entries), kind)
        piece = piece.strip() if kind is Kind.CONTROL else piece.replace(" ", SPACE)
        entries.append(Piece(piece, score, kind))
        at += 8 + length
    return tokenizer_of(entries, path)
