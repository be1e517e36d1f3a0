"""The recipes on datatrove's engines (Penedo et al., 2024): this machine, Slurm, or Ray.

The steps are those of the built-in build (``recipes``), and so are the results: the lines of all
files written here, sorted, are those of the built-in runner, sorted. What changes is who runs them:

- A recipe is cut into stages. Steps that look at one document alone are split among as many tasks
  as there are machines to take them, and so is deduplication by hashes (``trove_hashes``); a step
  that must see all documents of the slice otherwise is one task.
- A task reads neighboring files and writes one file of documents for each, whole or not at all;
  so what is in order stays so, and an interrupted run goes on with the tasks that are not done.
- Stages wait for each other through datatrove's ``depends``, on a cluster as well.
"""

import importlib.util
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from minillama.corpus.document import Document, no_surrogates
from minillama.corpus.pipeline import Step, StepContext, load_documents
from minillama.corpus.recipes import READERS, RECIPES, SIZES
from minillama.corpus.sources import DOWNLOADS, SOURCES, load_sources
from minillama.corpus.statistics import StepStats
from minillama.corpus.warc import crawled_pages
from minillama.errors import ConfigError, DataError, nearest
from minillama.files import read_json, write_json
from minillama.scale.clean import Task, tasks_of


@dataclass(frozen=True)
class Packages:
    """The pinned packages of a slice, each of which is one file."""

    around: StepContext
    tasks: tuple[Task, ...]

    def __len__(self) -> int:
        return len(self.tasks)

    def documents(self, number: int, row: StepStats) -> Iterator[Document]:
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

    def documents(self, number: int, row: StepStats) -> Iterator[Document]:
        """What one of them holds, before any step; what cannot be read is counted."""
        name, skipped = self.names[number], Counter()
        with open(self.folder / name, "rb") as file:
            texts = (
                crawled_pages(file, skipped) if self.reader == "crawl"  # too large for memory
                else READERS[self.reader]([(name, file.read())], skipped)
            )  # fmt: skip
            for place, text in texts:
                place = f"{name}#{place}" if self.reader == "crawl" else place
                text, place = no_surrogates(text), no_surrogates(place)
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

    def documents(self, number: int, row: StepStats) -> Iterator[Document]:
        """The documents of one part."""
        return load_documents(part_path(self.folder, number))


Inputs = Packages | Files | Parts


def part_path(folder: Path, number: int) -> Path:
    """A part's file."""
    return folder / f"{number:05d}.jsonl"


def share(count: int, rank: int, world_size: int) -> range:
    """The neighboring parts that a task does: all parts are done, once, in order of the tasks."""
    return range(count * rank // world_size, count * (rank + 1) // world_size)


def stages(steps: Sequence[Step]) -> list[tuple[Step, ...]]:
    """A recipe's steps in stages: those that look at one document alone together, each other one by
    itself."""
    found: list[tuple[Step, ...]] = []
    for step in steps:
        if found and not in_one_task([*found[-1], step]):
            found[-1] += (step,)
        else:
            found.append((step,))
    return found or [()]


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
    """Of the Slurm cluster."""
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
            raise ConfigError("Slurm needs a partition", "add --partition NAME")

    def check(self) -> None:
        """Raise ``ConfigError`` if the engine is not on this machine."""
        if self.executor == "slurm" and not shutil.which("sbatch"):
            raise ConfigError("there is no sbatch here", "run it on a machine of the cluster")
        if self.executor == "ray" and not importlib.util.find_spec("ray"):
            raise ConfigError("Ray is not installed", "install ray, and start or join a cluster")


ON_THIS_MACHINE = Engine()


def inputs_of(
    slice_name: str, around: StepContext, recipe: str, folder: Path | None, reader: str
) -> Inputs:
    """A folder's files, or the packages of a slice."""
    if recipe not in SIZES:
        raise ConfigError(f"there is no recipe '{recipe}'", nearest(recipe, SIZES))
    if around.wikipedia and not around.wikipedia.is_file():
        raise DataError(f"{around.wikipedia} does not exist", "name a file of JSON lines")
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
    engine: Annotated[Engine, tyro.conf.arg(name="")] = ON_THIS_MACHINE,
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
    around = StepContext(sources.resolve(), downloads.resolve(), wikipedia)
    inputs = inputs_of(slice, around, recipe, folder, reader)
    if not importlib.util.find_spec("datatrove"):
        told = "datatrove is not installed"
        raise ConfigError(told, "install minillama with its extra: minillama[datatrove]")
    from minillama.scale.datatrove_engines import executors, slurm_script
    from minillama.scale.datatrove_watch import run_watched

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
    if engine.executor == "local" and engine.workers > 1:
        run_watched(made[-1].run)
    else:
        made[-1].run()
    done = "handed to Slurm, to write" if engine.executor == "slurm" else "written"
    return "\n".join([*plan, f"{done}: {output / 'clean'}"])
