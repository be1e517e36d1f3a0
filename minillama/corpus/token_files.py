"""Token files: memory-mapped shards of piece ids, with an index and checksums.

One ``TokenFile`` holds one split of one slice. Beside the shards ``<slice>.<split>.00000.bin`` lie
``<slice>.<split>.offsets.npy`` (where each document begins) and ``<slice>.<split>.json`` (the
index, written last: a token file without its index is not there).
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from minillama.corpus.document import Document
from minillama.errors import DataError
from minillama.files import atomic_path, read_json, sha256, write_json
from minillama.tokenizer import Tokenizer

SHARD_TOKENS = 2**24
REBUILD = "delete the corpus folder and run `minillama data build`"


def write_tokens(
    stem: Path, documents: Iterable[tuple[list[int], int]], vocab_size: int
) -> "TokenFile":
    """Write documents, given as (ids, UTF-8 bytes of the text), to shards ``<stem>.NNNNN.bin``.

    A document is never split between shards.
    """
    dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    shards: list[dict[str, Any]] = []
    offsets, n_bytes, buffer, held = [0], 0, [], 0
    for ids, size in documents:
        if held and held + len(ids) > SHARD_TOKENS:
            shards.append(_write_shard(stem, len(shards), buffer))
            buffer, held = [], 0
        buffer.append(np.asarray(ids, dtype=dtype))
        held += len(ids)
        n_bytes += size
        offsets.append(offsets[-1] + len(ids))
    if buffer:
        shards.append(_write_shard(stem, len(shards), buffer))
    offsets_path = stem.with_name(f"{stem.name}.offsets.npy")
    with atomic_path(offsets_path) as aside, open(aside, "wb") as file:
        np.save(file, np.asarray(offsets, dtype=np.int64))
    index = stem.with_name(f"{stem.name}.json")
    write_json(index, {
        "dtype": dtype.str, "documents": len(offsets) - 1, "tokens": offsets[-1],
        "bytes": n_bytes, "shards": shards,
        "offsets": {"file": offsets_path.name, "sha256": sha256(offsets_path)},
    })  # fmt: skip
    return TokenFile(index)


def _write_shard(stem: Path, number: int, documents: list[np.ndarray]) -> dict[str, Any]:
    path = stem.with_name(f"{stem.name}.{number:05d}.bin")
    with atomic_path(path) as aside:
        np.concatenate(documents).tofile(aside)
    return {"file": path.name, "tokens": sum(map(len, documents)), "sha256": sha256(path)}


class TokenFile:
    """One split of one slice, read without loading it.

    Raises:
        DataError: the index, a shard or the offsets are missing, or a shard has the wrong length.
    """

    def __init__(self, index: str | Path) -> None:
        self.index = Path(index)
        told = read_json(self.index)
        try:
            self.dtype = np.dtype(told["dtype"])
            self.tokens, self.n_documents = int(told["tokens"]), int(told["documents"])
            self.n_bytes, self._shards = int(told["bytes"]), told["shards"]
            self._offsets_file = told["offsets"]
            if self.tokens != sum(shard["tokens"] for shard in self._shards):
                raise ValueError("its shards do not add up")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.index} is no index of shards ({error})", REBUILD) from None
        self._check_lengths()

    def _check_lengths(self) -> None:
        for shard in self._shards:
            path = self.index.with_name(shard["file"])
            expected = shard["tokens"] * self.dtype.itemsize
            size = path.stat().st_size if path.exists() else None
            if size is None:
                raise DataError(f"{path} is missing", REBUILD)
            if size != expected:
                raise DataError(f"{path} has {size} bytes instead of {expected}", REBUILD)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where each document begins in the concatenation of the shards: (n_documents + 1,)."""
        path = self.index.with_name(self._offsets_file["file"])
        try:
            offsets = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error})", REBUILD) from None
        if offsets.shape != (self.n_documents + 1,) or offsets[-1] != self.tokens:
            raise DataError(f"{path} does not fit {self.index}", REBUILD)
        return offsets

    @cached_property
    def _maps(self) -> tuple[np.ndarray, list[np.ndarray]]:
        lengths = [shard["tokens"] for shard in self._shards]
        files = (self.index.with_name(shard["file"]) for shard in self._shards)
        return np.cumsum([0, *lengths]), [np.memmap(f, dtype=self.dtype, mode="r") for f in files]

    def document(self, number: int) -> np.ndarray:
        """The ids of a document, begin and end marks included; a view into the shard."""
        begin, end = int(self.offsets[number]), int(self.offsets[number + 1])
        starts, maps = self._maps
        shard = int(np.searchsorted(starts, begin, side="right")) - 1
        return maps[shard][begin - starts[shard] : end - starts[shard]]

    def read(self, begin: int, end: int) -> np.ndarray:
        """Tokens ``begin`` to ``end - 1`` of the shards laid end to end: a copy."""
        parts, first = [], 0
        for shard in self._shards:
            last = first + shard["tokens"]
            if begin < last and first < end:
                path = self.index.with_name(shard["file"])
                start, stop = max(begin, first), min(end, last)
                offset = (start - first) * self.dtype.itemsize
                parts.append(np.fromfile(path, self.dtype, stop - start, offset=offset))
            first = last
        return np.concatenate(parts)

    def find(self, offset: int) -> int:
        """The number of the document that holds token ``offset``."""
        if not 0 <= offset < self.tokens:
            raise DataError(f"{self.index} has {self.tokens} tokens, not {offset}", "lower it")
        return int(np.searchsorted(self.offsets, offset, side="right")) - 1

    def verify(self) -> None:
        """Compare every file with its checksum. Raises ``DataError`` naming the first bad one."""
        for part in (*self._shards, self._offsets_file):
            path = self.index.with_name(part["file"])
            if not path.exists() or sha256(path) != part["sha256"]:
                raise DataError(f"{path} is damaged (its checksum differs)", REBUILD)


@dataclass(frozen=True)
class Corpus:
    """A built corpus: token files by slice, and the mixture's weights."""

    folder: Path
    train: dict[str, TokenFile]
    valid: dict[str, TokenFile]
    weights: dict[str, float]
    manifest: dict[str, Any]

    @property
    def slices(self) -> list[str]:
        """The slices that have text, in Table 1's order."""
        return list(self.weights)

    @property
    def vocab_size(self) -> int:
        """Pieces of the tokenizer that wrote the tokens."""
        return self.manifest["vocab_size"]

    @property
    def tokenizer_path(self) -> Path:
        """The corpus's tokenizer.model."""
        return self.folder / "tokenizer.model"

    @cached_property
    def fingerprint(self) -> str:
        """What identifies the text: a digest of the tokenizer, the weights and every checksum.

        Another build with the same tokens has the same, whatever code made it.
        """
        told = [self.manifest["tokenizer_sha256"], list(self.weights.items())]
        files = [read_json(file.index) for split in (self.train, self.valid)
                 for file in split.values()]  # fmt: skip
        return hashlib.sha256(json.dumps([told, files], sort_keys=True).encode()).hexdigest()

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that wrote the tokens."""
        return Tokenizer.load(self.tokenizer_path)


def open_corpus(folder: str | Path, verify: bool = True) -> Corpus:
    """Open what ``minillama data build`` made.

    Args:
        folder: such as ``data/corpus/nano``.
        verify: also compare all checksums (about a second for each GB).

    Raises:
        DataError: nothing is there, or a file is missing, cut short or altered (named).
    """
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        raise DataError(
            f"{folder} holds no corpus", f"run `minillama data build --name {folder.name}`"
        )
    manifest = read_json(folder / "manifest.json")
    try:
        weights = {name: float(weight) for name, weight in manifest["weights"].items()}
        expected = manifest["tokenizer_sha256"]
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{folder}/manifest.json is malformed ({error})", REBUILD) from None
    tokenizer = folder / "tokenizer.model"
    if not tokenizer.exists() or sha256(tokenizer) != expected:
        raise DataError(f"{tokenizer} is not the tokenizer that wrote the tokens", REBUILD)
    files = {
        split: {name: TokenFile(folder / "tokens" / f"{name}.{split}.json") for name in weights}
        for split in ("train", "valid")
    }
    if verify:
        for split in files.values():
            for file in split.values():
                file.verify()
    return Corpus(folder, files["train"], files["valid"], weights, manifest)


def read_documents(path: Path) -> Iterable[dict[str, str]]:
    """The documents of a ``text/<slice>.<split>.jsonl``, one at a time."""
    try:
        with open(path, encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "run `minillama data build`") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is malformed ({error})", REBUILD) from None


def write_documents(path: Path, documents: Iterable[Document]) -> None:
    """One JSON object a line, atomically."""
    with atomic_path(path) as aside, open(aside, "w", encoding="utf-8") as file:
        for document in documents:
            file.write(to_json(document))


def to_json(document: Document) -> str:
    """A document's line in a file of documents."""
    record = asdict(document) | {"id": document.key[:16]}
    return json.dumps(record, ensure_ascii=False) + "\n"
