"""Training text that holds a benchmark's questions: found by runs of 13 words, and removed.

The paper does not check; GPT-3 (Brown et al., 2020, Appendix C) set the custom of 13 words: a run
that a document shares with an example of a benchmark is no accident. Words are compared without
case and punctuation. A benchmark's text shorter than 13 words cannot be told from chance and is
not looked for; runs that stand in many documents are quotations that everybody knows, and do not
count either.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from minillama.corpus.document import Document
from minillama.corpus.seen import hash64

RUN = 13
COMMON = 10
"""A run in more documents than this is everybody's."""


def runs(text: str, size: int = RUN) -> Iterator[int]:
    """Hashes of all runs of ``size`` words."""
    words = re.findall(r"\w+", text.casefold())
    for i in range(len(words) - size + 1):
        yield hash64(" ".join(words[i : i + size]))


@dataclass
class Index:
    """The runs of all examples, and the benchmark that each is from."""

    benchmarks: dict[int, str] = field(default_factory=dict)
    examples: dict[str, int] = field(default_factory=dict)

    def add(self, benchmark: str, texts: Iterable[str]) -> None:
        """Take in the examples of a benchmark."""
        for text in texts:
            self.examples[benchmark] = self.examples.get(benchmark, 0) + 1
            for run in runs(text):
                self.benchmarks.setdefault(run, benchmark)

    def hits(self, text: str) -> dict[int, str]:
        """The runs of a text that are a benchmark's too, and whose."""
        return {run: self.benchmarks[run] for run in runs(text) if run in self.benchmarks}


def remove_contaminated(
    documents: list[Document], index: Index, common: int = COMMON
) -> tuple[list[Document], dict[str, int]]:
    """The documents that share no run with a benchmark, and how many did, by benchmark."""
    found = [index.hits(document.text) for document in documents]
    spread: dict[int, int] = {}
    for hits in found:
        for run in hits:
            spread[run] = spread.get(run, 0) + 1
    kept, removed = [], {}
    for document, hits in zip(documents, found, strict=True):
        rare = sorted({name for run, name in hits.items() if spread[run] <= common})
        if not rare:
            kept.append(document)
        for name in rare[:1]:
            removed[name] = removed.get(name, 0) + 1
    return kept, removed
