"""The corpus's steps against those of datatrove (Penedo et al., 2024): megabytes a second and core.

Both get the same pages and texts of the pinned packages, in one process and in turn, so that a
machine whose speed drifts slows both; what is counted is the time of the processor, child processes
included. datatrove's steps have the settings that come nearest to ours:

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
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from minillama.corpus.archive import read_members
from minillama.corpus.c4 import C4Rules, clean_page, drop_repeated_spans
from minillama.corpus.commoncrawl import drop_repeated_lines, html_to_text
from minillama.corpus.deduplicate import HashSet, drop_near_duplicates
from minillama.corpus.document import Document
from minillama.corpus.language import LanguageModel
from minillama.corpus.quality import WikipediaModel
from minillama.corpus.sources import DOWNLOADS, SOURCES, load_sources
from minillama.errors import ConfigError, nearest
from minillama.tokenizer import train_tokenizer

PAGES, PROSE = ("sqlalchemy", ["*.html"]), ("django", ["*/docs/*.txt"])
"""Where web pages and other prose come from."""
BAR = ("extraction", "language", "quality", "repeated lines", "repeated spans", "near duplicates")
"""The steps that are added up."""
STEPS = (*BAR, "perplexity")
Run = Callable[[Sequence[str]], list[str]]
"""One way to do a step: from texts to what is left of them."""


@dataclass(frozen=True)
class Contest:
    """One step, done by minillama and by datatrove."""

    name: str
    texts: Sequence[str]
    ours: Run
    theirs: Run | None = None
    absent: str = ""
    """Why there is no other contender."""


@dataclass
class Row:
    """What was measured of one step."""

    name: str
    megabytes: float
    ours: float
    """Seconds of the processor; the median over the rounds."""
    kept: float
    """Share of the bytes that is left."""
    theirs: float | None = None
    kept_theirs: float | None = None
    absent: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times as fast as datatrove we are."""
        return self.theirs / self.ours if self.theirs else None


@dataclass
class Inputs:
    """Pages and texts of the packages, of about so many megabytes each."""

    megabytes: float
    downloads: Path = DOWNLOADS
    sources: Path = SOURCES
    pages: list[str] = field(init=False)
    prose: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.pages, self.prose = self._read(*PAGES), self._read(*PROSE)

    def _read(self, package: str, members: list[str]) -> list[str]:
        source = next(s for s in load_sources(self.sources) if s.name == package)
        found, left = [], self.megabytes * 1e6
        for _, content in read_members(source.find(self.downloads), members):
            if left <= 0:
                break
            found.append(bytes_to_str(content, detect_encoding(content)))
            left -= len(content)
        return found


def each(function: Callable[[str], str | None]) -> Run:
    """A step that looks at one text alone; None drops it."""
    return lambda texts: [left for left in map(function, texts) if left]


def processor_seconds() -> float:
    """Of this process and of all its children that have ended."""
    multiprocessing.active_children()  # collects those that have
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def english(model: LanguageModel) -> Run:
    """Texts that are in English with certainty."""
    return each(lambda text: text if model.is_in(text, ("en",)) else None)


def c4_rules(texts: Sequence[str]) -> list[str]:
    """C4's rules."""
    rules, dropped = C4Rules(), Counter()
    cleaned = (clean_page(text, rules, dropped) for text in texts)
    return [text for text, reason in cleaned if reason is None]


def without_repetition(drop: Callable[[str, HashSet], tuple[str, int]]) -> Run:
    """Lines, or spans of sentences, only where they are met first."""

    def run(texts: Sequence[str]) -> list[str]:
        seen = HashSet()
        return [left for left, _ in (drop(text, seen) for text in texts) if left]

    return run


def near_duplicates(texts: Sequence[str]) -> list[str]:
    """Texts of which no earlier one is nearly the same."""
    documents = [Document(text, "", "", str(i)) for i, text in enumerate(texts)]
    return [document.text for document in drop_near_duplicates(documents)[0]]


def surprise(texts: Sequence[str]) -> Run:
    """Perplexity under a 5-gram model of 1,024 pieces, trained on these texts."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(texts, Path(folder, "tokenizer.model"), 1024)
    model = WikipediaModel(texts, tokenizer)
    return each(lambda text: text if model.perplexity(text) < np.inf else None)


class SamePredictor:
    """Our fastText in the place of the one that datatrove would load: its answers as an array."""

    def __init__(self, model: LanguageModel) -> None:
        self._predict = model._model.predict

    def predict(self, text: str, k: int) -> tuple[Sequence[str], np.ndarray]:
        """Labels and their probabilities."""
        labels, probabilities = self._predict(text, k=k)
        return labels, np.array(probabilities)


class Trove:
    """datatrove's steps, as functions of texts. What one of them lacks is an ImportError."""

    def __init__(self) -> None:
        from datatrove import data
        from loguru import logger

        logger.remove()
        self._document = data.Document

    def documents(self, texts: Sequence[str]) -> Iterator[Any]:
        """Its own kind of documents."""
        return (self._document(text=text, id=str(i)) for i, text in enumerate(texts))

    def pipeline(self, *steps: Any) -> Run:
        """Steps one after the other."""

        def run(texts: Sequence[str]) -> list[str]:
            data = self.documents(texts)
            for step in steps:
                data = step.run(data)
            return [document.text for document in data]

        return run

    def extraction(self) -> Run:
        """Trafilatura, in a process of its own as datatrove runs it; a page may take a minute."""
        import trafilatura  # noqa: F401
        from datatrove.pipeline.extractors import Trafilatura

        return self.pipeline(Trafilatura(timeout=60))

    def language(self, model: LanguageModel) -> Run:
        """Its LanguageFilter's model and rule; the filter itself asks for another fastText."""
        from datatrove.utils.lid import FT176LID

        lid = FT176LID(["en"])
        lid._model = SamePredictor(model)

        def run(texts: Sequence[str]) -> list[str]:
            found = ((document, lid.predict(document)[1]) for document in self.documents(texts))
            return [document.text for document, scores in found if scores["en"] >= 0.5]

        return run

    def quality(self) -> Run:
        """C4's rules."""
        from datatrove.pipeline.filters import C4QualityFilter
        from datatrove.utils.word_tokenizers import load_word_tokenizer

        load_word_tokenizer("eng").sent_tokenize("It is loaded beforehand.")
        rules = C4Rules()
        return self.pipeline(C4QualityFilter(
            min_num_sentences=rules.min_sentences, min_words_per_line=rules.min_words
        ))  # fmt: skip

    def hashes(self) -> Any:
        """Its faster hash, xxhash, which it can call up to version 3; else SHA-1."""
        from datatrove.utils.hashing import HashConfig, create_hash_func

        try:
            create_hash_func(HashConfig())("text")
        except (ImportError, TypeError):
            return HashConfig(hash_fc="sha1")
        return HashConfig()

    def repeated(self, sentences: bool) -> Run:
        """Its sentence deduplication, of lines or of three sentences."""
        from datatrove.pipeline.dedup import sentence_dedup as dedup

        config = dedup.SentDedupConfig(
            n_sentences=3 if sentences else 1, split_sentences=sentences,
            min_doc_words=0, min_num_sentences=0, hash_config=self.hashes(),
        )  # fmt: skip
        dedup.load_word_tokenizer("eng").sent_tokenize("It is loaded beforehand.")

        def run(texts: Sequence[str]) -> list[str]:
            with tempfile.TemporaryDirectory() as folder:
                signatures, found = f"{folder}/signatures", f"{folder}/found"
                dedup.SentenceDedupSignature(signatures, config=config).run(self.documents(texts))
                dedup.SentenceFindDedups(signatures, found, config=config).run()
                last = dedup.SentenceDedupFilter(found, config=config)
                return [left.text for left in last.run(self.documents(texts)) if left.text]

        return run

    def near_duplicates(self) -> Run:
        """MinHash: signatures, buckets, clusters, filter."""
        from datatrove.pipeline.dedup import minhash
        from datatrove.utils.word_tokenizers import load_word_tokenizer

        load_word_tokenizer("eng").word_tokenize("It is loaded beforehand.")
        config = minhash.MinhashConfig(hash_config=self.hashes())

        def run(texts: Sequence[str]) -> list[str]:
            with tempfile.TemporaryDirectory() as folder:
                names = [f"{folder}/{name}" for name in ("signatures", "buckets", "clusters")]
                minhash.MinhashDedupSignature(names[0], config).run(self.documents(texts))
                for bucket in range(config.num_buckets):
                    minhash.MinhashDedupBuckets(names[0], names[1], config=config).run(
                        None, bucket, config.num_buckets
                    )
                minhash.MinhashDedupCluster(names[1], names[2], config).run(None, 0, 1)
                last = minhash.MinhashDedupFilter(names[2])
                return [document.text for document in last.run(self.documents(texts))]

        return run


def contests(inputs: Inputs, steps: Sequence[str] = STEPS) -> list[Contest]:
    """The steps of these names, with datatrove's where they can run."""
    model = LanguageModel.find(inputs.downloads, inputs.sources)
    texts = each(html_to_text)(inputs.pages) + inputs.prose
    table: dict[str, tuple[Run, Callable[[Trove], Run] | str]] = {
        "extraction": (each(html_to_text), Trove.extraction),
        "language": (english(model), lambda trove: trove.language(model)),
        "quality": (c4_rules, Trove.quality),
        "repeated lines": (
            without_repetition(drop_repeated_lines), lambda trove: trove.repeated(sentences=False)
        ),
        "repeated spans": (
            without_repetition(drop_repeated_spans), lambda trove: trove.repeated(sentences=True)
        ),
        "near duplicates": (near_duplicates, Trove.near_duplicates),
    }  # fmt: skip
    if "perplexity" in steps:
        table["perplexity"] = (surprise(inputs.prose), "datatrove's asks for kenlm and its models")
    return [
        _contest(name, inputs.pages if name == "extraction" else texts, *table[name])
        for name in table
        if name in steps
    ]


def _contest(
    name: str, texts: Sequence[str], ours: Run, make: Callable[[Trove], Run] | str
) -> Contest:
    if isinstance(make, str):
        return Contest(name, texts, ours, absent=make)
    try:
        return Contest(name, texts, ours, make(Trove()))
    except ImportError as error:
        return Contest(name, texts, ours, absent=f"not compared: {str(error).split(' (')[0]}")


def compare(contest: Contest, rounds: int) -> Row:
    """Let both do the step in each round, after a warm-up on a few texts."""
    seconds: dict[Run, list[float]] = {contest.ours: []}
    left: dict[Run, list[str]] = {}
    if contest.theirs:
        seconds[contest.theirs] = []
    size = sum(len(text.encode()) for text in contest.texts)
    for number in range(rounds + 1):
        for run, times in seconds.items():
            with contextlib.redirect_stderr(io.StringIO()):  # its bars
                began = processor_seconds()
                left[run] = run(contest.texts if number else contest.texts[:2])
                times += [processor_seconds() - began] if number else []

    def kept(run: Run) -> float:
        return sum(len(text.encode()) for text in left[run]) / max(1, size)

    row = Row(contest.name, size / 1e6, statistics.median(seconds[contest.ours]),
              kept(contest.ours), absent=contest.absent)  # fmt: skip
    if contest.theirs:
        row.theirs = statistics.median(seconds[contest.theirs])
        row.kept_theirs = kept(contest.theirs)
    return row


def total(rows: Sequence[Row]) -> Row | None:
    """All the steps that both have done, one after the other; None if there is none."""
    both = [row for row in rows if row.name in BAR and row.theirs is not None]
    if not both:
        return None
    size = both[0].megabytes  # what comes in is counted once
    return Row("together", size, sum(row.ours for row in both), 0.0,
               sum(row.theirs for row in both))  # fmt: skip


def render(rows: Sequence[Row]) -> str:
    """The table."""
    lines = [f"{'MB/s of one core':<18}{'MB':>7}{'minillama':>11}{'datatrove':>11}{'ratio':>8}"
             f"{'kept':>7}{'theirs':>8}"]  # fmt: skip
    for row in [*rows, *filter(None, [total(rows)])]:
        line = f"{row.name:<18}{row.megabytes:>7.2f}{row.megabytes / row.ours:>11.2f}"
        if row.theirs:
            line += f"{row.megabytes / row.theirs:>11.2f}{row.ratio:>7.2f}x"
        else:
            line += f"{'-':>11}{'-':>8}"
        line += f"{row.kept:>7.0%}" if row.kept else ""
        line += f"{row.kept_theirs:>8.0%}" if row.kept_theirs is not None else ""
        lines.append(f"{line}  {row.absent}".rstrip())
    return "\n".join(lines)


def bench_data(
    megabytes: float = 4.0,
    rounds: int = 3,
    steps: tuple[str, ...] = (),
    downloads: Path = DOWNLOADS,
    sources: Path = SOURCES,
) -> list[Row]:
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
    made = contests(Inputs(megabytes, downloads, sources), steps or STEPS)
    rows = [compare(contest, rounds) for contest in made]
    print(render(rows))
    return rows
