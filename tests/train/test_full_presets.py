"""The presets of the full models and their batch files: what they promise is what is computed."""

import os
import re
import shlex
import signal
import subprocess
import time
from importlib.resources import files
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from minillama.apps.cli import main
from minillama.errors import ConfigError
from minillama.paper import TABLE15
from minillama.parallel.memory import GPUS, plan
from minillama.scale.dry_run import GPU, DryRun
from minillama.train.config import TrainConfig, load_preset, preset_world

FOLDER = Path(str(files("minillama") / "presets"))
SIZES = ["7b", "13b", "33b", "65b"]
BATCH_FILES = sorted((FOLDER / "slurm").glob("*.sbatch"))


def head_of(name: str) -> str:
    """The comment at the head of a preset, as one line."""
    lines = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


def planned(name: str) -> DryRun:
    return DryRun(load_preset(name), preset_world(name))


@pytest.mark.parametrize("name", SIZES)
def test_heads_say_what_the_calculator_says(name: str) -> None:
    head, dry = head_of(name), planned(name)
    for line in dry.summary():
        assert line in head
    hours = TABLE15[name]["gpu_hours"]
    assert f"{hours:,} hours" in head and f"{hours / dry.world / 24:.1f} days" in head


@pytest.mark.parametrize("name", SIZES)
def test_days_and_memory_are_those_of_the_plan(name: str) -> None:
    """``minillama plan`` with the preset's numbers gives what the dry run gives."""
    config, dry = load_preset(name), planned(name)
    _, shard, tensor = dry.mesh
    told = plan(name, gpus=dry.world, tokens=config.tokens, tensor_parallel=tensor,
                micro_batch=config.micro_batch)  # fmt: skip
    assert dry.days == pytest.approx(told.days, rel=1e-9)
    assert dry.passes == told.accumulation
    assert dry.memory["activations"] == told.memory["activations"]
    assert dry.memory["weights"] * shard * tensor == 4 * config.model.num_parameters()


@pytest.mark.parametrize("name", SIZES)
def test_a_tenth_of_the_memory_stays_free(name: str) -> None:
    assert sum(planned(name).memory.values()) < 0.9 * GPUS[GPU].memory * 2**30


def test_what_the_single_node_file_promises() -> None:
    """7b and 13b fit on a node, for more than a year; the larger ones take more than a node."""
    text = (FOLDER / "slurm" / "single_node.sbatch").read_text(encoding="utf-8")
    assert "7b and 13b fit on 8 x A100-80GB" in text and "more than a year" in text
    for name in ("7b", "13b"):
        alone = DryRun(load_preset(name), 8)
        assert sum(alone.memory.values()) < 0.9 * GPUS[GPU].memory * 2**30 and alone.days > 365
    for name in ("33b", "65b"):
        with pytest.raises(ConfigError, match="processes"):
            DryRun(load_preset(name), 8).summary()


@pytest.mark.parametrize("name", SIZES)
def test_tensor_groups_stay_within_a_node(name: str) -> None:
    assert 8 % load_preset(name).parallel.tensor == 0


@pytest.mark.parametrize("name", SIZES)
def test_the_command_at_the_head_starts_that_preset(name: str) -> None:
    command = re.search(r"torchrun .*?--preset \S+", head_of(name).replace("\\ ", ""))
    words = get_args_parser().parse_args(shlex.split(command[0])[1:])
    assert words.module and words.training_script == "minillama.train"
    assert words.training_script_args == ["--preset", name]
    assert int(words.nnodes) * int(words.nproc_per_node) == preset_world(name)
    assert words.rdzv_backend == "c10d" and words.rdzv_endpoint


def test_the_batch_file_lists_the_nodes_of_each_preset() -> None:
    text = (FOLDER / "slurm" / "multi_node.sbatch").read_text(encoding="utf-8")
    listed = dict(re.findall(r"\b(\d+b) (\d+)\b", text))
    assert listed == {name: str(preset_world(name) // 8) for name in SIZES}
    assert f"#SBATCH --nodes={listed['65b']}\n" in text and "PRESET:-65b" in text


# Stand-ins for the commands of a cluster: they write down their arguments, and srun and torchrun
# wait for SIGTERM if asked to.
STAND_IN = """#!/usr/bin/env bash
printf '%q ' "$(basename "$0")" "$@" >> "$CALLS"; echo >> "$CALLS"
case "$(basename "$0")" in
scontrol) [ "$1" = show ] && printf 'node1\\nnode2\\n'; exit 0 ;;
srun) while [[ "$1" == --* ]]; do shift; done; exec "$@" ;;
torchrun)
    trap 'echo saved >> "$CALLS"; exit 143' TERM
    [ -z "${WAIT:-}" ] || while :; do sleep 0.05; done
    exit "${CODE:-0}" ;;
esac
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a job, with the stand-ins first on the PATH."""
    (tmp_path / "bin").mkdir()
    for name in ("srun", "scontrol", "torchrun"):
        (tmp_path / "bin" / name).write_text(STAND_IN)
        (tmp_path / "bin" / name).chmod(0o755)
    return {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_ID": "123456", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "64", "LOGS": str(tmp_path / "logs"),
    }  # fmt: skip


def calls(cluster: dict[str, str]) -> list[list[str]]:
    path = Path(cluster["CALLS"])
    return [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []


def submit(file: Path, cluster: dict[str, str], *flags: str) -> subprocess.Popen:
    return subprocess.Popen(["bash", str(file), *flags], env=cluster)


@pytest.mark.parametrize("file", BATCH_FILES, ids=lambda file: file.stem)
@pytest.mark.parametrize("preset", ["", "13b"], ids=["default", "13b"])
def test_batch_files_start_training(
    file: Path, preset: str, cluster: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun's own parser reads its options, and ``minillama train`` reads the rest."""
    environment = cluster | ({"PRESET": preset} if preset else {})
    assert submit(file, environment, "--name", "mine", "--tokens", "10_000_000_000").wait(20) == 0
    (started,) = [call for call in calls(cluster) if call[0] == "torchrun"]
    words = get_args_parser().parse_args(started[1:])
    assert words.module and words.training_script == "minillama.train"
    assert int(words.nproc_per_node) == 8 and words.log_dir == cluster["LOGS"]
    if file.stem == "multi_node":
        assert words.nnodes == "2" and words.rdzv_backend == "c10d"
        assert words.rdzv_endpoint == "node1:23456" and words.rdzv_id == "123456"
    else:
        assert words.standalone

    configs: list[TrainConfig] = []
    monkeypatch.setattr("minillama.scale.runtime.train_distributed", configs.append)
    main(["train", *words.training_script_args])
    default = "65b" if file.stem == "multi_node" else "7b"
    base = load_preset(preset or default)
    assert configs[0].parallel == base.parallel and configs[0].model == base.model
    assert (configs[0].name, configs[0].tokens) == ("mine", 10**10)


@pytest.mark.parametrize("file", BATCH_FILES, ids=lambda file: file.stem)
def test_preemption_is_passed_on_and_the_job_queued_again(
    file: Path, cluster: dict[str, str]
) -> None:
    job = submit(file, cluster | {"WAIT": "yes"})
    deadline = time.monotonic() + 20
    while [call[0] for call in calls(cluster)][-1:] != ["torchrun"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.2)  # both have set their traps
    job.send_signal(signal.SIGTERM)
    assert job.wait(20) == 143
    assert [" ".join(call) for call in calls(cluster)[-2:]] == ["saved", "scontrol requeue 123456"]


@pytest.mark.parametrize("file", BATCH_FILES, ids=lambda file: file.stem)
def test_a_failed_run_is_not_queued_again(file: Path, cluster: dict[str, str]) -> None:
    assert submit(file, cluster | {"CODE": "1"}).wait(20) == 1
    assert ["scontrol", "requeue", "123456"] not in calls(cluster)


@pytest.mark.parametrize("file", BATCH_FILES, ids=lambda file: file.stem)
def test_batch_files_ask_slurm_for_what_they_need(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    head, _, body = text.partition("set -euo pipefail")
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", head, re.MULTILINE))
    assert asked["signal"] == "B:TERM@120" and "requeue" in asked
    assert (asked["gpus-per-node"], asked["ntasks-per-node"]) == ("8", "1")
    assert "#SBATCH" not in body  # Slurm stops reading at the first command
    assert not re.search(r"(?<![\w.$}/-])/[a-z]\w+/", body.replace("/dev/null", ""))  # no paths
    assert subprocess.run(["bash", "-n", str(file)]).returncode == 0
    grace = re.search(r"SHUTDOWN_TIMEOUT:-(\d+)", text)
    assert int(grace[1]) < 120  # torchrun's patience ends before Slurm's
