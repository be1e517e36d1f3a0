"""Where a token of the corpus comes from: package, version, file and document."""

import re
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from minillama.corpus.document import read_documents
from minillama.corpus.token_files import SPLITS, TokenFile, open_corpus
from minillama.errors import DataError

SHARD = re.compile(
    r"(?P<shard>(?P<slice>\w+)(\.part\d+)?\.(?P<split>train|valid|test)\.\d+\.bin):(?P<at>\d+)"
)


def trace(
    corpus: Positional[Path],
    slice: Positional[str] = "",
    offset: Positional[int] = -1,
    split: Literal["train", "valid", "test"] = "train",
) -> str:
    """Say where a token of the corpus comes from: package, version, file and document.

    Args:
        corpus: the corpus's folder; or SHARD:OFFSET, a file of tokens/ and the token's number in
            it, and nothing else.
        slice: the slice.
        offset: the token's number in the slice's shards, all together.
        split: train, valid or test.

    Raises:
        DataError: there is no such corpus, slice, shard or token.
    """
    if not slice:
        corpus, slice, split, offset = _parse_place(corpus)
    elif offset < 0:
        what = f"{corpus} {slice}: the token's number is missing, or below 0"
        raise DataError(what, f"write {corpus} {slice} 123")
    opened = open_corpus(corpus)
    if slice not in opened.weights or split not in SPLITS:
        raise DataError(f"{corpus} has no {slice}.{split}", f"it has {', '.join(opened.slices)}")
    file = opened.files[split][slice]
    number = file.find(offset)
    record = read_origin(file, number)
    within = offset - int(file.offsets[number])
    near = opened.tokenizer().decode(file.document(number)[within:][:12])
    return (
        f"{record['source']}  {record['path']}\n"
        f"document {number} ({record['id']}), token {within}: {near!r}"
    )


def read_origin(file: TokenFile, number: int) -> dict[str, Any]:
    """The line of text/ that belongs to a document. Raises ``DataError`` if there is none."""
    left = number
    for path, documents in file.texts():
        if left < documents:
            record = next(islice(read_documents(path), left, None), None)
            if record is not None:
                return record
        left -= documents
    hint = "delete the corpus and build it again"
    raise DataError(f"the texts of {file.index} have no document {number}", hint)


def _parse_place(path: Path) -> tuple[Path, str, str, int]:
    """Corpus, slice, split and token of ``CORPUS/tokens/books.train.00000.bin:123``."""
    found = SHARD.fullmatch(path.name)
    if found is None:
        what = f"'{path}' is no SHARD:OFFSET, and no slice and offset follow it"
        example = "data/corpus/nano/tokens/books.train.00000.bin:123"
        raise DataError(what, f"write {example}, or data/corpus/nano books 123")
    file = TokenFile(path.with_name(f"{found['slice']}.{found['split']}.json"))
    begin, tokens = file.shard_range(found["shard"])
    if int(found["at"]) >= tokens:
        what = f"{path.parent / found['shard']} has {tokens} tokens, not {found['at']}"
        raise DataError(what, "lower it")
    return path.parent.parent, found["slice"], found["split"], begin + int(found["at"])
