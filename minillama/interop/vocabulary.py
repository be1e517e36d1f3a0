"""The pieces of a SentencePiece vocabulary, and a tokenizer put together from them.

Formats in one file hold text, score and kind of every piece, and no ``tokenizer.model``. What
SentencePiece needs beside them is the same for all models of the paper (Section 2.1): BPE, bytes
for unknown characters, text left as it is with one space put before it.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

import sentencepiece

from minillama.errors import CheckpointError
from minillama.tokenizer import Tokenizer


class Kind(IntEnum):
    """SentencePiece's kinds of pieces."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    BYTE = 6


class Piece(NamedTuple):
    """One entry: its text as SentencePiece writes it, and how much its union is wanted."""

    text: str
    score: float
    kind: int


def read_pieces(tokenizer: Tokenizer) -> list[Piece]:
    """Return all pieces, in the order of their ids."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    pieces = []
    for i in range(tokenizer.vocab_size):
        kind = Kind.NORMAL
        if processor.is_byte(i):
            kind = Kind.BYTE
        elif processor.is_control(i):
            kind = Kind.CONTROL
        elif processor.is_unknown(i):
            kind = Kind.UNKNOWN
        pieces.append(Piece(processor.id_to_piece(i), processor.get_score(i), kind))
    return pieces


def tokenizer_of(entries: Iterable[Piece], source: object) -> Tokenizer:
    """Build the tokenizer with these pieces; ``source`` is named in errors.

    Raises:
        CheckpointError: they are no vocabulary.
    """
    parts = []
    for text, score, kind in entries:
        parts.append(_message(1, _message(1, text.encode()) + _float(2, score) + _number(3, kind)))
    trainer = [
        _number(3, 2),  # BPE
        _number(4, len(parts)),
        _number(35, 1),  # byte fallback
        _number(40, Tokenizer.unk_id),
        _number(41, Tokenizer.bos_id),
        _number(42, Tokenizer.eos_id),
    ]
    normalizer = [
        _message(1, b"identity"),
        _number(3, 1),  # one space in front
        _number(4, 0),  # all spaces are kept
        _number(5, 1),  # and made visible
    ]
    parts += [_message(2, b"".join(trainer)), _message(3, b"".join(normalizer))]
    try:
        return Tokenizer(b"".join(parts))
    except (RuntimeError, ValueError):
        what = f"{source} holds no SentencePiece vocabulary"
        raise CheckpointError(what, "make it anew") from None


# Protocol buffers: every field is its number and wire type, then its value.


def _varint(value: int) -> bytes:
    low, high = value & 127, value >> 7
    return bytes([low | 128]) + _varint(high) if high else bytes([low])


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content
