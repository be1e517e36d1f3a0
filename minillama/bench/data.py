"""The corpus's steps against those of datatrove (Penedo et al., 2024): megabytes a second and core.

Both get the same pages and texts of the pinned packages, in one process and in turn; what is
counted is the time of the processor, child processes included. datatrove's steps have the settings
that come nearest to ours:

- extraction: Trafilatura, as FineWeb used it, against resiliparse;
- language: the same file, fastText's quantized lid.176, through the same predictor; theirs ranks
  all 176 languages of the whole text, ours finds the best one of the first 10,000 characters;
- quality: C4's rules with the same numbers of words and sentences;
- repeated lines and repeated spans of three sentences: its sentence deduplication, with lines or
  with sentences;
- near duplicates: its MinHash in four stages, 14 bands of 8, against ours with 16 of 8 and an
  exact comparison of what they find.

Besides datatrove its steps ask for spacy, trafilatura (below 1.12) and lxml_html_clean; without
them the table says which step is left out.
"""

import contextlib
import io
import multiprocessing
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from minillama.bench.race import Columns, race, table_of
from minillama.corpus.archive import read_members
from minillama.corpus.commoncrawl import drop_repeated_lines, html_to_text
from minillama.corpus.deduplicate import drop_near_duplicates
from minillama.corpus.document import Document
from minillama.corpus.hash_set import HashSet
from minillama.corpus.heuristics import C4Rules, clean_page, drop_repeated_spans
from minillama.corpus.language import LanguageModel
from minillama.corpus.quality import WikipediaModel
from minillama.errors import ConfigError, nearest
from minillama.scale.sources import DOWNLOADS, SOURCES, load_sources
from minillama.tokenizer import train_tokenizer

Step = Callable[[Sequence[str]], list[str]]
"""One way to do a step: from texts to what is left of them."""
PAGES, PROSE = ("sqlalchemy", ["*.html"]), ("django", ["*/docs/*.txt"])
"""Where web pages and other prose come from."""
ADDED = ("extraction", "language", "quality", "repeated lines", "repeated spans", "near duplicates")
"""The steps that are added up."""
STEPS = (*ADDED, "perplexity")


@dataclass(frozen=True)
class DataRow:
    """What was measured of one step; None where datatrove's could not run."""

    name: str
    megabytes: float
    ours: float  # seconds of the processor; the median over the rounds
    kept: float | None = None  # share of the bytes that is left
    reference: float | None = None  # seconds of datatrove's step
    kept_reference: float | None = None
    absent: str = ""  # why datatrove's is

    @property
    def ratio(self) -> float | None:
        """How many times as fast as datatrove we are."""
        return self.reference / self.ours if self.reference else None


def shown(value: float | None, form: str) -> str | None:
    """A cell that may be empty."""
    return None if value is None else format(value, form)


COLUMNS: Columns = {
    "MB/s of one core": lambda row: row.name,
    "MB": lambda row: f"{row.megabytes:.2f}",
    "minillama": lambda row: f"{row.megabytes / row.ours:.2f}",
    "datatrove": lambda row: f"{row.megabytes / row.reference:.2f}" if row.reference else "-",
    "ratio": lambda row: f"{row.ratio:.2f}x" if row.reference else "-",
    "kept": lambda row: shown(row.kept, ".0%"),
    "by datatrove": lambda row: shown(row.kept_reference, ".0%"),
    "": lambda row: row.absent,
}


def read_texts(place: tuple[str, list[str]], megabytes: float, *paths: Path) -> list[str]:
    """About so many megabytes of a package's files; ``paths``: downloads, and the list."""
    package, members = place
    downloads, sources = paths
    source = next(source for source in load_sources(sources) if source.name == package)
    texts, missing = [], megabytes * 1e6
    for _, content in read_members(source.find(downloads), members):
        if missing <= 0:
            break
        texts.append(bytes_to_str(content, detect_encoding(content)))
        missing -= len(content)
    return texts


def each(function: Callable[[str], str | None]) -> Step:
    """A step that looks at one text alone; None drops it."""
    return lambda texts: [left for left in map(function, texts) if left]


def processor_seconds() -> float:
    """Of this process and of all its children that have ended."""
    multiprocessing.active_children()  # collects those that have
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def keep_english(model: LanguageModel) -> Step:
    """Texts that are in English with certainty."""
    return each(lambda text: text if model.is_in(text, ("en",)) else None)


def apply_c4_rules(texts: Sequence[str]) -> list[str]:
    """C4's rules."""
    rules, dropped = C4Rules(), Counter()
    cleaned = [clean_page(text, rules, dropped) for text in texts]
    return [text for text, reason in cleaned if reason is None]


def drop_repetition(drop: Callable[[str, HashSet], tuple[str, int]], texts: Sequence[str]) -> list:
    """Lines, or spans of sentences, only where they are met first."""
    seen = HashSet()
    cleaned = [drop(text, seen)[0] for text in texts]
    return [text for text in cleaned if text]


def drop_duplicates(texts: Sequence[str]) -> list[str]:
    """Texts of which no earlier one is nearly the same."""
    documents = [Document(text, "", "", str(i)) for i, text in enumerate(texts)]
    return [document.text for document in drop_near_duplicates(documents)[0]]


def score_perplexity(texts: Sequence[str]) -> Step:
    """Perplexity under a 5-gram model of 1,024 pieces, trained on these texts."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(texts, Path(folder, "tokenizer.model"), 1024)
    model = WikipediaModel(texts, tokenizer)
    return each(lambda text: text if model.perplexity(text) < np.inf else None)


def to_documents(texts: Sequence[str]) -> Iterator[Any]:
    """datatrove's own kind of documents."""
    from datatrove import data

    return (data.Document(text=text, id=str(i)) for i, text in enumerate(texts))


def run_stages(make: Callable[[str], list[Any]], texts: Sequence[str]) -> list[str]:
    """datatrove's stages, one after the other, in a folder; the last one says what is left."""
    with tempfile.TemporaryDirectory() as folder:
        *stages, last = make(folder)
        for stage in stages:
            stage(to_documents(texts))
        return [document.text for document in last(to_documents(texts)) if document.text]


def load_splitter() -> None:
    """Load datatrove's splitter of sentences and words beforehand."""
    from datatrove.utils.word_tokenizers import load_word_tokenizer

    for split in (
        load_word_tokenizer("eng").sent_tokenize,
        load_word_tokenizer("eng").word_tokenize,
    ):
        split("It is loaded beforehand.")


def choose_hash() -> Any:
    """datatrove's faster hash, xxhash, which it can call up to version 3; else SHA-1."""
    from datatrove.utils.hashing import HashConfig, create_hash_func

    try:
        create_hash_func(HashConfig())("text")
    except (ImportError, TypeError):
        return HashConfig(hash_fc="sha1")
    return HashConfig()


def datatrove_extraction() -> Step:
    """Trafilatura, in a process of its own as datatrove runs it; a page may take a minute."""
    import trafilatura  # noqa: F401
    from datatrove.pipeline.extractors import Trafilatura

    return partial(run_stages, lambda folder: [Trafilatura(timeout=60).run])


class SamePredictor:
    """Our fastText in the place of the one that datatrove would load: its answers as an array."""

    def __init__(self, model: LanguageModel) -> None:
        self._predict = model._model.predict

    def predict(self, text: str, k: int) -> tuple[Sequence[str], np.ndarray]:
        """Labels and their probabilities."""
        labels, probabilities = self._predict(text, k=k)
        return labels, np.array(probabilities)


def datatrove_language(model: LanguageModel) -> Step:
    """Its LanguageFilter's model and rule; the filter itself asks for another fastText."""
    from datatrove.utils.lid import FT176LID

    lid = FT176LID(["en"])
    lid._model = SamePredictor(model)

    def keep(documents: Iterator[Any]) -> Iterator[Any]:
        return (document for document in documents if lid.predict(document)[1]["en"] >= 0.5)

    return partial(run_stages, lambda folder: [keep])


def datatrove_quality() -> Step:
    """C4's rules."""
    from datatrove.pipeline.filters import C4QualityFilter

    load_splitter()
    ours = C4Rules()
    rules = C4QualityFilter(min_num_sentences=ours.min_sentences, min_words_per_line=ours.min_words)
    return partial(run_stages, lambda folder: [rules.run])


def datatrove_repetition(sentences: bool) -> Step:
    """Its sentence deduplication, of lines or of three sentences."""
    from datatrove.pipeline.dedup import sentence_dedup as dedup

    load_splitter()
    config = dedup.SentDedupConfig(
        n_sentences=3 if sentences else 1,
        split_sentences=sentences,
        min_doc_words=0,
        min_num_sentences=0,
        hash_config=choose_hash(),
    )

    def stages(folder: str) -> list[Any]:
        signatures, found = f"{folder}/signatures", f"{folder}/found"
        return [
            dedup.SentenceDedupSignature(signatures, config=config).run,
            lambda _: dedup.SentenceFindDedups(signatures, found, config=config).run(),
            lambda texts: dedup.SentenceDedupFilter(found, config=config).run(texts),
        ]

    return partial(run_stages, stages)


def datatrove_duplicates() -> Step:
    """MinHash: signatures, buckets, clusters, filter."""
    from datatrove.pipeline.dedup import minhash

    load_splitter()
    config = minhash.MinhashConfig(hash_config=choose_hash())
    count = config.num_buckets

    def stages(folder: str) -> list[Any]:
        signatures, buckets, clusters = (f"{folder}/{name}" for name in ("a", "b", "c"))

        def fill_buckets(_: Any) -> None:
            for bucket in range(count):
                stage = minhash.MinhashDedupBuckets(signatures, buckets, config=config)
                stage.run(None, bucket, count)

        return [
            minhash.MinhashDedupSignature(signatures, config).run,
            fill_buckets,
            lambda _: minhash.MinhashDedupCluster(buckets, clusters, config).run(None, 0, 1),
            lambda texts: minhash.MinhashDedupFilter(clusters).run(texts),
        ]

    return partial(run_stages, stages)


def build_reference(make: Callable[[], Step] | None) -> tuple[Step | None, str]:
    """datatrove's step; or why there is none."""
    if make is None:
        return None, "datatrove's asks for kenlm and its models"
    try:
        from loguru import logger

        logger.remove()
        return make(), ""
    except ImportError as error:
        return None, f"not compared: {str(error).split(' (')[0]}"


def measure_step(
    name: str, texts: Sequence[str], ours: Step, make: Callable[[], Step] | None, rounds: int
) -> DataRow:
    """Let both do the step in each round, after a warm-up on a few texts."""
    reference, absent = build_reference(make)
    steps = {"ours": ours} | ({"reference": reference} if reference else {})
    size = sum(len(text.encode()) for text in texts)
    with contextlib.redirect_stderr(io.StringIO()):  # datatrove's bars
        race({key: partial(step, texts[:2]) for key, step in steps.items()}, 1, 0)
        turns = {key: partial(step, texts) for key, step in steps.items()}
        results = race(turns, rounds, warm_up=0, clock=processor_seconds)
    kept = {}
    for key, result in results.items():
        left = sum(len(text.encode()) for text in result.outputs[-1])
        kept[key] = left / max(1, size)
    seconds = results["reference"].median if reference else None
    return DataRow(
        name,
        size / 1e6,
        results["ours"].median,
        kept["ours"],
        seconds,
        kept.get("reference"),
        absent,
    )


def add_up(rows: Sequence[DataRow]) -> list[DataRow]:
    """All the steps that both have done, one after the other, as a row; none if there is none."""
    both = [row for row in rows if row.name in ADDED and row.reference is not None]
    ours = sum(row.ours for row in both)
    reference = sum(row.reference for row in both)
    # What comes in is counted once.
    return [DataRow("together", row.megabytes, ours, None, reference) for row in both[:1]]


def bench_data(
    megabytes: float = 4.0,
    rounds: int = 3,
    steps: tuple[str, ...] = (),
    downloads: Path = DOWNLOADS,
    sources: Path = SOURCES,
) -> list[DataRow]:
    """Compare the speed of the corpus's steps with datatrove's, and print the table.

    Args:
        megabytes: of HTML pages and of plain prose, each.
        rounds: counted rounds.
        steps: only these; all by default.
        downloads: where the packages were fetched to.
        sources: the list of packages.
    """
    if megabytes <= 0 or rounds < 1:
        raise ConfigError(f"{megabytes} megabytes, {rounds} rounds", "choose more than 0 of each")
    for name in steps:
        if name not in STEPS:
            raise ConfigError(f"there is no step '{name}'", nearest(name, STEPS))
    model = LanguageModel.find(downloads, sources)
    pages = read_texts(PAGES, megabytes, downloads, sources)
    prose = read_texts(PROSE, megabytes, downloads, sources)
    extract = each(html_to_text)
    table = {
        "extraction": (extract, datatrove_extraction),
        "language": (keep_english(model), partial(datatrove_language, model)),
        "quality": (apply_c4_rules, datatrove_quality),
        "repeated lines": (
            partial(drop_repetition, drop_repeated_lines), partial(datatrove_repetition, False)
        ),
        "repeated spans": (
            partial(drop_repetition, drop_repeated_spans), partial(datatrove_repetition, True)
        ),
        "near duplicates": (drop_duplicates, datatrove_duplicates),
    }  # fmt: skip
    if not steps or "perplexity" in steps:
        table["perplexity"] = (score_perplexity(prose), None)
    texts = extract(pages) + prose
    rows = []
    for name, (ours, make) in table.items():
        if name in (steps or STEPS):
            measured = pages if name == "extraction" else texts
            rows.append(measure_step(name, measured, ours, make, rounds))
    print(table_of(rows + add_up(rows), COLUMNS))
    return rows
