"""Build the corpus: read the packages, clean, deduplicate, split, tokenize; print Table 1.

Stages: text/ (clean documents), tokenizer.model, tokens/ (shards) and, last of all, manifest.json:
a corpus without it is not there. A corpus of the same sources and settings is not built again.
"""

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm
from tyro.conf import Positional

from minillama.corpus import books, c4, github, stackexchange, web, wikipedia
from minillama.corpus.archive import read_members
from minillama.corpus.document import Document
from minillama.corpus.mixture import OWN_SLICE, epochs, mixture
from minillama.corpus.own import OWN_FOLDER, own_documents
from minillama.corpus.shards import TokenFile, open_corpus, read_documents, write_tokens
from minillama.corpus.sources import DOWNLOADS, SOURCES, SliceSpec, Source, load_sources
from minillama.errors import ConfigError, DataError, nearest
from minillama.files import atomic_path, read_json, remove, sha256, write_json
from minillama.paper import TABLE1
from minillama.tokenizer import Tokenizer, train_tokenizer

READERS = {
    "bible": books.bible,
    "conversations": stackexchange.conversations,
    "gutenberg": books.gutenberg,
    "html": web.html,
    "python": github.python,
    "rst": c4.rst,
    "wikipedia": wikipedia.wikipedia,
}
MIN_BYTES = 200
"""Shorter documents are headings and stubs."""
VALID_SHARE = 0.03
SPLITS = ("train", "valid")


@dataclass
class Tally:
    """What happened to the documents of a slice on their way into the corpus."""

    documents_in: int = 0
    bytes_in: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str, count: int = 1) -> None:
        """Count documents that are left out."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    def add(self, other: "Tally") -> None:
        """Take over the counts of another package of the same slice."""
        self.documents_in += other.documents_in
        self.bytes_in += other.bytes_in
        for reason, count in other.dropped.items():
            self.drop(reason, count)


def read_source(source: Source, spec: SliceSpec, downloads: Path) -> tuple[list[Document], Tally]:
    """The clean documents that one package gives to one slice."""
    tally, documents = Tally(), []
    members = list(read_members(source.find(downloads), list(spec.members), list(spec.exclude)))
    tally.documents_in, tally.bytes_in = len(members), sum(len(content) for _, content in members)
    if spec.reader not in READERS:
        known = nearest(spec.reader, READERS)
        raise DataError(f"unknown reader '{spec.reader}' for {source.pin}", known)
    texts = list(READERS[spec.reader](members))
    for path, text in texts:
        if len(text.encode()) < MIN_BYTES:
            tally.drop("too short")
        else:
            documents.append(Document(text, spec.slice, source.pin, path))
    tally.drop("another edition or no text", max(0, len(members) - len(texts)))
    return documents, tally


def deduplicate(documents: Iterable[Document], tally: Tally, seen: set[str]) -> list[Document]:
    """The first of each group of documents with the same text, none of whose keys is in ``seen``.

    ``seen`` grows; shared by all slices, it keeps a text from being in two of them, and so from
    being trained on in one and held out in the other.
    """
    first: dict[str, Document] = {}
    for document in documents:
        if document.key in seen:
            tally.drop("exact duplicate")
        else:
            seen.add(document.key)
            first[document.key] = document
    return list(first.values())


def cap(documents: list[Document], max_bytes: int, tally: Tally) -> list[Document]:
    """At most ``max_bytes`` of a slice: documents in the order of their keys, a fixed sample."""
    chosen, total = [], 0
    for document in sorted(documents, key=lambda d: d.key):
        size = len(document.text.encode())
        if total + size > max_bytes:
            tally.drop("over the slice's limit")
        else:
            chosen.append(document)
            total += size
    return chosen


def split(documents: list[Document]) -> dict[str, list[Document]]:
    """Hold out whole documents, about 3% of the bytes and at least one, chosen by their keys.

    Documents much larger than the share are never held out.
    """
    sizes = {d.key: len(d.text.encode()) for d in documents}
    target = VALID_SHARE * sum(sizes.values())
    by_key = sorted(documents, key=lambda d: d.key)
    smallest = min(by_key, key=lambda d: sizes[d.key], default=None)
    valid, total = [], 0
    for document in by_key:
        if total + sizes[document.key] <= 1.5 * target and total < target:
            valid.append(document)
            total += sizes[document.key]
    if not valid and len(by_key) > 1:
        valid = [smallest]
    held = {d.key for d in valid}
    return {"train": [d for d in by_key if d.key not in held], "valid": valid}


def build(
    name: str = "nano",
    vocab_size: int = 1024,
    slice_mb: float = 10.0,
    own_share: float = 0.1,
    budget: int = 6_440_000,
    data: Path = Path("data"),
    sources: Path = SOURCES,
    downloads: Path = DOWNLOADS,
    workers: int = 2,
) -> str:
    """Build data/corpus/NAME from the fetched packages, and print Table 1.

    Args:
        name: the corpus's folder.
        vocab_size: pieces of the tokenizer; the paper has 32,000.
        slice_mb: at most so many megabytes of text a slice.
        own_share: share of the mixture for texts added with `minillama data add`; 0: without them.
        budget: training tokens for which the table states the epochs.
        data: the data folder.
        sources: the list of packages.
        downloads: where they were fetched to.
        workers: processes.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a package is missing or altered, or there is no text at all.
    """
    _check(name, vocab_size, slice_mb, own_share, workers)
    folder, own = data / "corpus" / name, data / OWN_FOLDER
    if not own_share or not own.exists():
        own, own_share = None, 0.0
    wanted = fingerprint(sources, own, slice_mb, vocab_size, own_share)
    if (folder / "manifest.json").exists():
        manifest = read_json(folder / "manifest.json")
        if manifest.get("fingerprint") == wanted:
            open_corpus(folder)
            return table1(manifest, budget)
    for source in load_sources(sources):
        source.find(downloads)  # complain before the old corpus goes
    (folder / "manifest.json").unlink(missing_ok=True)  # first: what is left is no corpus
    remove(folder)  # of other sources or settings
    tallies = build_text(folder, sources, downloads, own, slice_mb, workers)
    weights = mixture(tallies, own_share) if own else mixture(tallies)
    tokenizer_path = folder / "tokenizer.model"
    tokenizer = train_tokenizer(sample(folder, weights), tokenizer_path, vocab_size)
    files = build_tokens(folder, list(weights), tokenizer, workers)
    manifest = {
        "fingerprint": wanted,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_sha256": sha256(tokenizer_path),
        "weights": weights,
        "sources": [s.pin for s in load_sources(sources) if s.kind == "training"],
        "slices": {n: asdict(tallies[n]) | _sizes(files[n]) for n in weights},
    }
    write_json(folder / "manifest.json", manifest)
    return table1(manifest, budget)


def _check(name: str, vocab_size: int, slice_mb: float, own_share: float, workers: int) -> None:
    if name in ("", ".", "..") or Path(name).name != name:
        raise ConfigError(f"name = '{name}' is no folder name", "use letters and digits")
    if vocab_size < 300:
        raise ConfigError(f"vocab_size = {vocab_size}", "256 pieces are bytes: take 300 or more")
    if slice_mb <= 0 or workers < 1:
        raise ConfigError("slice_mb and workers must be above 0")
    if not 0 <= own_share < 1:
        raise ConfigError(f"own_share = {own_share}", "choose a fraction from 0 to below 1")


def _sizes(files: dict[str, TokenFile]) -> dict[str, Any]:
    return {
        split: {"documents": f.n_documents, "bytes": f.n_bytes, "tokens": f.tokens}
        for split, f in files.items()
    }


def fingerprint(sources: Path, own: Path | None, *settings: float) -> str:
    """What the corpus depends on: packages, the user's texts, the settings, the code."""
    digest = hashlib.sha256(repr([load_sources(sources), settings]).encode())
    modules = (books, c4, github, stackexchange, web, wikipedia)
    parts = (Document, deduplicate, cap, split, unique_lines, mixture, sample, train_tokenizer)
    for code in (*modules, *parts):
        digest.update(inspect.getsource(code).encode())
    for path in sorted(own.rglob("*.txt")) if own else ():
        if path.is_file():
            digest.update(f"{path.relative_to(own)} {sha256(path)}".encode())
    return digest.hexdigest()


def build_text(
    folder: Path, sources: Path, downloads: Path, own: Path | None, slice_mb: float, workers: int
) -> dict[str, Tally]:
    """Stage one: text/<slice>.<split>.jsonl for every slice that has text."""
    jobs = [(s, spec, downloads) for s in load_sources(sources) for spec in s.slices]
    documents: dict[str, list[Document]] = {}
    tallies: dict[str, Tally] = {}
    with ProcessPoolExecutor(workers) as pool:
        results = pool.map(read_source, *zip(*jobs, strict=True)) if jobs else iter(())
        names = [spec.slice for _, spec, _ in jobs]
        bar = tqdm(results, total=len(jobs), desc="clean", unit="package")
        for slice_name, (found, tally) in zip(names, bar, strict=True):
            documents.setdefault(slice_name, []).extend(found)
            tallies.setdefault(slice_name, Tally()).add(tally)
    if own:
        documents[OWN_SLICE] = own_documents(own)
        size = sum(len(d.text.encode()) for d in documents[OWN_SLICE])
        tallies[OWN_SLICE] = Tally(len(documents[OWN_SLICE]), size)
    seen: set[str] = set()
    for slice_name, found in documents.items():
        tally = tallies[slice_name]
        kept = cap(deduplicate(found, tally, seen), int(slice_mb * 1e6), tally)
        parts = split(kept)
        if slice_name == "commoncrawl":
            parts = unique_lines(parts, tally)
        for split_name, part in parts.items():
            write_documents(folder / "text" / f"{slice_name}.{split_name}.jsonl", part)
        if slice_name == OWN_SLICE and found and not parts["train"]:
            what = f"no text of yours could be kept ({tally.dropped})"
            raise DataError(what, "add more texts, split large files, or raise --slice-mb")
        if not parts["train"]:
            del tallies[slice_name]
    if not tallies:
        raise DataError("the corpus would be empty", "add texts with `minillama data add FOLDER`")
    return tallies


def unique_lines(parts: dict[str, list[Document]], tally: Tally) -> dict[str, list[Document]]:
    """Both splits without repeated lines, and without the documents of which too little is left."""
    seen: set[str] = set()
    for name in SPLITS:  # training first: no line of it stays in the held-out documents
        documents, dropped = web.drop_repeated_lines(parts[name], seen)
        parts[name] = [d for d in documents if len(d.text.encode()) >= MIN_BYTES]
        tally.drop("too short without repeated lines", len(documents) - len(parts[name]))
        tally.drop("repeated lines", dropped)
    return parts


def write_documents(path: Path, documents: list[Document]) -> None:
    """One JSON object a line, atomically."""
    with atomic_path(path) as aside, open(aside, "w", encoding="utf-8") as file:
        for document in documents:
            record = asdict(document) | {"id": document.key[:16]}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def sample(folder: Path, weights: dict[str, float], megabytes: float = 6.0) -> Iterator[str]:
    """Training text for the tokenizer: every slice by its share, as far as its text goes."""
    for name, weight in weights.items():
        wanted = weight * megabytes * 1e6
        for record in read_documents(folder / "text" / f"{name}.train.jsonl"):
            if wanted <= 0:
                break
            yield record["text"][: int(wanted)]
            wanted -= len(record["text"])


def build_tokens(
    folder: Path, names: list[str], tokenizer: Tokenizer, workers: int
) -> dict[str, dict[str, TokenFile]]:
    """Stage three: tokens/<slice>.<split>.* for every slice."""
    jobs = [(folder, name, split, tokenizer.model) for name in names for split in SPLITS]
    with ProcessPoolExecutor(workers) as pool:
        bar = tqdm(pool.map(encode_split, *zip(*jobs, strict=True)), total=len(jobs),
                   desc="tokenize", unit="file")  # fmt: skip
        indexes = list(bar)
    files: dict[str, dict[str, TokenFile]] = {name: {} for name in names}
    for (_, name, split_name, _), index in zip(jobs, indexes, strict=True):
        files[name][split_name] = TokenFile(index)
    return files


def encode_split(folder: Path, name: str, split_name: str, model: bytes) -> Path:
    """Tokenize one file of documents; each becomes <s> ids </s>."""
    tokenizer = Tokenizer(model)
    texts = (d["text"] for d in read_documents(folder / "text" / f"{name}.{split_name}.jsonl"))
    documents = ((tokenizer.encode(t, bos=True, eos=True), len(t.encode())) for t in texts)
    stem = folder / "tokens" / f"{name}.{split_name}"
    return write_tokens(stem, documents, tokenizer.vocab_size).index


def table1(manifest: dict[str, Any], budget: int) -> str:
    """Table 1 for this corpus, beside the paper's."""
    weights = manifest["weights"]
    tokens = {name: manifest["slices"][name]["train"]["tokens"] for name in weights}
    read = epochs(weights, tokens, budget)
    lines = [
        f"Table 1 for {budget:,} training tokens",
        f"{'slice':<14}{'files in':>9}{'MB in':>7}{'kept':>6}{'MB':>7}{'tokens':>11}"
        f"{'share':>7}{'epochs':>8} | paper: share, epochs, disk",
    ]
    for name in (*TABLE1, *(n for n in weights if n not in TABLE1)):
        row = TABLE1.get(name)
        paper = f"{row['share']:>6.1%}{row['epochs']:>6.2f}  {row['disk']}" if row else "     -"
        if name not in weights:
            lines.append(f"{name:<14}{'absent: no package carries its text':>69} | {paper}")
            continue
        told = manifest["slices"][name]
        kept = {k: sum(told[s][k] for s in SPLITS) for k in ("documents", "bytes")}
        lines.append(
            f"{name:<14}{told['documents_in']:>9,}{told['bytes_in'] / 1e6:>7.1f}"
            f"{kept['documents']:>6,}{kept['bytes'] / 1e6:>7.2f}{tokens[name]:>11,}"
            f"{weights[name]:>7.1%}{read[name]:>8.2f} | {paper}"
        )
    for name in weights:
        dropped = manifest["slices"][name]["dropped"]
        if dropped:
            reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
            lines.append(f"{name}: dropped {reasons}")
    return "\n".join(lines)


def trace(
    corpus: Positional[Path],
    slice: Positional[str],
    offset: Positional[int],
    split: Literal["train", "valid"] = "train",
) -> str:
    """Where a token of the corpus comes from: package, version, file and document.

    Args:
        corpus: the corpus's folder.
        slice: the slice.
        offset: the token's number in the slice's shards.
        split: train or valid.
    """
    opened = open_corpus(corpus, verify=False)
    if slice not in opened.weights or split not in SPLITS:
        raise DataError(f"{corpus} has no {slice}.{split}", f"it has {', '.join(opened.slices)}")
    file = (opened.train if split == "train" else opened.valid)[slice]
    number = file.find(offset)
    records = read_documents(corpus / "text" / f"{slice}.{split}.jsonl")
    record = next(r for i, r in enumerate(records) if i == number)
    begin = int(file.offsets[number])
    near = opened.tokenizer().decode(file.document(number)[offset - begin :][:12])
    return (
        f"{record['source']}  {record['path']}\n"
        f"document {number} ({record['id']}), token {offset - begin}: {near!r}"
    )
