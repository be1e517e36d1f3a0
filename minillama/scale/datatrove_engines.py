"""A recipe's stages for datatrove's executors: this machine, Slurm, or Ray."""

from collections.abc import Sequence
from pathlib import Path

from datatrove.executor import (
    LocalPipelineExecutor,
    RayPipelineExecutor,
    SlurmPipelineExecutor,
)
from datatrove.executor.base import PipelineExecutor
from datatrove.pipeline.base import PipelineStep

from minillama.corpus.pipeline import Step, StepContext
from minillama.errors import DataError
from minillama.scale import datatrove_hashes
from minillama.scale.datatrove import Engine, Inputs, Parts, in_one_task, stages
from minillama.scale.datatrove_steps import Read, Work, Write


def executor_of(
    engine: Engine, pipeline: list[PipelineStep], tasks: int, logs: Path,
    after: PipelineExecutor | None,
) -> PipelineExecutor:  # fmt: skip
    """datatrove's executor of one stage."""
    common = {"pipeline": pipeline, "tasks": tasks, "logging_dir": str(logs), "depends": after}
    workers = engine.workers if engine.workers == -1 else min(engine.workers, tasks)
    if engine.executor == "local":
        return LocalPipelineExecutor(**common, workers=workers, start_method="fork")
    if engine.executor == "ray":
        return RayPipelineExecutor(**common, workers=workers, mem_per_cpu_gb=engine.memory_gb)
    return SlurmPipelineExecutor(
        **common, workers=workers, mem_per_cpu_gb=engine.memory_gb, partition=engine.partition,
        qos=engine.qos, time=engine.time, env_command=engine.activate or None,
        job_name=f"minillama-{logs.name}",
    )  # fmt: skip


def executors(
    inputs: Inputs, steps: Sequence[Step], around: StepContext, output: Path, engine: Engine
) -> list[PipelineExecutor]:
    """The executors of a recipe, each waiting for the one before it; the last writes ``clean``."""
    if not len(inputs):
        raise DataError("there is no file to read", "name another slice, or a folder of files")
    made: list[PipelineExecutor] = []
    count, cut = len(inputs), stages(steps)

    def add(pipeline: list[PipelineStep], tasks: int) -> None:
        logs = output / "logs" / f"{len(made):02d}-of-{tasks}-tasks"
        made.append(executor_of(engine, pipeline, tasks, logs, made[-1] if made else None))

    for number, stage in enumerate(cut):
        folder = output / ("clean" if number == len(cut) - 1 else f"stage{number}")
        tasks = min(engine.tasks, count)
        if datatrove_hashes.by_hash(stage) and tasks > 1:
            aside = output / f"hashes{number}"
            *before, last = datatrove_hashes.pipelines(stage[0], around, inputs, aside, tasks)
            for pipeline in before:
                add(pipeline, tasks)
        else:
            last = [Read(inputs), *(Work(step, around, inputs) for step in stage)]
            tasks = 1 if in_one_task(stage) else tasks
        add([*last, Write(folder, count)], tasks)
        inputs = Parts(folder, count)
    return made


def slurm_script(executor: SlurmPipelineExecutor) -> str:
    """The batch script of a stage, as it would be handed to ``sbatch``."""
    arguments = executor.get_sbatch_args(executor.tasks)
    program = executor.logging_dir.resolve_paths("executor.pik")
    return executor.get_launch_file_contents(
        arguments, f"srun -l launch_pickled_pipeline {program}"
    )
