"""The tokenizer of Section 2.1: SentencePiece BPE, single digits, bytes for unknown characters.

Text is never normalized, so ``decode(encode(x)) == x`` for every Unicode string.
"""

import io
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from minillama.errors import DataError
from minillama.files import atomic_path

SPACE = "\u2581"
"""The visible blank in which SentencePiece writes a space."""
LINE_BYTES = 4096
"""Longest stretch of a line that the trainer sees at once."""


class Tokenizer:
    """Text to piece ids and back, on a SentencePiece model.

    As in LLaMA, one space is put before the text, so that a word has the same pieces at the start
    as inside a sentence; ``decode`` takes it off again.
    """

    unk_id, bos_id, eos_id = 0, 1, 2

    def __init__(self, model: bytes) -> None:
        if not model:  # SentencePiece takes it for "load later"
            raise ValueError("an empty model")
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._processor.get_piece_size()
        self.piece_bytes: list[bytes] = [self._bytes_of(i) for i in range(self.vocab_size)]
        """What each piece stands for; nothing for the control pieces."""
        self._byte_ids = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in range(256)]

    def _bytes_of(self, piece: int) -> bytes:
        if self._processor.is_control(piece) or self._processor.is_unknown(piece):
            return b""
        text = self._processor.id_to_piece(piece)
        if self._processor.is_byte(piece):
            return bytes([int(text[3:5], 16)])
        return text.replace(SPACE, " ").encode("utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Read a ``tokenizer.model``. Raises ``DataError`` if it is missing or no such model."""
        try:
            return cls(Path(path).read_bytes())
        except FileNotFoundError:
            raise DataError(f"{path} does not exist", "run `minillama data build`") from None
        except (RuntimeError, ValueError):
            raise DataError(f"{path} is not a SentencePiece model", "train it again") from None

    def save(self, path: str | Path) -> None:
        """Write the SentencePiece model, atomically."""
        with atomic_path(path) as tmp:
            tmp.write_bytes(self.model)

    def encode(self, text: str, bos: bool = False, eos: bool = False) -> list[int]:
        """Piece ids of ``text``, with the begin or end mark on request.

        Control marks typed as text, such as "<s>", are ordinary characters.

        Raises:
            DataError: the string holds a lone surrogate, which no text has.
        """
        try:
            ids = self._encode(text)
        except UnicodeEncodeError as error:
            raise DataError(f"no valid Unicode: {error.reason}", "pass well-formed text") from None
        return [self.bos_id] * bos + ids + [self.eos_id] * eos

    def _encode(self, text: str) -> list[int]:
        text.encode("utf-8")  # raises for lone surrogates
        if SPACE not in text and "\0" not in text:
            return self._processor.encode(text)
        # SentencePiece reads its own blank as a space and stops at NUL. A character that the text
        # does not hold stands in for each; it falls apart into bytes, which are then replaced.
        spare = (chr(c) for c in range(0x10FFFD, 0xF0000, -1) if chr(c) not in text)
        stand_ins = dict(zip((SPACE, "\0"), spare, strict=False))
        ids = self._processor.encode(text.translate(str.maketrans(stand_ins)))
        for original, stand_in in stand_ins.items():
            ids = _replace(ids, self._fall_back(stand_in), self._fall_back(original))
        return ids

    def _fall_back(self, character: str) -> list[int]:
        return [self._byte_ids[byte] for byte in character.encode("utf-8")]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of piece ids; bytes that are no UTF-8 become U+FFFD.

        Raises:
            DataError: an id outside the vocabulary.
        """
        ids = list(ids)
        if bad := [i for i in ids if not 0 <= i < self.vocab_size]:
            raise DataError(
                f"id {bad[0]} is outside the vocabulary of {self.vocab_size} pieces",
                "use the tokenizer that wrote the ids",
            )
        text = b"".join(self.piece_bytes[i] for i in ids).decode("utf-8", errors="replace")
        return text.removeprefix(" ")


def _replace(ids: list[int], old: list[int], new: list[int]) -> list[int]:
    """``ids`` with every run ``old`` replaced by ``new``."""
    result, i = [], 0
    while i < len(ids):
        found = ids[i : i + len(old)] == old
        result.extend(new if found else ids[i : i + 1])
        i += len(old) if found else 1
    return result


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.split("\n"):
            for start in range(0, len(line), LINE_BYTES // 4):
                yield line[start : start + LINE_BYTES // 4]


def train_tokenizer(texts: Iterable[str], path: str | Path, vocab_size: int) -> Tokenizer:
    """Learn ``vocab_size`` pieces from ``texts`` and write them to ``path``.

    The paper states BPE, single digits and byte fallback. Not stated, and chosen here as in the
    released tokenizer: no normalization, all spaces kept, pieces of several spaces (for code), and
    the three control pieces <unk>, <s>, </s>. Line breaks fall back to their byte.

    Raises:
        DataError: there is no text, or too little for so large a vocabulary.
    """
    lines = (line for line in _lines(texts) if line.strip() and "\0" not in line)
    first = next(lines, None)
    if first is None:
        raise DataError("there is no text to train the tokenizer on", "build the corpus first")
    written = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], lines),
            model_writer=written,
            model_type="bpe",
            vocab_size=vocab_size,
            split_digits=True,
            byte_fallback=True,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            character_coverage=0.9999,
            max_sentence_length=LINE_BYTES,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        if "ocab" not in str(error):
            raise
        raise DataError(
            f"no vocabulary of {vocab_size} pieces can be made from this text",
            "use more text or a vocabulary of another size (at least 300)",
        ) from None
    tokenizer = Tokenizer(written.getvalue())
    tokenizer.save(path)
    return tokenizer
