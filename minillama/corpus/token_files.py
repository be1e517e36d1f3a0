"""Token files: memory-mapped shards of piece ids, with an index and checksums.

One ``TokenFile`` holds one split of one slice. Beside the shards ``<slice>.<split>.00000.bin`` lie
``<slice>.<split>.offsets.npy`` (where each document begins) and ``<slice>.<split>.json`` (the
index, written last: a token file without its index is not there). Documents stand in the order of
their keys (SHA-256 of the text): shuffled once, the same way on every machine, so that a reader
who takes the tokens from end to end meets no package or file as a whole.

Made for 1.4T tokens: nothing is read when a file is opened but the index and the files' sizes; few
shards are mapped at a time; 11 GB of offsets stay on disk.
"""

import hashlib
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from tokenize import TokenError  # of a damaged header of an array
from typing import Any

import numpy as np
from tyro.conf import Positional

from minillama.errors import DataError
from minillama.files import atomic_path, read_json, sha256, write_json
from minillama.tokenizer import Tokenizer

SPLITS = ("train", "valid", "test")
"""What is trained on; what choices are made on; what is reported in the end."""
SHARD_TOKENS = 2**30
"""2 GiB each: 1.4T tokens are 1,300 files, and a file that is read costs a map and a descriptor."""
OPEN_MAPS = 64
"""Shards of a token file that are mapped at a time."""
REBUILD = "delete the corpus folder and run `minillama data build`"


def write_tokens(
    stem: Path, documents: Iterable[tuple[list[int], int]], vocab_size: int
) -> "TokenFile":
    """Write documents, given as (ids, UTF-8 bytes of the text), to shards ``<stem>.NNNNN.bin``.

    A document is never split between shards. Memory grows by 8 bytes a document.
    """
    dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
    offsets, n_bytes = array("q", [0]), 0
    shards: list[dict[str, Any]] = []
    documents = iter(documents)
    waiting = next(documents, None)
    while waiting is not None:
        path = stem.with_name(f"{stem.name}.{len(shards):05d}.bin")
        begin = offsets[-1]
        with atomic_path(path) as tmp, open(tmp, "wb") as file:
            while waiting is not None:
                ids, size = waiting
                if offsets[-1] > begin and offsets[-1] + len(ids) - begin > SHARD_TOKENS:
                    break
                file.write(np.asarray(ids, dtype=dtype).tobytes())
                offsets.append(offsets[-1] + len(ids))
                n_bytes += size
                waiting = next(documents, None)
        tokens = offsets[-1] - begin
        shards.append({"file": path.name, "tokens": tokens, "sha256": sha256(path)})
    offsets_path = stem.with_name(f"{stem.name}.offsets.npy")
    with atomic_path(offsets_path) as tmp, open(tmp, "wb") as file:
        np.save(file, np.frombuffer(offsets, dtype=np.int64))
    index = stem.with_name(f"{stem.name}.json")
    contents = {
        "dtype": dtype.str,
        "documents": len(offsets) - 1,
        "tokens": offsets[-1],
        "bytes": n_bytes,
        "shards": shards,
        "offsets": {"file": offsets_path.name, "sha256": sha256(offsets_path)},
    }
    write_json(index, contents)
    return TokenFile(index)


class TokenFile:
    """One split of one slice, read without loading it.

    Raises:
        DataError: the index, a shard or the offsets are missing, or a shard has the wrong length.
    """

    def __init__(self, index: str | Path) -> None:
        self.index = Path(index)
        self.contents = read_json(self.index)
        try:
            self.dtype = np.dtype(self.contents["dtype"])
            self.tokens = int(self.contents["tokens"])
            self.n_documents = int(self.contents["documents"])
            self.n_bytes = int(self.contents["bytes"])
            self._shards = self.contents["shards"]
            self._offsets_file = self.contents["offsets"]
            lengths = [shard["tokens"] for shard in self._shards]
            if self.tokens != sum(lengths):
                raise ValueError("its shards do not add up")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.index} is no index of shards ({error})", REBUILD) from None
        self._starts = np.cumsum([0, *lengths])
        self._map = lru_cache(maxsize=OPEN_MAPS)(self._map_shard)
        self._check_lengths()
        self.offsets = self._map_offsets()
        """Where each document begins in the shards laid end to end: ``(n_documents + 1,)``, on
        disk."""

    def _check_lengths(self) -> None:
        for shard in self._shards:
            path = self.index.with_name(shard["file"])
            expected = shard["tokens"] * self.dtype.itemsize
            size = path.stat().st_size if path.exists() else None
            if size is None:
                raise DataError(f"{path} is missing", REBUILD)
            if size != expected:
                raise DataError(f"{path} has {size} bytes instead of {expected}", REBUILD)

    def _map_offsets(self) -> np.ndarray:
        path = self.index.with_name(self._offsets_file["file"])
        try:
            offsets = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, EOFError, ValueError, SyntaxError, TokenError) as error:
            raise DataError(f"{path} cannot be read ({error})", REBUILD) from None
        if offsets.shape != (self.n_documents + 1,) or offsets[-1] != self.tokens:
            raise DataError(f"{path} does not fit {self.index}", REBUILD)
        return offsets

    def _map_shard(self, number: int) -> np.ndarray:
        path = self.index.with_name(self._shards[number]["file"])
        return np.memmap(path, dtype=self.dtype, mode="r")

    def place(self, offset: int) -> tuple[int, int]:
        """The shard that holds token ``offset``, and the token's number in it."""
        shard = int(np.searchsorted(self._starts, offset, side="right")) - 1
        return shard, offset - int(self._starts[shard])

    def document(self, number: int) -> np.ndarray:
        """The ids of a document, begin and end marks included; a view into the shard."""
        begin, end = map(int, self.offsets[number : number + 2])
        shard, first = self.place(begin)
        return self._map(shard)[first : first + end - begin]

    def read(self, begin: int, end: int) -> np.ndarray:
        """Tokens ``begin`` to ``end - 1`` of all shards laid end to end: a copy, no map is kept."""
        parts = []
        while begin < end:
            shard, first = self.place(begin)
            count = min(end, int(self._starts[shard + 1])) - begin
            path = self.index.with_name(self._shards[shard]["file"])
            offset = first * self.dtype.itemsize
            parts.append(np.fromfile(path, self.dtype, count, offset=offset))
            begin += count
        return np.concatenate(parts)

    def find(self, offset: int) -> int:
        """The number of the document that holds token ``offset``."""
        if not 0 <= offset < self.tokens:
            raise DataError(f"{self.index} has {self.tokens} tokens, not {offset}", "lower it")
        return int(np.searchsorted(self.offsets, offset, side="right")) - 1

    def shard_range(self, name: str) -> tuple[int, int]:
        """The number of the first token of a shard, and how many it has."""
        begin = 0
        for shard in self._shards:
            if shard["file"] == name:
                return begin, shard["tokens"]
            begin += shard["tokens"]
        raise DataError(f"{self.index} has no shard {name}", "look into its folder")

    def texts(self) -> Iterator[tuple[Path, int]]:
        """The files of texts that hold the documents, in order, and how many each holds."""
        folder = self.index.parent.with_name("text")
        if "texts" not in self.contents:
            yield folder / f"{self.index.stem}.jsonl", self.n_documents
            return
        for part in self.contents["texts"]:
            yield folder / part["file"], part["documents"]

    def verify(self) -> None:
        """Compare every file with its checksum. Raises ``DataError`` naming the first bad one."""
        for part in (*self._shards, self._offsets_file):
            path = self.index.with_name(part["file"])
            if not path.exists() or sha256(path) != part["sha256"]:
                raise DataError(f"{path} is damaged (its checksum differs)", REBUILD)


@dataclass(frozen=True)
class Corpus:
    """A built corpus: token files by split and slice, and the mixture's weights."""

    folder: Path
    files: dict[str, dict[str, TokenFile]]
    weights: dict[str, float]
    manifest: dict[str, Any]

    @property
    def slices(self) -> list[str]:
        """The slices that have text, in Table 1's order."""
        return list(self.weights)

    @property
    def train(self) -> dict[str, TokenFile]:
        """The documents to train on."""
        return self.files["train"]

    @property
    def valid(self) -> dict[str, TokenFile]:
        """The documents that training and choices are judged by."""
        return self.files["valid"]

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
        indexes = [file.contents for files in self.files.values() for file in files.values()]
        settings = [self.manifest["tokenizer_sha256"], list(self.weights.items())]
        content = json.dumps([settings, indexes], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that wrote the tokens."""
        return Tokenizer.load(self.tokenizer_path)


def open_corpus(folder: str | Path, verify: bool = False) -> Corpus:
    """Open what ``minillama data build`` made.

    Sizes, the tokenizer and the digest of all indexes are compared; the tokens are not read.

    Args:
        folder: such as ``data/corpus/nano``.
        verify: also compare all checksums (about a second for each GB).

    Raises:
        DataError: nothing is there, or a file is missing, cut short or altered (named).
    """
    folder = Path(folder)
    if not (folder / "manifest.json").exists():
        hint = f"run `minillama data build --name {folder.name}`"
        raise DataError(f"{folder} holds no corpus", hint)
    manifest = read_json(folder / "manifest.json")
    try:
        weights = {name: float(weight) for name, weight in manifest["weights"].items()}
        expected = manifest["tokenizer_sha256"]
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{folder}/manifest.json is malformed ({error})", REBUILD) from None
    tokenizer = folder / "tokenizer.model"
    if not tokenizer.exists() or sha256(tokenizer) != expected:
        raise DataError(f"{tokenizer} is not the tokenizer that wrote the tokens", REBUILD)
    files = {split: token_files(folder, weights, split) for split in SPLITS}
    corpus = Corpus(folder, files, weights, manifest)
    if manifest.get("data_sha256", corpus.fingerprint) != corpus.fingerprint:
        raise DataError(f"an index in {folder}/tokens is not the one that was built", REBUILD)
    if verify:
        for of_split in corpus.files.values():
            for file in of_split.values():
                file.verify()
    return corpus


def token_files(folder: Path, slices: Iterable[str], split: str) -> dict[str, TokenFile]:
    """The token files of a split in a corpus's folder."""
    return {name: TokenFile(folder / "tokens" / f"{name}.{split}.json") for name in slices}


def verify_corpus(folder: Positional[Path] = Path("data/corpus/nano")) -> str:
    """Compare every file of a corpus with its checksum: after copying it, or before a long run.

    Args:
        folder: the corpus.

    Raises:
        DataError: a file is missing or altered (named).
    """
    corpus = open_corpus(folder, verify=True)
    tokens = sum(file.tokens for of in corpus.files.values() for file in of.values())
    return f"{folder}: {tokens:,} tokens of {len(corpus.slices)} slices are as they were built"
