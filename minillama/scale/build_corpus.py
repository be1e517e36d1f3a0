"""Build the corpus: read the packages, clean, deduplicate, split, tokenize; print Table 1.

Stages: work/ (each package read, each slice cleaned: ``clean``), text/ (the documents chosen:
``split``), tokenizer.model, tokens/ (shards) and, last of all, manifest.json: a corpus without it
is not there. A corpus of the same sources, settings and versions is not built again, and a build
that was stopped goes on where it was.
"""

import contextlib
import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minillama.corpus.contamination import ALL_BENCHMARKS, Index, local_files
from minillama.corpus.document import read_documents
from minillama.corpus.mixture import OWN_SLICE, mixture
from minillama.corpus.pipeline import StepContext
from minillama.corpus.recipes import RECIPES, SIZES, recipe_versions
from minillama.corpus.sources import DOWNLOADS, SOURCES, Source, load_sources
from minillama.corpus.split import choose_documents
from minillama.corpus.statistics import (
    StepStats,
    sources_table,
    summary,
    table1,
    waterfall_table,
)
from minillama.corpus.token_files import (
    SPLITS,
    Corpus,
    TokenFile,
    open_corpus,
    token_files,
    write_tokens,
)
from minillama.corpus.vocabulary import sample
from minillama.errors import ConfigError, DataError, nearest
from minillama.files import alone_in, read_json, remove, sha256, write_json
from minillama.paper import TABLE1
from minillama.scale.clean import (
    BuildDir,
    Task,
    clean_slice,
    index_benchmarks,
    read_package,
    read_report,
    tasks_of,
)
from minillama.scale.pool import pool
from minillama.scale.user_texts import OWN_FOLDER, own_sources
from minillama.tokenizer import Tokenizer, train_tokenizer


def build(
    name: str = "nano",
    vocab_size: int = 2048,
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
        slice_mb: at most so many megabytes of text a slice; 10 for nano, 100 for mini. Texts of
            yours are all taken.
        own_share: share of the mixture for texts added with `minillama data add`; 0: without them;
            1: nothing else, and no package need be fetched.
        budget: training tokens for which the table states the epochs; the recipe's by default.
        data: the data folder.
        sources: the list of packages.
        downloads: where they were fetched to.
        workers: processes.
        recipe: nano (10 MB a slice), small (all of the default packages) or mini (larger ones
            too); by default that of the corpus's name, or else nano.

    Raises:
        ConfigError: a setting is out of range.
        DataError: a package is missing or altered, or there is no text at all.
    """
    recipe = recipe or (name if name in SIZES else "nano")
    if recipe not in SIZES:
        raise ConfigError(f"unknown recipe '{recipe}'", nearest(recipe, SIZES))
    slice_mb = SIZES[recipe].slice_mb if slice_mb is None else slice_mb
    budget = SIZES[recipe].budget if budget is None else budget
    _check_settings(name, vocab_size, slice_mb, own_share, workers, budget)
    folder, own_texts = data / "corpus" / name, data / OWN_FOLDER
    if not own_share or not own_sources(own_texts):
        if own_share == 1:
            raise DataError("there are no texts of yours", "run `minillama data add FOLDER` first")
        own_texts, own_share = None, 0.0
    settings = (recipe, slice_mb, vocab_size, own_share)
    packages = needed_packages(sources, downloads, recipe, own_share)
    pins = [source.pin for source in packages] if own_share == 1 else []
    key = fingerprint(sources, downloads, own_texts, (*settings, *pins))
    if (folder / "manifest.json").exists():
        manifest = read_json(folder / "manifest.json")
        if manifest.get("fingerprint") == key:
            open_corpus(folder, verify=True)
            return describe(manifest, budget)
    build_dir = BuildDir(folder / "work", StepContext(sources, downloads, scratch=folder / "work"))
    with alone_in(folder):
        manifest = _build(folder, build_dir, packages, own_texts, key, settings, workers)
    return describe(manifest, budget)


def _check_settings(
    name: str, vocab_size: int, slice_mb: float, own_share: float, workers: int, budget: int
) -> None:
    if name in ("", ".", "..") or Path(name).name != name:
        raise ConfigError(f"name = '{name}' is no folder name", "use letters and digits")
    if vocab_size < 300:
        raise ConfigError(f"vocab_size = {vocab_size}", "256 pieces are bytes: take 300 or more")
    if not 0 < slice_mb < math.inf or workers < 1 or budget < 1:
        raise ConfigError("slice_mb, workers and budget must be above 0 and finite")
    if not 0 <= own_share <= 1:
        raise ConfigError(f"own_share = {own_share}", "choose a fraction from 0 to 1")


def needed_packages(sources: Path, downloads: Path, recipe: str, own_share: float) -> list[Source]:
    """The packages that a build reads: all of its recipe.

    For the user's texts alone, the benchmarks, if they were fetched.

    Raises:
        DataError: the list of packages is missing or malformed.
    """
    packages = [source for source in load_sources(sources) if source.in_recipe(recipe)]
    if own_share < 1:
        return packages
    fetched = []
    for source in packages:
        if source.kind == "evaluation":
            with contextlib.suppress(DataError):
                source.find(downloads)
                fetched.append(source)
    return fetched


def fingerprint(
    sources: Path, downloads: Path, own_texts: Path | None, settings: tuple[Any, ...]
) -> str:
    """What the corpus depends on: packages, versions, settings, benchmarks, texts of the user's."""
    parts = [load_sources(sources), settings, recipe_versions()]
    for paths in local_files(downloads).values():
        parts += [(path.name, sha256(path)) for path in paths]
    for path in own_sources(own_texts) if own_texts else ():
        parts.append((path.name, sha256(path)))
    content = repr(parts).encode(errors="replace")
    return hashlib.sha256(content).hexdigest()


def _build(
    folder: Path,
    build_dir: BuildDir,
    packages: list[Source],
    own_texts: Path | None,
    key: str,
    settings: tuple[Any, ...],
    workers: int,
) -> dict[str, Any]:
    """Build a corpus in ``folder``, where nobody else does; returns its manifest."""
    recipe, slice_mb, vocab_size, own_share = settings
    for source in packages:
        source.find(build_dir.context.downloads)  # complain before the old corpus goes
    _make_room(folder, key)
    if not packages:
        Index().save(build_dir.index)  # no benchmark to look for

    # Text.
    tasks = tasks_of(packages, recipe, own_texts)
    waterfalls = build_text(folder, build_dir, tasks, slice_mb, workers)
    with_text = [n for n in waterfalls if (folder / f"text/{n}.train.jsonl").stat().st_size]
    if not with_text:
        raise DataError("the corpus would be empty", "add texts with `minillama data add FOLDER`")
    weights = mixture(with_text, own_share) if own_texts else mixture(with_text)

    # Tokens.
    tokenizer = build_tokenizer(folder, weights, vocab_size)
    pairs = [(name, split) for name in weights for split in SPLITS]
    jobs = [partial(encode_split, folder, *pair, tokenizer.model) for pair in pairs]
    in_parallel(jobs, workers, "tokenize", "file")

    # The manifest, last.
    files = {split: token_files(folder, weights, split) for split in SPLITS}
    manifest = {
        "fingerprint": key,
        "recipe": recipe,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_sha256": sha256(folder / "tokenizer.model"),
        "weights": weights,
        "sources": [source.pin for source in packages if source.kind == "training"],
        "packages": package_counts(folder, files["train"], packages),
        "benchmarks": Index.load(build_dir.index).examples,
        "slices": {n: summary(waterfalls[n]) | token_counts(files, n) for n in weights},
        "left_out": {n: summary(rows) for n, rows in waterfalls.items() if n not in weights},
    }
    return finish_corpus(folder, files, manifest)


def token_counts(files: dict[str, dict[str, TokenFile]], name: str) -> dict[str, Any]:
    """Documents, bytes and tokens of a slice, by split."""
    counts = {}
    for split, of_slices in files.items():
        file = of_slices[name]
        counts[split] = {
            "documents": file.n_documents,
            "bytes": file.n_bytes,
            "tokens": file.tokens,
        }
    return counts


def package_counts(
    folder: Path, files: dict[str, TokenFile], packages: list[Source]
) -> list[dict[str, Any]]:
    """Training documents, bytes and tokens of every package in every slice, with its license."""
    licenses = {source.pin: source.license for source in packages}
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for name, file in files.items():
        records = read_documents(folder / f"text/{name}.train.jsonl")
        for record, tokens in zip(records, np.diff(file.offsets).tolist(), strict=True):
            size = len(record["text"].encode())
            counts[name, record["source"]].update(documents=1, bytes=size, tokens=tokens)
    return [
        {"package": pin, "slice": name, **count, "license": licenses.get(pin, "the user's")}
        for (name, pin), count in counts.items()
    ]


def finish_corpus(
    folder: Path, files: dict[str, dict[str, TokenFile]], manifest: dict[str, Any]
) -> dict[str, Any]:
    """Add the digest of all indexes and write the manifest: from now on the corpus is there."""
    corpus = Corpus(folder, files, manifest["weights"], manifest)
    finished = {**manifest, "data_sha256": corpus.fingerprint}
    write_json(folder / "manifest.json", finished)
    remove(folder / "work")
    return finished


def describe(manifest: dict[str, Any], budget: int) -> str:
    """Table 1, the waterfall, and what was looked for of the benchmarks."""
    counts = manifest["benchmarks"]
    names = ", ".join(counts) or "there is no evaluation package"
    checked = (
        f"checked against {sum(counts.values()):,} examples of {len(counts)} benchmarks ({names})"
    )
    lacking = [name for name in ALL_BENCHMARKS if name not in counts]
    if counts and lacking:
        checked += f"\nnot checked against, as they are not here: {', '.join(lacking)}"
    tables = [table1(manifest, budget), sources_table(manifest, budget), waterfall_table(manifest)]
    return "\n\n".join(tables) + f"\n{checked}"


def _make_room(folder: Path, key: str) -> None:
    """Remove what an earlier build of other sources or settings left; keep what this one did."""
    plan = folder / "work" / "plan.json"
    if not plan.exists() or read_json(plan) != key:
        (folder / "manifest.json").unlink(missing_ok=True)  # first: what is left is no corpus
        remove(folder)
        write_json(plan, key)
    for left in list(folder.rglob(".*.tmp")):  # of a build that was killed
        remove(left)


def in_parallel(jobs: list[Callable[[], Any]], workers: int, stage: str, unit: str) -> None:
    """Run all jobs; one worker is this process itself.

    Raises:
        DataError: a process was killed, or there is no memory left.
    """
    with pool(workers, stage) as run:
        for _ in tqdm(run(_call, jobs), total=len(jobs), desc=stage, unit=unit):
            pass


def _call(job: Callable[[], Any]) -> Any:
    return job()


def build_text(
    folder: Path, build_dir: BuildDir, tasks: list[Task], slice_mb: float, workers: int
) -> dict[str, list[StepStats]]:
    """Write text/<slice>.<split>.jsonl; returns each slice's waterfall."""
    by_slice: dict[str, list[Task]] = {}
    for task in tasks:
        by_slice.setdefault(task.slice, []).append(task)
    if unknown := sorted(set(by_slice) - set(RECIPES)):
        raise ConfigError(f"unknown slices {unknown}", f"Table 1 has {', '.join(TABLE1)}")

    # Read the packages; then clean the slices, the one first by which others are measured.
    jobs = [partial(read_package, build_dir, task) for task in tasks]
    in_parallel([partial(index_benchmarks, build_dir), *jobs], workers, "read", "package")
    if "wikipedia" in by_slice:
        clean_slice(build_dir, "wikipedia", by_slice["wikipedia"])
        articles = build_dir.clean("wikipedia")
        if articles.stat().st_size:
            build_dir = replace(build_dir, context=replace(build_dir.context, wikipedia=articles))
    longest_first = sorted(by_slice, key=lambda name: name != "commoncrawl")
    jobs = [partial(clean_slice, build_dir, name, by_slice[name]) for name in longest_first]
    in_parallel(jobs, workers, "clean", "slice")

    # Choose among the clean documents.
    clean = {name: build_dir.clean(name) for name in by_slice}
    chosen = choose_documents(clean, folder / "text", slice_mb)
    waterfalls = {name: read_report(clean[name]) + rows for name, rows in chosen.items()}
    own = waterfalls.get(OWN_SLICE)
    if own and own[0].documents_out and not own[-1].documents_out:
        what = f"no text of yours could be kept ({summary(own)['dropped']})"
        raise DataError(what, "add more texts, split large files, or raise --slice-mb")
    return waterfalls


def build_tokenizer(folder: Path, weights: dict[str, float], vocab_size: int) -> Tokenizer:
    """Train tokenizer.model on a sample of the training text, unless it is there."""
    path = folder / "tokenizer.model"
    if path.exists():  # of a build of the same settings that was stopped
        return Tokenizer.load(path)
    return train_tokenizer(sample(folder, weights), path, vocab_size)


def encode_split(folder: Path, name: str, split: str, model: bytes) -> None:
    """Tokenize one file of documents, unless it is done; each becomes <s> ids </s>."""
    stem = folder / "tokens" / f"{name}.{split}"
    if stem.with_name(f"{stem.name}.json").exists():
        return
    tokenizer = Tokenizer(model)

    def encode_documents() -> Iterator[tuple[list[int], int]]:
        for record in read_documents(folder / f"text/{name}.{split}.jsonl"):
            ids = tokenizer.encode(record["text"], bos=True, eos=True)
            yield ids, len(record["text"].encode())

    write_tokens(stem, encode_documents(), tokenizer.vocab_size)
