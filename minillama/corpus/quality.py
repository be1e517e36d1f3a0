"""How good a web page is: CCNet's language model, and the paper's classifier of references.

Section 2.1 on CommonCrawl: CCNet "filters low quality content with an n-gram language model. In
addition, we trained a linear model to classify pages used as references in Wikipedia v.s. randomly
sampled pages, and discarded pages not classified as references."

The language model is trained on Wikipedia; a page that it finds surprising is little like Wikipedia
(Wenzek et al., 2019, Section 3.3). Pages are cut at the terciles of their perplexity into head,
middle and tail. The paper does not say which it kept; we keep head and middle, as later open
corpora do.
"""

import itertools
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from minillama.corpus.document import Document, Dropped
from minillama.corpus.language import Languages
from minillama.corpus.ngram import NGram
from minillama.corpus.pipeline import ProcessFn, Reread, Step, StepContext, load_documents
from minillama.corpus.statistics import StepStats
from minillama.errors import DataError
from minillama.tokenizer import Tokenizer, train_tokenizer

ORDER = 5
BUCKETS = ("head", "middle", "tail")
KEPT = ("head", "middle")
MAX_PIECES = 20_000
"""Of a page that are scored: more say no more."""


class WikipediaModel:
    """An n-gram model of Wikipedia, over the pieces of a tokenizer.

    Args:
        texts: the articles.
        tokenizer: best one that was trained on them, of at most 4,096 pieces for 5-grams.
        order: n.
    """

    def __init__(self, texts: Iterable[str], tokenizer: Tokenizer, order: int = ORDER) -> None:
        self.tokenizer = tokenizer
        ids = [np.array(tokenizer.encode(text, bos=True, eos=True)) for text in texts]
        if not ids:
            raise DataError("there is no text to train the quality model on", "build Wikipedia too")
        self.model = NGram(np.concatenate(ids), tokenizer.vocab_size, order)

    def perplexity(self, text: str) -> float:
        """exp of the mean surprise of a piece, in nats; an empty text is infinitely bad."""
        ids = np.array(self.tokenizer.encode(text, bos=True, eos=False)[: MAX_PIECES + 1])
        if len(ids) < 2:
            return float("inf")
        return float(np.exp(-np.log(self.model.probabilities(ids)).mean()))


@dataclass(frozen=True)
class Cut:
    """The perplexities at which head ends and tail begins."""

    head: float
    middle: float

    def bucket(self, perplexity: float) -> str:
        """``head``, ``middle`` or ``tail``."""
        return BUCKETS[(perplexity > self.head) + (perplexity > self.middle)]


def terciles(perplexities: Sequence[float]) -> Cut:
    """The cut that puts a third of these pages into each bucket."""
    finite = [value for value in perplexities if np.isfinite(value)]
    if not finite:
        raise DataError("no page has a perplexity", "give it pages with text")
    head, middle = np.quantile(finite, (1 / 3, 2 / 3))
    return Cut(float(head), float(middle))


@dataclass(frozen=True)
class Report:
    """How a classifier does on pages that it was not trained on."""

    precision: float
    """Of the pages called references, the share that is."""
    recall: float
    """Of the references, the share that is called so."""
    pages: int


class ReferenceClassifier:
    """A linear model on hashed words and pairs of words, as fastText's classifier is.

    Args:
        references: pages of the kind that Wikipedia refers to, or is.
        random: pages as they come.
        seed: which pages are held out for the report.
    """

    def __init__(
        self, references: Sequence[str], random: Sequence[str], seed: int = 0, held: float = 0.2
    ) -> None:
        texts = [*references, *random]
        labels = np.array([1] * len(references) + [0] * len(random))
        aside = np.random.default_rng(seed).random(len(texts)) < held
        if len({*labels[~aside]}) < 2 or len({*labels[aside]}) < 2:
            raise DataError("too few pages to train a classifier on", "give ten or more of each")
        self._words = HashingVectorizer(
            n_features=2**18, ngram_range=(1, 2), alternate_sign=False, norm="l2"
        )
        features = self._words.transform(map(_plain, texts))
        self._linear = LogisticRegression(C=10.0, class_weight="balanced", max_iter=200)
        self._linear.fit(features[~aside], labels[~aside])
        found, true = self._linear.predict(features[aside]), labels[aside]
        both = int((found & true).sum())
        self.report = Report(
            both / max(1, int(found.sum())), both / int(true.sum()), int(aside.sum())
        )

    def probability(self, text: str) -> float:
        """How likely a page is a reference, from 0 to 1."""
        return float(self._linear.predict_proba(self._words.transform([_plain(text)]))[0, 1])


def _plain(text: str) -> str:
    """Digits say nothing of a page's kind."""
    return re.sub(r"\d+", "0", text)


MODEL_BYTES = 4 * 2**20
"""Of Wikipedia that the language model reads."""
MAX_PAGES, MAX_CHARACTERS = 1_000, 10_000
"""Pages of each kind, and their beginnings, that the classifier reads."""
VOCAB_SIZE = 1_024


def wikipedia_model(context: StepContext, vocab_size: int = VOCAB_SIZE) -> WikipediaModel:
    """A language model of the first English articles of the clean Wikipedia slice."""
    in_english = Languages(("en",)).start(context, StepStats(""), iter)
    articles = (
        document for document in load_documents(context.wikipedia)
        if not (in_english and isinstance(in_english(document), Dropped))
    )  # fmt: skip
    texts = [document.text for document in _first(articles, MODEL_BYTES)]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(texts, Path(folder, "tokenizer.model"), vocab_size)
    return WikipediaModel(texts, tokenizer)


def _first(documents: Iterable[Document], size: int) -> Iterator[Document]:
    for document in documents:
        if size <= 0:
            return
        size -= document.size
        yield document


@dataclass(frozen=True)
class PerplexityBuckets(Step):
    """CCNet's filter: pages by how much they surprise a 5-gram model of Wikipedia."""

    name: ClassVar[str] = "perplexity buckets"
    fitted: ClassVar[bool] = True
    kept: tuple[str, ...] = KEPT
    vocab_size: int = VOCAB_SIZE

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn | None:
        """See ``Step.start``."""
        if context.wikipedia is None:
            stats.note = "not run: there is no Wikipedia slice to compare with"
            return None
        try:
            model = wikipedia_model(context, self.vocab_size)
            perplexities = [model.perplexity(document.text) for document in reread()]
            cut = terciles(perplexities)
        except DataError as error:
            stats.note = f"not run: {error}"
            return None
        stats.facts |= {"head to": cut.head, "middle to": cut.middle}
        each = iter(perplexities)

        def work(document: Document) -> Document | Dropped:
            bucket = cut.bucket(next(each))
            return document if bucket in self.kept else Dropped(f"{bucket} of perplexity")

        return work


@dataclass(frozen=True)
class References(Step):
    """The paper's linear classifier of pages that Wikipedia refers to against random pages.

    Which pages Wikipedia refers to is not in a dump's text, so its own articles stand for them.
    """

    name: ClassVar[str] = "reference classifier"
    fitted: ClassVar[bool] = True
    drop: bool = False
    """Drop the pages that are no references; otherwise they are only counted."""
    threshold: float = 0.5

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn | None:
        """See ``Step.start``."""
        if context.wikipedia is None:
            stats.note = "not run: there is no Wikipedia slice to compare with"
            return None
        references = _beginnings(load_documents(context.wikipedia))
        try:
            classifier = ReferenceClassifier(references, _beginnings(reread()))
        except DataError as error:
            stats.note = f"not run: {error}"
            return None
        stats.facts |= {
            "precision": classifier.report.precision, "recall": classifier.report.recall,
            "no reference": 0,
        }  # fmt: skip
        stats.note = "" if self.drop else "counts only"

        def work(document: Document) -> Document | Dropped:
            if classifier.probability(document.text[:MAX_CHARACTERS]) >= self.threshold:
                return document
            stats.facts["no reference"] += 1
            return Dropped("no reference") if self.drop else document

        return work


def _beginnings(documents: Iterable[Document]) -> list[str]:
    return [d.text[:MAX_CHARACTERS] for d in itertools.islice(documents, MAX_PAGES)]
