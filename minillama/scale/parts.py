"""Corpora too large to be shuffled as a whole: written in parts, one after the other or at once.

A part is written twice: as it is read, and again in the order of the documents' keys, which is a
shuffle. Parts are not shuffled among each other: a reader takes windows from all of a slice's parts
in turn. Whoever writes a part puts tokens/<part>.json beside it last of all, with how it was read:
without that file the part is not there.
"""

import json
import tempfile
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minillama.corpus.deduplicate import hash64
from minillama.corpus.document import Document
from minillama.corpus.mixture import epochs, mixture
from minillama.corpus.statistics import StepStats, merge, summary
from minillama.corpus.token_files import SPLITS, TokenFile, write_tokens
from minillama.errors import DataError
from minillama.files import atomic_path, read_json, sha256, write_json
from minillama.scale.build_corpus import finish_corpus, token_counts
from minillama.tokenizer import Tokenizer

HELD_OUT = 1_000
"""One document in so many is in each split that is held out."""
HELD_SPLITS = ("valid", "test")


def write_part(
    corpus: Path,
    part: str,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    held_out: int = HELD_OUT,
    max_tokens: float = float("inf"),
) -> int:
    """Tokenize documents into tokens/<part>.<split>.* and say in text/ where each is from.

    Memory grows by 40 bytes a document.

    Args:
        corpus: the corpus's folder.
        part: the beginning of the files' names.
        documents: of one source; their paths are all PLACE#NUMBER, with the same place.
        tokenizer: the corpus's.
        held_out: one document in so many, by a hash of its text, is in ``valid``, another in
            ``test``, and at least one of several.
        max_tokens: the first document that reaches so many is the last one.

    Returns:
        The number of tokens.
    """
    keys, lines, sizes, shares = array("Q"), array("q"), array("q"), array("b")
    place, total = {"source": "", "path": ""}, 0

    def encode_documents() -> Iterator[tuple[list[int], int]]:
        nonlocal total
        for document in documents:
            place["source"] = document.source
            place["path"], line = document.path.rsplit("#", 1)
            keys.append(int(document.key[:16], 16))
            lines.append(int(line))
            sizes.append(document.size)
            shares.append(min(hash64(document.key) % held_out, len(HELD_SPLITS)))
            ids = tokenizer.encode(document.text, bos=True, eos=True)
            total += len(ids)
            yield ids, document.size
            if total >= max_tokens:
                return

    # As they are read; then each split in the order of the keys.
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", suffix=".tmp", dir=corpus) as tmp:
        unsorted = write_tokens(Path(tmp, "part"), encode_documents(), tokenizer.vocab_size)
        order = np.argsort(np.frombuffer(keys, np.uint64), kind="stable")
        split_of = np.array(shares)[order]
        for number, _ in enumerate(HELD_SPLITS):
            if len(order) > len(HELD_SPLITS) and not (split_of == number).any():
                split_of[number] = number  # a small part has held-out text, too
        for number, split in enumerate((*HELD_SPLITS, "train")):
            chosen = order[split_of == number]
            text = corpus / "text" / f"{part}.{split}.jsonl"
            with atomic_path(text) as tmp_text, open(tmp_text, "w", encoding="utf-8") as origins:
                for number in chosen:
                    path = f"{place['path']}#{lines[number]}"
                    origin = place | {"path": path, "id": f"{keys[number]:016x}"}
                    origins.write(json.dumps(origin) + "\n")
            encoded = ((unsorted.document(number), sizes[number]) for number in chosen)
            write_tokens(corpus / "tokens" / f"{part}.{split}", encoded, tokenizer.vocab_size)
    return total


def join_parts(corpus: Path, slice_name: str, parts: list[str], split: str) -> TokenFile:
    """One index of the shards and texts of all parts, which stay where they are."""
    tokens = corpus / "tokens"
    files = [TokenFile(tokens / f"{part}.{split}.json") for part in parts]
    count = sum(file.n_documents for file in files)
    path = tokens / f"{slice_name}.{split}.offsets.npy"
    with atomic_path(path) as tmp:
        offsets = np.lib.format.open_memmap(tmp, "w+", np.int64, (count + 1,))
        documents = start = 0
        for file in files:
            end = documents + file.n_documents
            offsets[documents : end + 1] = file.offsets + start
            documents, start = end, start + file.tokens
        offsets.flush()
    index = {
        "dtype": files[0].dtype.str,
        "documents": count,
        "tokens": start,
        "bytes": sum(file.n_bytes for file in files),
        "shards": [shard for file in files for shard in file.contents["shards"]],
        "offsets": {"file": path.name, "sha256": sha256(path)},
        "texts": [
            {"file": f"{part}.{split}.jsonl", "documents": file.n_documents}
            for part, file in zip(parts, files, strict=True)
        ],
    }
    write_json(tokens / f"{slice_name}.{split}.json", index)
    return TokenFile(tokens / f"{slice_name}.{split}.json")


def join_corpus(
    corpus: Path, parts: dict[str, list[str]], sources: list[str], budget: int
) -> dict[str, Any]:
    """Join the parts of every slice and write the manifest.

    Raises:
        DataError: there is no document, or none is held out.
    """
    files = {
        split: {name: join_parts(corpus, name, parts[name], split) for name in parts}
        for split in SPLITS
    }
    entries = {}
    for name in parts:
        reports = [read_json(corpus / "tokens" / f"{part}.json") for part in parts[name]]
        rows = merge([StepStats(**report["stats"])] for report in reports)
        entries[name] = summary(rows) | token_counts(files, name)
    counts = {name: file.tokens for name, file in files["train"].items()}
    weights = mixture(name for name, count in counts.items() if count)
    if not weights:
        what = f"{', '.join(sources)} has no document that can be kept"
        raise DataError(what, "look into its files")
    if not any(files["valid"][name].tokens for name in weights):
        raise DataError("no document is held out for validation", "lower --held-out")
    kept = {split: {name: files[split][name] for name in weights} for split in SPLITS}
    manifest = {
        "vocab_size": Tokenizer.load(corpus / "tokenizer.model").vocab_size,
        "tokenizer_sha256": sha256(corpus / "tokenizer.model"),
        "weights": weights,
        "epochs": epochs(weights, counts, budget),
        "sources": sources,
        "slices": {name: entries[name] for name in weights},
        "left_out": {name: entry for name, entry in entries.items() if name not in weights},
    }
    return finish_corpus(corpus, kept, manifest)
