"""Training text that holds a benchmark's questions: found by runs of 13 words, and removed.

The paper does not check; GPT-3 (Brown et al., 2020, Appendix C) set the custom of 13 words: a run
that a document shares with an example of a benchmark is no accident. Words are compared without
case and punctuation. A benchmark's text shorter than 13 words cannot be told from chance and is
not looked for; runs that stand in many documents are quotations that everybody knows, and runs of
numbers, letters or loops ("for i in range") are anybody's: neither counts.
"""

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from minillama.corpus.deduplicate import word_runs, words_of
from minillama.corpus.document import Document
from minillama.errors import DataError
from minillama.files import atomic_path

RUN = 13
COMMON = 10
"""A run in more documents than this is everybody's."""
TELLING = 7
"""A run must have so many different words of two letters or more."""


def runs(text: str, size: int = RUN) -> np.ndarray:
    """Hashes of all runs of ``size`` words, in order: ``(words - size + 1,)`` uint64."""
    return word_runs(text, size)


class Index:
    """The runs of all examples, and the benchmark that each is from."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.examples: dict[str, int] = {}
        self._runs = np.zeros(0, dtype=np.uint64)  # sorted
        self._owners = np.zeros(0, dtype=np.int16)

    def add(self, benchmark: str, texts: Iterable[str]) -> None:
        """Take in the examples of a benchmark."""
        found, count = [self._runs], 0
        for text in texts:
            count += 1
            found.append(runs(text))
        self.examples[benchmark] = self.examples.get(benchmark, 0) + count
        if benchmark not in self.names:
            self.names.append(benchmark)
        new = sum(map(len, found[1:]))
        owners = np.full(new, self.names.index(benchmark), dtype=np.int16)
        owners = np.concatenate((self._owners, owners))
        self._runs, first = np.unique(np.concatenate(found), return_index=True)
        self._owners = owners[first]

    def __len__(self) -> int:
        return len(self._runs)

    def hits(self, text: str) -> dict[int, str]:
        """The runs of a text that are a benchmark's too, and whose."""
        wanted = runs(text) if len(self) else self._runs
        if not len(wanted):
            return {}
        places = np.minimum(np.searchsorted(self._runs, wanted), len(self) - 1)
        found = np.flatnonzero(self._runs[places] == wanted)
        if not len(found):
            return {}
        words = words_of(text)
        return {
            int(wanted[i]): self.names[self._owners[places[i]]]
            for i in found if is_telling(words[i : i + RUN])
        }  # fmt: skip

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        with atomic_path(path) as aside, open(aside, "wb") as file:
            np.savez(file, runs=self._runs, owners=self._owners, names=np.array(self.names),
                     examples=np.array([self.examples[name] for name in self.names]))  # fmt: skip

    @classmethod
    def load(cls, path: Path) -> "Index":
        """Read what ``save`` wrote. Raises ``DataError`` for a damaged file."""
        index = cls()
        try:
            with np.load(path, allow_pickle=False) as told:
                index._runs, index._owners = told["runs"], told["owners"]
                index.names = told["names"].tolist()
                index.examples = dict(zip(index.names, told["examples"].tolist(), strict=True))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} cannot be read ({error})", "delete it") from None
        return index


def is_telling(words: list[str]) -> bool:
    """Whether a run of words says something: it does not only count, spell or loop."""
    return len({word for word in words if len(word) > 1 and word.isalpha()}) >= TELLING


def whose(found: Sequence[dict[int, str]], common: int = COMMON) -> list[str | None]:
    """For each document's hits the benchmark that it is removed for, or None.

    Runs that stand in more than ``common`` documents count for nobody.
    """
    spread: dict[int, int] = {}
    for hits in found:
        for run in hits:
            spread[run] = spread.get(run, 0) + 1
    return [
        min((name for run, name in hits.items() if spread[run] <= common), default=None)
        for hits in found
    ]


def remove_contaminated(
    documents: list[Document], index: Index, common: int = COMMON
) -> tuple[list[Document], dict[str, int]]:
    """The documents that share no run with a benchmark, and how many did, by benchmark."""
    owners = whose([index.hits(document.text) for document in documents], common)
    removed: dict[str, int] = {}
    for name in filter(None, owners):
        removed[name] = removed.get(name, 0) + 1
    kept = [document for document, name in zip(documents, owners, strict=True) if name is None]
    return kept, removed
