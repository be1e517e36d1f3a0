"""Build the corpus: read the packages, clean, deduplicate, split, tokenize; print Table 1.

Stages: work/ (each package read, each slice cleaned: ``clean``), text/ (the documents chosen:
``choose``), tokenizer.model, tokens/ (shards) and, last of all, manifest.json: a corpus without it
is not there. A corpus of the same sources and settings is not built again, and a build that was
stopped goes on where it was.
"""

import hashlib
import inspect
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm
from tyro.conf import Positional

from minillama.corpus import (
    archive,
    arxiv,
    benchmarks,
    books,
    c4,
    commoncrawl,
    contamination,
    deduplicate,
    document,
    github,
    hash_set,
    heuristics,
    language,
    latex_macros,
    licenses,
    mixture,
    ngram,
    pipeline,
    quality,
    recipes,
    scan,
    skip_errors,
    split,
    stackexchange,
    stackexchange_dump,
    warc,
    wikipedia,
)
from minillama.corpus.contamination import Index
from minillama.corpus.mixture import OWN_SLICE
from minillama.corpus.pipeline import StepContext
from minillama.corpus.recipes import RECIPES, SIZES
from minillama.corpus.sources import DOWNLOADS, SOURCES, load_sources
from minillama.corpus.statistics import SPLITS, StepStats, summary, table1, waterfall_table
from minillama.corpus.token_files import TokenFile, open_corpus, read_documents, write_tokens
from minillama.errors import ConfigError, DataError, nearest
from minillama.files import alone_in, read_json, remove, sha256, write_json
from minillama.paper import TABLE1
from minillama.scale import clean, user_texts
from minillama.scale.clean import BuildDir, clean_slice, index_benchmarks, read_package, tasks_of
from minillama.scale.pool import pool
from minillama.scale.user_texts import OWN_FOLDER
from minillama.tokenizer import Tokenizer, train_tokenizer

CODE = (
    archive, arxiv, benchmarks, books, c4, clean, commoncrawl, contamination, deduplicate, document,
    github, hash_set, heuristics, language, latex_macros, licenses, mixture, ngram, pipeline,
    quality, recipes, scan, skip_errors, split, stackexchange, stackexchange_dump, warc, wikipedia,
)  # fmt: skip
"""What the corpus depends on: a change in any of them builds it again."""


def build(
    name: str = "nano",
    vocab_size: int = 1024,
    slice_mb: float | None = None,
    own_share: float = 0.1,
    budget: int | None = None,
    data: Path = Path("data"),
    sources: Path = SOURCES,
    downloads: Path = DOWNLOADS,
    workers: int = 2,
    recipe: str | None = None,
) -> str:
    """Build data/corpus/NAME from the fetched packages; print Table 1 and every step's losses.

    Args:
        name: the corpus's folder.
        vocab_size: pieces of the tokenizer; the paper has 32,000.
        slice_mb: at most so many megabytes of text a slice; 10 for nano, 100 for mini.
        own_share: share of the mixture for texts added with `minillama data add`; 0: without them.
        budget: training tokens for which the table states the epochs; the recipe's by default.
        data: the data folder.
        sources: the list of packages.
        downloads: where they were fetched to.
        workers: processes.
        recipe: nano (10 million tokens) or mini (all that the packages have, for 100 million); by
            default that of the corpus's name, or else nano.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a package is missing or altered, or there is no text at all.
    """
    recipe = recipe or (name if name in SIZES else "nano")
    if recipe not in SIZES:
        raise ConfigError(f"unknown recipe '{recipe}'", nearest(recipe, SIZES))
    slice_mb = SIZES[recipe].slice_mb if slice_mb is None else slice_mb
    budget = SIZES[recipe].budget if budget is None else budget
    _check(name, vocab_size, slice_mb, own_share, workers, budget)
    folder, own_texts = data / "corpus" / name, data / OWN_FOLDER
    if not own_share or not own_texts.exists():
        own_texts, own_share = None, 0.0
    settings = (recipe, slice_mb, vocab_size, own_share)
    wanted = fingerprint(sources, downloads, own_texts, *settings)
    if (folder / "manifest.json").exists():
        manifest = read_json(folder / "manifest.json")
        if manifest.get("fingerprint") == wanted:
            open_corpus(folder)
            return told(manifest, budget)
    around = StepContext(sources, downloads, scratch=folder / "work")
    with alone_in(folder):
        return told(_build(folder, around, own_texts, wanted, settings, workers), budget)


def _build(
    folder: Path,
    around: StepContext,
    own_texts: Path | None,
    wanted: str,
    settings: tuple,
    workers: int,
) -> dict[str, Any]:
    """Build a corpus in ``folder``, where nobody else does; returns its manifest."""
    recipe, slice_mb, vocab_size, own_share = settings
    sources, downloads = around.sources, around.downloads
    for source in load_sources(sources):
        source.find(downloads)  # complain before the old corpus goes
    shop = BuildDir(folder / "work", around)
    _make_room(folder, wanted)
    waterfalls = build_text(folder, shop, recipe, own_texts, slice_mb, workers)
    with_text = [n for n in waterfalls if (folder / f"text/{n}.train.jsonl").stat().st_size]
    if not with_text:
        raise DataError("the corpus would be empty", "add texts with `minillama data add FOLDER`")
    weights = mixture.mixture(with_text, *([own_share] if own_texts else []))
    tokenizer = build_tokenizer(folder, weights, vocab_size)
    files = build_tokens(folder, list(weights), tokenizer, workers)
    manifest = {
        "fingerprint": wanted,
        "recipe": recipe,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_sha256": sha256(folder / "tokenizer.model"),
        "weights": weights,
        "sources": [s.pin for s in load_sources(sources) if s.kind == "training"],
        "benchmarks": Index.load(shop.index).examples,
        "slices": {n: summary(waterfalls[n]) | _sizes(files[n]) for n in weights},
        "left_out": {n: summary(rows) for n, rows in waterfalls.items() if n not in weights},
    }
    write_json(folder / "manifest.json", manifest)
    remove(shop.folder)
    return manifest


def told(manifest: dict[str, Any], budget: int) -> str:
    """Table 1 and the waterfall."""
    looked = sum(manifest["benchmarks"].values())
    checked = (
        f"checked against {looked:,} examples of {len(manifest['benchmarks'])} benchmarks "
        f"({', '.join(manifest['benchmarks']) or 'there is no evaluation package'})"
    )
    lacking = [name for name in benchmarks.ALL if name not in manifest["benchmarks"]]
    if manifest["benchmarks"] and lacking:
        checked += f"\nnot checked against, as they are not here: {', '.join(lacking)}"
    return f"{table1(manifest, budget)}\n\n{waterfall_table(manifest)}\n{checked}"


def _make_room(folder: Path, wanted: str) -> None:
    """Remove what an earlier build of other sources or settings left; keep what this one did."""
    plan = folder / "work" / "plan.json"
    if not plan.exists() or read_json(plan) != wanted:
        (folder / "manifest.json").unlink(missing_ok=True)  # first: what is left is no corpus
        remove(folder)
        write_json(plan, wanted)
    for aside in list(folder.rglob(".*.tmp")):  # of a build that was killed
        remove(aside)


def _check(
    name: str, vocab_size: int, slice_mb: float, own_share: float, workers: int, budget: int
) -> None:
    if name in ("", ".", "..") or Path(name).name != name:
        raise ConfigError(f"name = '{name}' is no folder name", "use letters and digits")
    if vocab_size < 300:
        raise ConfigError(f"vocab_size = {vocab_size}", "256 pieces are bytes: take 300 or more")
    if not 0 < slice_mb < math.inf or workers < 1 or budget < 1:
        raise ConfigError("slice_mb, workers and budget must be above 0 and finite")
    if not 0 <= own_share < 1:
        raise ConfigError(f"own_share = {own_share}", "choose a fraction from 0 to below 1")


def _sizes(files: dict[str, TokenFile]) -> dict[str, Any]:
    return {
        split: {"documents": f.n_documents, "bytes": f.n_bytes, "tokens": f.tokens}
        for split, f in files.items()
    }


def fingerprint(
    sources: Path, downloads: Path, own_texts: Path | None, *settings: str | float
) -> str:
    """What the corpus depends on: packages, texts of the user's, the settings, the code."""
    digest = hashlib.sha256(repr([load_sources(sources), settings]).encode())
    for code in (*CODE, user_texts.readable, user_texts.own_documents, sample, train_tokenizer):
        digest.update(inspect.getsource(code).encode())
    for path in chain.from_iterable(benchmarks.local_files(downloads).values()):
        digest.update(f"{path.name} {sha256(path)}".encode(errors="replace"))
    for path in sorted(own_texts.rglob("*.txt")) if own_texts else ():
        if path.is_file():
            digest.update(f"{path.relative_to(own_texts)} {sha256(path)}".encode(errors="replace"))
    return digest.hexdigest()


def in_parallel(jobs: list[Callable[[], Any]], workers: int, what: str, unit: str) -> list[Any]:
    """The results of all jobs, in their order; one worker is this process itself.

    Raises:
        DataError: a process was killed, or there is no memory left.
    """
    with pool(workers, what) as run:
        return list(tqdm(run(_call, jobs), total=len(jobs), desc=what, unit=unit))


def _call(job: Callable[[], Any]) -> Any:
    return job()


def build_text(
    folder: Path, shop: BuildDir, recipe: str, own_texts: Path | None, slice_mb: float, workers: int
) -> dict[str, list[StepStats]]:
    """Stage one: text/<slice>.<split>.jsonl; returns each slice's waterfall."""
    tasks = tasks_of(load_sources(shop.around.sources), recipe, own_texts)
    by_slice: dict[str, list] = {}
    for task in tasks:
        by_slice.setdefault(task.slice, []).append(task)
    if unknown := sorted(set(by_slice) - set(RECIPES)):
        raise ConfigError(f"unknown slices {unknown}", f"Table 1 has {', '.join(TABLE1)}")
    jobs = [partial(read_package, shop, task) for task in tasks]
    in_parallel([partial(index_benchmarks, shop), *jobs], workers, "read", "package")
    if "wikipedia" in by_slice:  # first: the others are measured by it
        clean_slice(shop, "wikipedia", by_slice["wikipedia"])
        if shop.clean("wikipedia").stat().st_size:
            around = StepContext(
                shop.around.sources, shop.around.downloads, shop.clean("wikipedia"), shop.folder
            )
            shop = BuildDir(shop.folder, around)
    longest_first = sorted(by_slice, key=lambda name: name != "commoncrawl")
    jobs = [partial(clean_slice, shop, name, by_slice[name]) for name in longest_first]
    in_parallel(jobs, workers, "clean", "slice")
    waterfalls = split.choose(shop, folder, list(by_slice), slice_mb)
    mine = waterfalls.get(OWN_SLICE)
    if mine and mine[0].documents_out and not mine[-1].documents_out:
        what = f"no text of yours could be kept ({summary(mine)['dropped']})"
        raise DataError(what, "add more texts, split large files, or raise --slice-mb")
    return waterfalls


def sample(folder: Path, weights: dict[str, float], megabytes: float = 6.0) -> Iterator[str]:
    """Training text for the tokenizer: every slice by its share, as far as its text goes."""
    for name, weight in weights.items():
        wanted = weight * megabytes * 1e6
        for record in read_documents(folder / "text" / f"{name}.train.jsonl"):
            if wanted <= 0:
                break
            yield record["text"][: int(wanted)]
            wanted -= len(record["text"])


def build_tokenizer(folder: Path, weights: dict[str, float], vocab_size: int) -> Tokenizer:
    """Stage two: tokenizer.model, on a sample of the training text."""
    path = folder / "tokenizer.model"
    if path.exists():  # of a build of the same settings that was stopped
        return Tokenizer.load(path)
    return train_tokenizer(sample(folder, weights), path, vocab_size)


def build_tokens(
    folder: Path, names: list[str], tokenizer: Tokenizer, workers: int
) -> dict[str, dict[str, TokenFile]]:
    """Stage three: tokens/<slice>.<split>.* for every slice."""
    pairs = [(name, split_name) for name in names for split_name in SPLITS]
    jobs = [partial(encode_split, folder, *pair, tokenizer.model) for pair in pairs]
    files: dict[str, dict[str, TokenFile]] = {name: {} for name in names}
    indexes = in_parallel(jobs, workers, "tokenize", "file")
    for (name, split_name), index in zip(pairs, indexes, strict=True):
        files[name][split_name] = TokenFile(index)
    return files


def encode_split(folder: Path, name: str, split_name: str, model: bytes) -> Path:
    """Tokenize one file of documents, unless it is done; each becomes <s> ids </s>."""
    stem = folder / "tokens" / f"{name}.{split_name}"
    index = stem.with_name(f"{stem.name}.json")
    if index.exists():
        return index
    tokenizer = Tokenizer(model)
    texts = (d["text"] for d in read_documents(folder / "text" / f"{name}.{split_name}.jsonl"))
    documents = ((tokenizer.encode(t, bos=True, eos=True), len(t.encode())) for t in texts)
    return write_tokens(stem, documents, tokenizer.vocab_size).index


def trace(
    corpus: Positional[Path],
    slice: Positional[str] = "",
    offset: Positional[int] = -1,
    split: Literal["train", "valid"] = "train",
) -> str:
    """Where a token of the corpus comes from: package, version, file and document.

    Args:
        corpus: the corpus's folder; or SHARD:OFFSET, a file of tokens/ and the token's number in
            it, and nothing else.
        slice: the slice.
        offset: the token's number in the slice's shards, all together.
        split: train or valid.

    Raises:
        DataError: there is no such corpus, slice, shard or token.
    """
    if not slice:
        corpus, slice, split, offset = _place_of(corpus)
    elif offset < 0:
        what = f"{corpus} {slice}: the token's number is missing, or below 0"
        raise DataError(what, f"write {corpus} {slice} 123")
    opened = open_corpus(corpus, verify=False)
    if slice not in opened.weights or split not in SPLITS:
        raise DataError(f"{corpus} has no {slice}.{split}", f"it has {', '.join(opened.slices)}")
    file = (opened.train if split == "train" else opened.valid)[slice]
    number = file.find(offset)
    path = corpus / "text" / f"{slice}.{split}.jsonl"
    record = next((r for i, r in enumerate(read_documents(path)) if i == number), None)
    if record is None:
        raise DataError(f"{path} has no document {number}", "delete the corpus and build it again")
    begin = int(file.offsets[number])
    near = opened.tokenizer().decode(file.document(number)[offset - begin :][:12])
    return (
        f"{record['source']}  {record['path']}\n"
        f"document {number} ({record['id']}), token {offset - begin}: {near!r}"
    )


SHARD = re.compile(
    r"(?P<shard>(?P<slice>\w+)(\.part\d+)?\.(?P<split>train|valid)\.\d+\.bin):(?P<at>\d+)"
)


def _place_of(path: Path) -> tuple[Path, str, str, int]:
    """Corpus, slice, split and token of ``CORPUS/tokens/books.train.00000.bin:123``."""
    found = SHARD.fullmatch(path.name)
    if found is None:
        what = f"'{path}' is no SHARD:OFFSET, and no slice and offset follow it"
        mend = (
            "write data/corpus/nano/tokens/books.train.00000.bin:123, or data/corpus/nano books 123"
        )
        raise DataError(what, mend)
    index = path.with_name(f"{found['slice']}.{found['split']}.json")
    begin = 0
    for shard in read_json(index)["shards"]:
        if shard["file"] == found["shard"]:
            if int(found["at"]) >= shard["tokens"]:
                what = f"{path.parent / found['shard']} has {shard['tokens']} tokens"
                raise DataError(f"{what}, not {found['at']}", "lower it")
            return path.parent.parent, found["slice"], found["split"], begin + int(found["at"])
        begin += shard["tokens"]
    raise DataError(f"{index} has no shard {found['shard']}", "look into its folder")
