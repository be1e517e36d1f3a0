"""The recipes on datatrove's engines: this machine, Slurm, or Ray.

The steps are those of the built-in build (``recipes``), and so are the results: the lines of all
files written here, sorted, are those of the built-in runner, sorted. What changes is who runs them
(``datatrove_steps``). Stages wait for each other through datatrove's ``depends``, on a cluster too.
"""

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional

from minillama.corpus.pipeline import Step, StepContext
from minillama.corpus.recipes import READERS, RECIPES, SIZES, recipe_versions
from minillama.corpus.sources import DOWNLOADS, SOURCES, load_sources
from minillama.errors import ConfigError, DataError, nearest
from minillama.files import read_json, write_json
from minillama.scale.clean import tasks_of


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
        positive = self.tasks > 0 and self.memory_gb > 0
        if not positive or (self.workers < 1 and self.workers != -1):
            raise ConfigError("tasks, workers and memory_gb must be above 0")
        if self.executor == "slurm" and not self.partition:
            raise ConfigError("Slurm needs a partition", "add --partition NAME")

    def check(self) -> None:
        """Raise ``ConfigError`` if the engine is not on this machine."""
        if self.executor == "slurm" and not shutil.which("sbatch"):
            raise ConfigError("there is no sbatch here", "run it on a machine of the cluster")
        if self.executor == "ray" and not importlib.util.find_spec("ray"):
            raise ConfigError("Ray is not installed", "install ray, and start or join a cluster")

    def make(self, pipeline: list[Any], tasks: int, logs: Path, after: Any) -> Any:
        """datatrove's executor of one stage, to be run after another."""
        from datatrove.executor import RayPipelineExecutor, SlurmPipelineExecutor

        from minillama.scale.datatrove_steps import LocalExecutor

        common = {
            "pipeline": pipeline,
            "tasks": tasks,
            "workers": self.workers if self.workers == -1 else min(self.workers, tasks),
            "logging_dir": str(logs),
            "depends": after,
        }
        if self.executor == "local":
            return LocalExecutor(**common)
        if self.executor == "ray":
            return RayPipelineExecutor(**common, mem_per_cpu_gb=self.memory_gb)
        return SlurmPipelineExecutor(
            **common,
            mem_per_cpu_gb=self.memory_gb,
            partition=self.partition,
            qos=self.qos,
            time=self.time,
            env_command=self.activate or None,
            job_name=f"minillama-{logs.name}",
        )


ON_THIS_MACHINE = Engine()


def run_datatrove(
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
    if not importlib.util.find_spec("datatrove"):
        hint = "install minillama with its extra: minillama[datatrove]"
        raise ConfigError("datatrove is not installed", hint)
    # What is read and done. The tasks may run elsewhere, so all paths are absolute.
    output = output.resolve()
    wikipedia, folder = (path and path.resolve() for path in (wikipedia, folder))
    context = StepContext(sources.resolve(), downloads.resolve(), wikipedia)
    parts = find_parts(slice, context, recipe, folder, reader)
    executors = make_executors(parts, RECIPES[slice], context, output, engine)
    lines = [
        f"{executor.tasks} tasks: " + ", ".join(step.name for step in executor.pipeline)
        for executor in executors
    ]
    if dry_run:
        if engine.executor == "slurm":
            lines += map(slurm_script, executors)
        return "\n".join(lines)

    # Run it, unless the folder is of other settings.
    engine.check()
    plan = [repr(parts), repr(RECIPES[slice]), repr(context), repr(recipe_versions())]
    if (output / "plan.json").exists() and read_json(output / "plan.json") != plan:
        raise DataError(f"{output} was made with other settings", "choose another folder")
    write_json(output / "plan.json", plan)
    executors[-1].run()
    done = "handed to Slurm, to write" if engine.executor == "slurm" else "written"
    return "\n".join([*lines, f"{done}: {output / 'clean'}"])


def find_parts(
    slice_name: str, context: StepContext, recipe: str, folder: Path | None, reader: str
) -> list[Any]:
    """A folder's files, or the packages of a slice. Raises as ``run_datatrove`` does."""
    from minillama.scale.datatrove_steps import FilePart

    known = (("recipe", recipe, SIZES), ("slice", slice_name, RECIPES), ("reader", reader, READERS))
    for kind, name, names in known:
        if name not in names:
            raise ConfigError(f"there is no {kind} '{name}'", nearest(name, names))
    if context.wikipedia and not context.wikipedia.is_file():
        raise DataError(f"{context.wikipedia} does not exist", "name a file of JSON lines")
    parts: list[Any] = []
    if folder is None:
        tasks = tasks_of(load_sources(context.sources), recipe, None)
        parts += [task for task in tasks if task.slice == slice_name]
    else:
        for path in sorted(filter(Path.is_file, folder.rglob("*"))):
            parts.append(FilePart(folder, str(path.relative_to(folder)), slice_name, reader))
    if not parts:
        raise DataError("there is no file to read", "name another slice, or a folder of files")
    return parts


def make_executors(
    parts: list[Any], steps: Sequence[Step], context: StepContext, output: Path, engine: Engine
) -> list[Any]:
    """datatrove's executors of a recipe's stages, each of which waits for the one before it."""
    from minillama.scale.datatrove_steps import plan_stages

    executors: list[Any] = []
    stages = plan_stages(parts, steps, context, output, engine.tasks)
    before = None
    for number, (pipeline, tasks) in enumerate(stages):
        logs = output / "logs" / f"{number:02d}-of-{tasks}-tasks"
        before = engine.make(pipeline, tasks, logs, before)
        executors.append(before)
    return executors


def slurm_script(executor: Any) -> str:
    """The batch script of a stage, as it would be handed to ``sbatch``."""
    arguments = executor.get_sbatch_args(executor.tasks)
    program = executor.logging_dir.resolve_paths("executor.pik")
    command = f"srun -l launch_pickled_pipeline {program}"
    return executor.get_launch_file_contents(arguments, command)
