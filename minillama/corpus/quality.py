"""How good a web page is: CCNet's language model, and the paper's classifier of references.

Section 2.1 on CommonCrawl: CCNet "filters low quality content with an n-gram language model. In
addition, we trained a linear model to classify pages used as references in Wikipedia v.s. randomly
sampled pages, and discarded pages not classified as references."

A page that a language model of Wikipedia finds surprising is little like it (Wenzek et al., 2019,
Section 3.3). Pages are cut at the terciles of their perplexity into head, middle and tail. The
paper does not say which it kept; we keep head and middle, as later open corpora do.
"""

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from minillama.corpus.deduplicate import hash64
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
MAX_PIECES = 2_000
"""Of a page that are scored: more say no more."""
MODEL_BYTES = 4 * 2**20
"""Of Wikipedia that the language model reads."""
MAX_PAGES, MAX_CHARACTERS = 1_000, 10_000
"""Pages of each kind, and their beginnings, that the classifier reads."""
VOCAB_SIZE = 1_024


class WikipediaModel:
    """An n-gram model of articles, over at most 4,096 pieces of a tokenizer for 5-grams."""

    def __init__(self, texts: Iterable[str], tokenizer: Tokenizer, order: int = ORDER) -> None:
        self.tokenizer = tokenizer
        ids: list[int] = []
        for text in texts:
            ids += tokenizer.encode(text, bos=True, eos=True)
        if not ids:
            message = "there is no text to train the quality model on"
            raise DataError(message, "build Wikipedia too")
        self.model = NGram(np.array(ids), tokenizer.vocab_size, order)

    def perplexity(self, text: str) -> float:
        """exp of the mean surprise of a piece, in nats; an empty text is infinitely bad."""
        pieces = self.tokenizer.encode(text, bos=True, eos=False)
        ids = np.array(pieces[: MAX_PIECES + 1])
        if len(ids) < 2:
            return float("inf")
        surprise = -np.log(self.model.probabilities(ids))
        return float(np.exp(surprise.mean()))


def wikipedia_model(context: StepContext, vocab_size: int = VOCAB_SIZE) -> WikipediaModel:
    """A language model of the first English articles of the clean Wikipedia slice."""
    texts = list(_english_texts(context))
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(texts, Path(folder, "tokenizer.model"), vocab_size)
    return WikipediaModel(texts, tokenizer)


def _english_texts(context: StepContext) -> Iterator[str]:
    """Articles, until there are ``MODEL_BYTES`` of them."""
    check = Languages(("en",)).start(context, StepStats(""), iter)
    size = 0
    for document in load_documents(context.wikipedia):
        if check and isinstance(check(document), Dropped):
            continue
        if size >= MODEL_BYTES:
            return
        size += document.size
        yield document.text


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
    recall: float
    pages: int


class ReferenceClassifier:
    """A linear model on hashed words and pairs of words, as fastText's classifier is.

    ``seed`` chooses the pages, a share of ``held``, that are held out for the report.
    """

    def __init__(
        self, references: Sequence[str], random: Sequence[str], seed: int = 0, held: float = 0.2
    ) -> None:
        texts = [*references, *random]
        labels = np.repeat([1, 0], [len(references), len(random)])
        is_held = np.random.default_rng(seed).random(len(texts)) < held
        if len({*labels[~is_held]}) < 2 or len({*labels[is_held]}) < 2:
            raise DataError("too few pages to train a classifier on", "give ten or more of each")

        # Train on the pages that are not held out
        self._words = HashingVectorizer(
            n_features=2**18, ngram_range=(1, 2), alternate_sign=False, norm="l2"
        )
        features = self._features(texts)
        self._linear = LogisticRegression(C=10.0, class_weight="balanced", max_iter=200)
        self._linear.fit(features[~is_held], labels[~is_held])

        # Judge it on the others
        found, true = self._linear.predict(features[is_held]), labels[is_held]
        both = int((found & true).sum())
        precision = both / max(1, int(found.sum()))
        self.report = Report(precision, both / int(true.sum()), int(is_held.sum()))

    def _features(self, texts: list[str]) -> csr_matrix:
        plain = [re.sub(r"\d+", "0", text) for text in texts]  # a number says nothing of the kind
        return self._words.transform(plain)

    def probability(self, text: str) -> float:
        """How likely a page is a reference, from 0 to 1."""
        return float(self._linear.predict_proba(self._features([text]))[0, 1])


def _beginnings(documents: Iterable[Document]) -> list[str]:
    return [document.text[:MAX_CHARACTERS] for document in islice(documents, MAX_PAGES)]


@dataclass(frozen=True)
class _LikeWikipedia(Step):
    """A step that compares pages with the Wikipedia slice; where there is none it does nothing."""

    fitted: ClassVar[bool] = True

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn | None:
        """Return what ``fit`` makes, or None, with a note of why not."""
        if context.wikipedia is None:
            stats.note = "not run: there is no Wikipedia slice to compare with"
            return None
        try:
            return self.fit(context, stats, reread)
        except DataError as error:
            stats.note = f"not run: {error}"
            return None


@dataclass(frozen=True)
class PerplexityBuckets(_LikeWikipedia):
    """CCNet's filter: pages by how much they surprise a 5-gram model of Wikipedia.

    The paper filters five dumps, each by itself; here every package stands for one. So a third of
    each goes, and not whole kinds of text that Wikipedia is least like, such as conversations.
    """

    name: ClassVar[str] = "perplexity buckets"
    kept: tuple[str, ...] = KEPT
    vocab_size: int = VOCAB_SIZE

    def fit(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn:
        """Return a function that drops pages in the wrong buckets."""
        model = wikipedia_model(context, self.vocab_size)
        dumps: dict[str, dict[int, float]] = defaultdict(dict)
        for page in reread():
            dumps[page.source][hash64(page.text)] = model.perplexity(page.text)
        cuts = {source: terciles(list(of.values())) for source, of in dumps.items()}
        for source, cut in cuts.items():
            stats.facts[f"{source.split('==')[0]} kept to"] = cut.middle

        def drop_tail(document: Document) -> Document | Dropped:
            perplexity = dumps[document.source][hash64(document.text)]
            bucket = cuts[document.source].bucket(perplexity)
            return document if bucket in self.kept else Dropped(f"{bucket} of perplexity")

        return drop_tail


@dataclass(frozen=True)
class References(_LikeWikipedia):
    """The paper's linear classifier of pages that Wikipedia refers to against random pages.

    Which pages Wikipedia refers to is not in a dump's text, so its own articles stand for them.
    """

    name: ClassVar[str] = "reference classifier"
    drop: bool = False
    """Drop the pages that are no references; otherwise they are only counted."""
    threshold: float = 0.5

    def fit(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn:
        """Return a function that counts the pages that are no references, or drops them."""
        references = _beginnings(load_documents(context.wikipedia))
        pages = _beginnings(reread())
        classifier = ReferenceClassifier(references, pages)
        stats.facts["precision"] = classifier.report.precision
        stats.facts["recall"] = classifier.report.recall
        stats.facts["no reference"] = 0
        stats.note = "" if self.drop else "counts only"

        def judge(document: Document) -> Document | Dropped:
            if classifier.probability(document.text[:MAX_CHARACTERS]) >= self.threshold:
                return document
            stats.facts["no reference"] += 1
            return Dropped("no reference") if self.drop else document

        return judge
