"""What could name a private person, in text that private persons wrote: found by form, and masked.

Names cannot be told by form and stay; data/README.md says how many of each kind were found.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

from minillama.corpus.document import Document
from minillama.corpus.pipeline import Step
from minillama.corpus.statistics import StepStats

PATTERNS = {
    "e-mail address": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "link": re.compile(r"(?:https?://|www\.)\S+", re.I),
    "handle": re.compile(r"(?<!\w)@\w{2,}"),
    "telephone number": re.compile(r"(?<![\w.])\+?\(?\d{3}\)?[ .-]?\d{3}[ .-]?\d{4}(?!\w)"),
    "long number": re.compile(r"(?<!\w)(?<!\d[.,])\d{6,}(?!\w)(?![.,]\d)"),
}
"""Kind -> its form; a mask such as [link] takes its place."""


@dataclass(frozen=True)
class MaskPersonal(Step):
    """Addresses, numbers and handles give place to their kind in brackets."""

    name: ClassVar[str] = "personal data"
    packages: tuple[str, ...]
    """Those in which private persons write."""

    def process(self, document: Document, stats: StepStats) -> Document:
        """Mask and count, kind by kind."""
        if document.source.split("==")[0] not in self.packages:
            return document
        text = document.text
        for kind, pattern in PATTERNS.items():
            text, count = pattern.subn(f"[{kind}]", text)
            stats.remove(kind, count)
        return document.with_text(text)
