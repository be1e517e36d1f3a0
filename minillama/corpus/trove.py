"""The recipes on datatrove's engines (Penedo et al., 2024): this machine, Slurm, or Ray.

The steps are those of the built-in build (``recipes``), and so are the results: the lines of all
files written here, sorted, are those of the built-in runner, sorted. What changes is who runs them:

- A recipe is cut into stages. A stage of steps that look at one document alone is split among as
  many tasks as there are machines to take them; one with a step that must see all documents of the
  slice in order is one task.
- A task reads neighbouring files and writes one file of documents for each, whole or not at all;
  so what is in order stays so, and an interrupted run goes on with the tasks that are not done.
- Stages wait for each other through datatrove's ``depends``, on a cluster as well.
"""

import contextlib
import importlib.util
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from datatrove.data import Document as TroveDocument
from datatrove.executor import (
    LocalPipelineExecutor,
    RayPipelineExecutor,
    SlurmPipelineExecutor,
)
from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.typeshelper import StatHints
from tyro.conf import Positional

from minillama.corpus.clean import Task, tasks_of
from minillama.corpus.document import Document, Dropped
from minillama.corpus.recipes import READERS, RECIPES
from minillama.corpus.shards import to_json
from minillama.corpus.sources import DOWNLOADS, SOURCES, load_sources
from minillama.corpus.steps import Around, Step, load_documents
from minillama.corpus.warc import crawled_pages
from minillama.corpus.waterfall import Row
from minillama.errors import ConfigError, DataError, nearest
from minillama.files import atomic_path, read_json, write_json

PART = "part"
"""Where a document says which of the files it belongs to."""


@dataclass(frozen=True)
class Packages:
    """The pinned packages of a slice, each of which is one file."""

    around: Around
    tasks: tuple[Task, ...]

    def __len__(self) -> int:
        return len(self.tasks)

    def documents(self, number: int, row: Row) -> Iterator[Document]:
        """What one of them holds, before any step."""
        return self.tasks[number].documents(self.around, row)


@dataclass(frozen=True)
class Files:
    """Files in a folder, such as the crawl's, all for one reader."""

    folder: Path
    slice: str
    reader: str
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def documents(self, number: int, row: Row) -> Iterator[Document]:
        """What one of them holds, before any step; what cannot be read is counted."""
        name, skipped = self.names[number], Counter()
        with open(self.folder / name, "rb") as file:
            texts = (
                crawled_pages(file, skipped) if self.reader == "crawl"  # too large for memory
                else READERS[self.reader]([(name, file.read())], skipped)
            )  # fmt: skip
            for place, text in texts:
                place = f"{name}#{place}" if self.reader == "crawl" else place
                text = text.encode(errors="replace").decode()
                yield Document(text, self.slice, self.folder.name, place)
        for reason, count in skipped.items():
            row.drop(reason, count)


@dataclass(frozen=True)
class Parts:
    """What an earlier stage wrote."""

    folder: Path
    count: int

    def __len__(self) -> int:
        return self.count

    def documents(self, number: int, row: Row) -> Iterator[Document]:
        """The documents of one part."""
        return load_documents(part_path(self.folder, number))


Inputs = Packages | Files | Parts


def part_path(folder: Path, number: int) -> Path:
    """A part's file."""
    return folder / f"{number:05d}.jsonl"


def share(count: int, rank: int, world_size: int) -> range:
    """The neighbouring parts that a task does: all parts are done, once, in order of the tasks."""
    return range(count * rank // world_size, count * (rank + 1) // world_size)


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
            row = Row("read")
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

    def __init__(self, step: Step, around: Around, inputs: Inputs) -> None:
        self.name = step.name
        super().__init__()
        self.step, self.around, self.inputs = step, around, inputs

    def run(self, data: Any = None, rank: int = 0, world_size: int = 1) -> Iterator[TroveDocument]:
        """What the step makes of the documents; those it drops are counted by reason."""
        row = Row(self.step.name)
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
            yield from self.inputs.documents(part, Row(""))


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


def stages(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """A recipe's steps in stages: all alone, or all in order; a fitted one begins its own."""
    found: list[list[Step]] = [[]]
    for step in steps:
        together = step.ordered or step.fitted
        if found[-1] and (step.fitted or together != in_one_task(found[-1])):
            found.append([])
        found[-1].append(step)
    return [tuple(stage) for stage in found]


def in_one_task(stage: Sequence[Step]) -> bool:
    """Whether a stage cannot be split."""
    return any(step.ordered or step.fitted for step in stage)


@dataclass(frozen=True)
class Engine:
    """Who runs the tasks."""

    executor: Literal["local", "slurm", "ray"] = "local"
    tasks: int = 4
    """Shares of the input in a stage that can be split; never more than it has files."""
    workers: int = 2
    """Tasks at a time; -1: all."""
    memory_gb: int = 4
    """Of each task, on a cluster."""
    partition: str = ""
    """Slurm's."""
    qos: str = ""
    """Slurm's quality of service."""
    time: str = "24:00:00"
    """At most so long a task runs under Slurm."""
    activate: str = ""
    """The command that makes minillama's environment active in a Slurm job."""

    def __post_init__(self) -> None:
        if self.tasks < 1 or self.memory_gb < 1 or (self.workers < 1 and self.workers != -1):
            raise ConfigError("tasks, workers and memory_gb must be above 0")
        if self.executor == "slurm" and not self.partition:
            raise ConfigError("Slurm needs a partition", "add --engine.partition NAME")

    def check(self) -> None:
        """Raise ``ConfigError`` if the engine is not on this machine."""
        if self.executor == "slurm" and not shutil.which("sbatch"):
            raise ConfigError("there is no sbatch here", "run it on a machine of the cluster")
        if self.executor == "ray" and not importlib.util.find_spec("ray"):
            raise ConfigError("Ray is not installed", "install ray, and start or join a cluster")

    def make(
        self, pipeline: list[PipelineStep], tasks: int, logs: Path, after: PipelineExecutor | None
    ) -> PipelineExecutor:
        """datatrove's executor of one stage."""
        common = {"pipeline": pipeline, "tasks": tasks, "logging_dir": str(logs), "depends": after}
        workers = self.workers if self.workers == -1 else min(self.workers, tasks)
        if self.executor == "local":
            return LocalPipelineExecutor(**common, workers=workers)
        if self.executor == "ray":
            return RayPipelineExecutor(**common, workers=workers, mem_per_cpu_gb=self.memory_gb)
        return SlurmPipelineExecutor(
            **common, workers=workers, mem_per_cpu_gb=self.memory_gb, partition=self.partition,
            qos=self.qos, time=self.time, env_command=self.activate or None,
            job_name=f"minillama-{logs.name}",
        )  # fmt: skip


def executors(
    inputs: Inputs, steps: Sequence[Step], around: Around, output: Path, engine: Engine
) -> list[PipelineExecutor]:
    """One executor a stage, each waiting for the one before it; the last writes ``clean``."""
    if not len(inputs):
        raise DataError("there is no file to read", "name another slice, or a folder of files")
    made: list[PipelineExecutor] = []
    count, cut = len(inputs), stages(steps)
    for number, stage in enumerate(cut):
        last = number == len(cut) - 1
        folder = output / ("clean" if last else f"stage{number}")
        tasks = 1 if in_one_task(stage) else min(engine.tasks, count)
        pipeline = [
            Read(inputs), *(Work(step, around, inputs) for step in stage), Write(folder, count)
        ]  # fmt: skip
        logs = output / "logs" / f"{number}-of-{tasks}-tasks"
        made.append(engine.make(pipeline, tasks, logs, made[-1] if made else None))
        inputs = Parts(folder, count)
    return made


def slurm_script(executor: SlurmPipelineExecutor) -> str:
    """The batch script of a stage, as it would be handed to ``sbatch``."""
    arguments = executor.get_sbatch_args(executor.tasks)
    program = executor.logging_dir.resolve_paths("executor.pik")
    return executor.get_launch_file_contents(
        arguments, f"srun -l launch_pickled_pipeline {program}"
    )


def inputs_of(
    slice_name: str, around: Around, recipe: str, folder: Path | None, reader: str
) -> Inputs:
    """A folder's files, or the packages of a slice."""
    if slice_name not in RECIPES:
        raise ConfigError(f"there is no slice '{slice_name}'", nearest(slice_name, RECIPES))
    if folder is None:
        tasks = tasks_of(load_sources(around.sources), recipe, None)
        return Packages(around, tuple(task for task in tasks if task.slice == slice_name))
    if reader not in READERS:
        raise ConfigError(f"there is no reader '{reader}'", nearest(reader, READERS))
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return Files(folder, slice_name, reader, tuple(str(p.relative_to(folder)) for p in paths))


def run_trove(
    slice: Positional[str],
    output: Positional[Path],
    engine: Engine = Engine(),  # noqa: B008: it is frozen
    folder: Path | None = None,
    reader: str = "crawl",
    recipe: str = "nano",
    wikipedia: Path | None = None,
    dry_run: bool = False,
    sources: Path = SOURCES,
    downloads: Path = DOWNLOADS,
) -> str:
    """Run a slice's recipe on datatrove: on this machine, Slurm or Ray.

    Args:
        slice: one of Table 1.
        output: where the clean documents, the stages between and datatrove's logs go; shared by
            all machines.
        engine: who runs the tasks.
        folder: files to read, such as the crawl's WARC files; the pinned packages by default.
        reader: the kind of those files.
        recipe: which packages are taken.
        wikipedia: the clean Wikipedia slice (JSON lines), by which pages of the web are judged.
        dry_run: only say what would be run.
        sources: the list of packages.
        downloads: where they were fetched to.

    Raises:
        ConfigError: an unknown slice or reader, or an engine that is not there.
        DataError: there is nothing to read, or the output is of other settings.
    """
    output = output.resolve()  # the tasks may run elsewhere
    wikipedia, folder = (path and path.resolve() for path in (wikipedia, folder))
    around = Around(sources.resolve(), downloads.resolve(), wikipedia)
    inputs = inputs_of(slice, around, recipe, folder, reader)
    made = executors(inputs, RECIPES[slice], around, output, engine)
    plan = [f"{stage.tasks} tasks: " + ", ".join(step.name for step in stage.pipeline)
            for stage in made]  # fmt: skip
    if dry_run:
        scripts = [slurm_script(stage) for stage in made] if engine.executor == "slurm" else []
        return "\n".join([*plan, *scripts])
    engine.check()
    wanted = [repr(inputs), repr(RECIPES[slice]), repr(around)]
    if (output / "plan.json").exists() and read_json(output / "plan.json") != wanted:
        raise DataError(f"{output} was made with other settings", "choose another folder")
    write_json(output / "plan.json", wanted)
    made[-1].run()
    done = "handed to Slurm, to write" if engine.executor == "slurm" else "written"
    return "\n".join([*plan, f"{done}: {output / 'clean'}"])
