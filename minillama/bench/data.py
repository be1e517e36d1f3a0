"""The corpus's steps against those of datatrove (Penedo et al., 2024): megabytes a second and core.

Both get the same pages and texts of the pinned packages, in one process and in turn; what is
counted is the time of the processor, child processes included. Its steps have the settings that
come nearest to ours:

- extraction: Trafilatura, as FineWeb used it, against resiliparse;
- language: the same file, fastText's quantized lid.176, through the same predictor; datatrove
  ranks all 176 languages of the whole text, ours the best of the first 10,000 characters;
- quality: C4's rules with the same numbers of words and sentences;
- near duplicates: its MinHash in four stages, 14 bands of 8, against ours with 16 of 8 and an
  exact comparison of what they find.

Besides datatrove its steps ask for spacy, trafilatura (below 1.12) and lxml_html_clean; the table
says which step is left out.
"""

import contextlib
import io
import multiprocessing
import resource
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from minillama.bench.race import Columns, race, table_of
from minillama.corpus.archive import read_members
from minillama.corpus.c4 import C4Rules, clean_page
from minillama.corpus.commoncrawl import html_to_text
from minillama.corpus.deduplicate import drop_near_duplicates
from minillama.corpus.document import Document
from minillama.corpus.language import LanguageModel
from minillama.corpus.sources import DOWNLOADS, SOURCES, load_sources
from minillama.errors import ConfigError

Step = Callable[[Sequence[str]], list[str]]
"""One way to do a step: from texts to what is left of them."""
PAGES, PROSE = ("sqlalchemy", ["*.html"]), ("django", ["*/docs/*.txt"])
"""Where web pages and other prose come from."""


@dataclass(frozen=True)
class DataRow:
    """What was measured of one step; None where datatrove's could not run."""

    name: str
    megabytes: float
    ours: float  # seconds of the processor; the median over the rounds
    kept: str = ""  # share of the bytes that is left
    reference: float | None = None  # seconds of datatrove's step
    kept_reference: str = ""
    absent: str = ""  # why datatrove's is


COLUMNS: Columns = {
    "MB/s of one core": lambda row: row.name,
    "MB": lambda row: f"{row.megabytes:.2f}",
    "minillama": lambda row: f"{row.megabytes / row.ours:.2f}",
    "datatrove": lambda row: f"{row.megabytes / row.reference:.2f}" if row.reference else "-",
    "ratio": lambda row: f"{row.reference / row.ours:.2f}x" if row.reference else "-",
    "kept": lambda row: row.kept,
    "by datatrove": lambda row: row.kept_reference,
    "": lambda row: row.absent,
}


def read_texts(package: str, members: list[str], megabytes: float, **places: Path) -> list[str]:
    """About so many megabytes of a package's files."""
    [source] = [each for each in load_sources(places["sources"]) if each.name == package]
    texts: list[str] = []
    missing = megabytes * 1e6
    for _, content in read_members(source.find(places["downloads"]), members):
        if missing <= 0:
            break
        texts.append(bytes_to_str(content, detect_encoding(content)))
        missing -= len(content)
    return texts


def count_bytes(texts: Iterable[str]) -> int:
    """As UTF-8."""
    return sum(len(text.encode()) for text in texts)


def processor_seconds() -> float:
    """Of this process and of all its children that have ended."""
    multiprocessing.active_children()  # collects those that have
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


# Our steps.


def extract_text(texts: Sequence[str]) -> list[str]:
    """The text of HTML pages."""
    return [text for text in map(html_to_text, texts) if text]


def keep_english(model: LanguageModel, texts: Sequence[str]) -> list[str]:
    """Texts that are in English with certainty."""
    return [text for text in texts if model.is_in(text, ("en",))]


def apply_c4_rules(texts: Sequence[str]) -> list[str]:
    """C4's rules."""
    cleaned = [clean_page(text, C4Rules(), Counter()) for text in texts]
    return [text for text, reason in cleaned if reason is None]


def drop_duplicates(texts: Sequence[str]) -> list[str]:
    """Texts of which no earlier one is nearly the same."""
    documents = [Document(text, "", "", str(i)) for i, text in enumerate(texts)]
    return [document.text for document in drop_near_duplicates(documents)[0]]


# datatrove's; each raises ``ImportError`` if a package that it asks for is missing.


def to_documents(texts: Sequence[str]) -> Iterator[Any]:
    """Texts as datatrove's documents."""
    from datatrove.data import Document

    for i, text in enumerate(texts):
        yield Document(text=text, id=str(i))


def datatrove_extraction(texts: Sequence[str]) -> list[str]:
    """Trafilatura, in a process of its own; a page may take a minute."""
    import trafilatura  # noqa: F401
    from datatrove.pipeline.extractors import Trafilatura

    documents = Trafilatura(timeout=60).run(to_documents(texts))
    return [document.text for document in documents if document.text]


def datatrove_language(model: LanguageModel, texts: Sequence[str]) -> list[str]:
    """Its LanguageFilter's model and rule; the filter itself asks for another fastText."""
    from datatrove.utils.lid import FT176LID

    def predict(text: str, k: int) -> tuple[Sequence[str], np.ndarray]:
        labels, probabilities = model._model.predict(text, k=k)
        return labels, np.array(probabilities)

    lid = FT176LID(["en"])
    lid._model = SimpleNamespace(predict=predict)  # ours, its answers as datatrove wants them
    kept = []
    for document in to_documents(texts):
        _, probabilities = lid.predict(document)
        if probabilities["en"] >= 0.5:
            kept.append(document.text)
    return kept


def datatrove_quality(texts: Sequence[str]) -> list[str]:
    """C4's rules."""
    from datatrove.pipeline.filters import C4QualityFilter

    ours = C4Rules()
    rules = C4QualityFilter(
        min_num_sentences=ours.min_sentences,
        min_words_per_line=ours.min_words,
    )
    return [document.text for document in rules.run(to_documents(texts))]


def datatrove_duplicates(texts: Sequence[str]) -> list[str]:
    """MinHash: signatures, buckets, clusters, filter."""
    from datatrove.pipeline.dedup import minhash
    from datatrove.utils.hashing import HashConfig

    config = minhash.MinhashConfig(hash_config=HashConfig(hash_fc="sha1"))
    with tempfile.TemporaryDirectory() as folder:
        signatures, buckets, clusters = (f"{folder}/{name}" for name in "abc")
        minhash.MinhashDedupSignature(signatures, config).run(to_documents(texts))
        for bucket in range(config.num_buckets):
            stage = minhash.MinhashDedupBuckets(signatures, buckets, config=config)
            stage.run(None, bucket, config.num_buckets)
        minhash.MinhashDedupCluster(buckets, clusters, config).run(None, 0, 1)
        left = minhash.MinhashDedupFilter(clusters).run(to_documents(texts))
        return [document.text for document in left]


def measure_step(
    name: str, texts: Sequence[str], ours: Step, reference: Step, rounds: int
) -> DataRow:
    """Let both do the step in each round, after a warm-up on a few texts."""
    turns = {"ours": partial(ours, texts)}
    absent = ""
    with contextlib.redirect_stderr(io.StringIO()):  # datatrove's bars and log
        ours(texts[:2])
        try:
            reference(texts[:2])
            turns["reference"] = partial(reference, texts)
        except ImportError as error:
            absent = f"not compared: {str(error).split(' (')[0]}"
        results = race(turns, rounds, warm_up=0, clock=processor_seconds)
    # Each one's time, and its share of the bytes.
    size = max(1, count_bytes(texts))
    cells = []
    for result in results.values():
        left = count_bytes(result.outputs[-1])
        cells += [result.median, f"{left / size:.0%}"]
    if absent:
        cells += [None, ""]
    return DataRow(name, size / 1e6, *cells, absent)


def add_up(rows: Sequence[DataRow]) -> list[DataRow]:
    """All the steps that both have done, one after the other, as a row; none if there is none."""
    both = [row for row in rows if row.reference is not None]
    if not both:
        return []
    return [
        DataRow(
            "together",
            both[0].megabytes,  # what comes in is counted once
            sum(row.ours for row in both),
            reference=sum(row.reference for row in both),
        )
    ]


def bench_data(
    megabytes: float = 4.0,
    rounds: int = 3,
    downloads: Path = DOWNLOADS,
    sources: Path = SOURCES,
) -> list[DataRow]:
    """Compare the speed of the corpus's steps with datatrove's, and print the table.

    Args:
        megabytes: of HTML pages and of plain prose, each.
        rounds: counted rounds.
        downloads: where the packages were fetched to.
        sources: the list of packages.
    """
    if megabytes <= 0 or rounds < 1:
        raise ConfigError(f"{megabytes} megabytes, {rounds} rounds", "choose more than 0 of each")
    # What both get.
    places = {"downloads": downloads, "sources": sources}
    model = LanguageModel.find(**places)
    pages = read_texts(*PAGES, megabytes, **places)
    texts = extract_text(pages) + read_texts(*PROSE, megabytes, **places)
    # The step's input, ours, and datatrove's.
    language = (partial(keep_english, model), partial(datatrove_language, model))
    steps = {
        "extraction": (pages, extract_text, datatrove_extraction),
        "language": (texts, *language),
        "quality": (texts, apply_c4_rules, datatrove_quality),
        "near duplicates": (texts, drop_duplicates, datatrove_duplicates),
    }
    rows = [measure_step(name, *step, rounds) for name, step in steps.items()]
    print(table_of(rows + add_up(rows), COLUMNS))
    return rows
