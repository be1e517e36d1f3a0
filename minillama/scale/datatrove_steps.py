"""A reader, our steps and a writer, as steps of datatrove's."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datatrove.data import Document as TroveDocument
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.typeshelper import StatHints

from minillama.corpus.document import Document, Dropped
from minillama.corpus.pipeline import Step, StepContext
from minillama.corpus.statistics import StepStats
from minillama.corpus.token_files import to_json
from minillama.files import atomic_path
from minillama.scale.datatrove import Inputs, part_path, share

PART = "part"
"""Where a document says which of the files it belongs to."""


class Read(PipelineStep):
    """A reader: our documents as datatrove's."""

    type, name = "📖 - READER", "minillama's documents"

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        self.inputs = inputs

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """The documents of this task's parts."""
        if data:
            yield from data
        for part in share(len(self.inputs), rank, world_size):
            row = StepStats("read")
            for number, document in enumerate(self.inputs.documents(part, row)):
                self.stat_update(StatHints.total)
                yield TroveDocument(document.text, f"{part}/{number}", metadata={
                    "slice": document.slice, "source": document.source, "path": document.path,
                    PART: part,
                })  # fmt: skip
            for reason, count in row.dropped.items():
                self.stat_update(f"dropped_{reason}", value=count)


class Work(PipelineStep):
    """A filter and formatter: one of our steps."""

    type = "🔻 - STEP"

    def __init__(self, step: Step, around: StepContext, inputs: Inputs) -> None:
        self.name = step.name
        super().__init__()
        self.step, self.around, self.inputs = step, around, inputs

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """What the step makes of the documents; those it drops are counted by reason."""
        row = StepStats(self.step.name)
        work = self.step.start(self.around, row, self._reread)
        for theirs in data or ():
            self.stat_update(StatHints.total)
            with self.track_time():
                done = work(ours(theirs)) if work else ours(theirs)
            if isinstance(done, Dropped):
                self.stat_update(StatHints.dropped, f"dropped_{done.reason}")
                continue
            theirs.text = done.text
            self.stat_update(StatHints.forwarded)
            self.update_doc_stats(theirs)
            yield theirs
        for kind, count in row.removed.items():
            self.stat_update(f"removed_{kind}", value=count)

    def _reread(self) -> Iterator[Document]:
        """All documents of the stage: a step that reads them beforehand is the first of its own."""
        for part in range(len(self.inputs)):
            yield from self.inputs.documents(part, StepStats(""))


class Write(PipelineStep):
    """A writer: a file of documents for each part, in the form of the built-in build."""

    type, name = "💽 - WRITER", "minillama's parts"

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__()
        self.folder, self.count = folder, count

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """Write this task's parts, those without a document too, and pass all on."""
        left = iter(share(self.count, rank, world_size))
        with contextlib.ExitStack() as opened:
            file, part = None, -1
            for document in data or ():
                while part < document.metadata[PART]:
                    opened.close()
                    part = next(left)
                    file = opened.enter_context(whole_file(part_path(self.folder, part)))
                file.write(to_json(ours(document)))
                self.stat_update(StatHints.total)
                yield document
        for part in left:
            with whole_file(part_path(self.folder, part)):
                pass


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Any]:
    """A text file that is there only when all of it is."""
    with atomic_path(path) as aside, open(aside, "w", encoding="utf-8") as file:
        yield file


def ours(document: TroveDocument) -> Document:
    """datatrove's document as ours."""
    told = document.metadata
    return Document(document.text, told["slice"], told["source"], told["path"])
