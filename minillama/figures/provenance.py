"""Where a figure comes from: enough to draw it again, and to know what to distrust."""

import datetime
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from minillama.errors import MinillamaError
from minillama.figures.runs import Run, Runs
from minillama.files import sha256
from minillama.train import checkpoint

PACKAGES = ("minillama", "torch", "numpy", "matplotlib", "sentencepiece", "transformers")


def provenance(command: Sequence[str], runs: Runs = ()) -> dict[str, Any]:
    """Command, code, machine, versions and runs behind a result, as plain values.

    Args:
        command: the command that makes it again.
        runs: what it was drawn from, if it was drawn from runs.
    """
    origin = {
        "command": shlex.join(command),
        **code(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": versions(),
    }
    described = {run.folder.name: describe_run(run) for run in runs}
    return origin | ({"runs": described} if runs else {})


def code() -> dict[str, Any]:
    """The commit of the checkout that this package lies in, and whether files differ from it.

    Both are None where there is no git or no checkout. Drawn figures and files that git does not
    track do not count.
    """

    def git(*arguments: str) -> str:
        options = {"cwd": Path(__file__).parent, "text": True, "timeout": 10}
        return subprocess.check_output(["git", *arguments], stderr=subprocess.DEVNULL, **options)

    places = (":/", ":(top,exclude)figures")
    try:
        commit = git("rev-parse", "HEAD").strip()
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *places)
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(changed)}


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GiB, and GPUs; no names of machines."""
    cpu, cores = platform.processor() or platform.machine(), os.cpu_count()
    if platform.system() == "Linux":
        cores = len(os.sched_getaffinity(0))
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                cpu = line.split(":", 1)[1].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": cpu,
        "cores": cores,
        "memory_gib": round(memory / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str | None]:
    """Python and the packages that the numbers depend on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # minillama, run from its checkout
            found[name] = None
    return found


def describe_run(run: Run) -> dict[str, Any]:
    """Which run it is, by the checksum of its settings, and how far it has come."""
    try:
        last = checkpoint.steps(run.folder)[-1]
        data = checkpoint.load_state(run.folder, last)["data"]
    except (IndexError, KeyError, MinillamaError):
        data = None  # nothing saved yet, or only the logs of the run are here
    return {
        "config_sha256": sha256(run.folder / "config.toml"),
        "metrics_sha256": sha256(run.folder / "metrics.jsonl"),
        "data_sha256": data,
        "parameters": run.config.model.num_parameters(),
        "seed": run.config.seed,
        "tokens": run.metrics[-1]["tokens"],
        "tokens_planned": run.config.total_steps * run.config.batch_tokens,
    }
