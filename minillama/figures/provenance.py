"""Where a figure comes from: enough to draw it again, and to know what to distrust."""

import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from minillama.corpus.token_files import open_corpus
from minillama.errors import MinillamaError
from minillama.files import sha256
from minillama.train import checkpoint
from minillama.train.config import read_config
from minillama.train.log import read_metrics

PACKAGES = ("minillama", "torch", "numpy", "matplotlib", "sentencepiece")


def provenance(command: Sequence[str], runs: Mapping[str, Path]) -> dict[str, Any]:
    """Command, code, machine, versions and runs behind a result, as plain values.

    Args:
        command: the command that makes it again.
        runs: run folders by name.
    """
    return {
        "command": shlex.join(command),
        **code(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "hardware": hardware(),
        "versions": versions(),
        "runs": {name: describe_run(folder) for name, folder in runs.items()},
    }


def code() -> dict[str, Any]:
    """The commit of the checkout that this package lies in, and whether files differ from it.

    Both are None where there is no git or no checkout. Drawn figures and files that git does not
    track do not count.
    """
    commit = _git("rev-parse", "HEAD")
    tracked = ("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(top,exclude)figures")
    changed = _git(*tracked) if commit else None
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True,
            timeout=10, check=True,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def hardware() -> dict[str, Any]:
    """Processor, cores that this process may use, memory in GiB, and GPUs; no names of machines."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "cpu": _cpu_name(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_gib": _memory_gib(),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> float | None:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    return round(total / 2**30, 1)


def versions() -> dict[str, str | None]:
    """Python and the packages that the numbers depend on."""
    found: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def describe_run(run: Path) -> dict[str, Any]:
    """Which run it is, by the checksum of its settings, and how far it has come."""
    config = read_config(run / "config.toml")
    last = read_metrics(run)[-1]
    try:
        data = checkpoint.load_state(run, checkpoint.steps(run)[-1])["data"]
    except (IndexError, KeyError, MinillamaError):
        data = None  # nothing saved yet, or only the logs of the run are here
    return {
        "config_sha256": sha256(run / "config.toml"),
        "metrics_sha256": sha256(run / "metrics.jsonl"),
        "data_sha256": data,
        "parameters": config.model.num_parameters(),
        "seed": config.seed,
        "tokens": last["tokens"],
        "tokens_planned": config.total_steps * config.batch_tokens,
    }


def describe_corpus(folder: Path) -> dict[str, Any]:
    """Which corpus it is; ``data_sha256`` is that of the runs trained on it.

    Raises:
        DataError: nothing is there, or it is damaged.
    """
    corpus = open_corpus(folder, verify=False)
    return {
        "name": folder.name,
        "recipe": corpus.manifest.get("recipe"),
        "manifest_sha256": sha256(folder / "manifest.json"),
        "data_sha256": corpus.fingerprint,
        "sources": corpus.manifest.get("sources"),
    }
