"""llama2.c's format, version 0: a header and float32 tensors, one kind after another.

The program that reads it is 700 lines of C without a library. Rotary pairs are neighbours there as
here. The format has no field for two settings: llama2.c turns by angles of base 10,000 and adds
1e-5 to the mean square in RMSNorm (1e-6 in the paper), which matters only for vectors near zero.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import sentencepiece
import torch
from torch import Tensor

from minillama.config import ModelConfig
from minillama.convert.parts import check_vocabulary
from minillama.errors import CheckpointError, ConfigError
from minillama.files import atomic_path
from minillama.model import Llama
from minillama.tokenizer import SPACE, Tokenizer

KINDS = (
    "attention_norm", "attention.wq", "attention.wk", "attention.wv", "attention.wo",
    "ffn_norm", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3",
)  # fmt: skip
"""The weights of the layers in the order of the file; each kind for all layers in turn."""


def save(model: Llama, tokenizer: Tokenizer, path: str | Path) -> Path:
    """Write the weights to ``path`` and the vocabulary to ``tokenizer.bin`` beside it.

    Raises:
        CheckpointError: the tokenizer is another model's, or the files cannot be written.
        ConfigError: the model's rotary base is not llama2.c's.
    """
    path, config = Path(path), model.config
    check_vocabulary(tokenizer, config, path)
    if config.rope_theta != ModelConfig.rope_theta:
        raise ConfigError(
            f"rope_theta = {config.rope_theta:g}, but llama2.c knows only 10000",
            "save the model in another format",
        )
    try:
        with atomic_path(path) as aside, open(aside, "wb") as file:
            file.write(_header(model))
            for tensor in _tensors(model):
                file.write(tensor.detach().cpu().float().contiguous().numpy().astype("<f4"))
        with atomic_path(path.with_name("tokenizer.bin")) as aside:
            aside.write_bytes(vocabulary(tokenizer))
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


def _tensors(model: Llama) -> Iterator[Tensor]:
    state = model.state_dict()
    yield state["tok_embeddings.weight"]
    for kind in KINDS:
        for i in range(model.config.n_layers):
            yield state[f"layers.{i}.{kind}.weight"]
    yield state["norm.weight"]
    yield from model.rotary.unbind(-1)  # cosines, then sines, each (max_seq_len, head_dim / 2)
    if not _tied(model):
        yield state["output.weight"]


def vocabulary(tokenizer: Tokenizer) -> bytes:
    """The content of ``tokenizer.bin``: the longest piece's length; score, length, bytes of each.

    Pieces are as SentencePiece names them, with plain spaces; llama2.c knows ``<0x0A>`` for a byte.
    """
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    marks = {Tokenizer.bos_id: "\n<s>\n", Tokenizer.eos_id: "\n</s>\n"}  # what no prompt holds
    texts = [marks.get(i, processor.id_to_piece(i)) for i in range(tokenizer.vocab_size)]
    pieces = [text.replace(SPACE, " ").encode() for text in texts]
    entries = (
        struct.pack("<fi", processor.get_score(i), len(piece)) + piece
        for i, piece in enumerate(pieces)
    )
    return struct.pack("<i", max(map(len, pieces))) + b"".join(entries)
