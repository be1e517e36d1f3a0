"""``make reproduce`` on a tiny ladder: it makes everything, once, and goes on where it was."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks import make_wheel
from tiny import ROOT, make_corpus
from tiny_ladder import NAMES, preset, run

from minillama import teach
from minillama.apps import reproduce, samples
from minillama.train import checkpoint
from minillama.train.config import read_config
from minillama.train.log import read_metrics
from minillama.train.loop import train

STEMS = (
    "data_waterfall",
    "figure1_loss_vs_tokens",
    "figure2_benchmarks",
    "figure2_perplexity",
    "overtaking",
)
STEPS = "150"
"""Of the runs that are stopped or killed."""
FIGURES = [f"{stem}.{kind}" for stem in STEMS for kind in ("csv", "json", "png", "svg")]


def make(folder, *options, lanes=1):
    """``minillama reproduce`` in a project folder; returns what it printed."""
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as out:
        run("reproduce", "--questions", "4", "--lanes", str(lanes), *options)
    return out.getvalue()


def times(folder):
    """When each file of a project folder was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


def losses(run):
    """What a run measured, without what the clock says."""
    return [(row["loss"], row["grad_norm"], row.get("valid_bpb")) for row in read_metrics(run)]


def assert_same_as_alone(project, name):
    """A run is bit for bit that of ``minillama train``."""
    alone = replace(preset(name), runs=str(project / "alone"))
    with contextlib.chdir(project):
        train(alone)
    run = project / "runs" / name
    assert losses(run) == losses(alone.run)
    last = f"checkpoints/step-{alone.total_steps:08d}/model.safetensors"
    assert (run / last).read_bytes() == (alone.run / last).read_bytes()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project folder after the first call, and what that printed."""
    folder, aside = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("wheel") / "data"
    data = make_corpus(folder / "data", built=False).data
    package = make_wheel(aside)
    with open(data / "sources.toml", "a") as sources:
        sources.write(package["sources"].read_text())
    shutil.copytree(package["downloads"], data / "downloads", dirs_exist_ok=True)
    return folder, make(folder, lanes=2)


@pytest.fixture
def project(made, tmp_path):
    """The same folder to change; a copy keeps the times."""
    return shutil.copytree(made[0], tmp_path / "project")


def test_everything_is_made(made):
    folder, _ = made
    assert sorted(path.name for path in (folder / "runs/figures").iterdir()) == FIGURES
    assert sorted(path.name for path in (folder / "runs").iterdir()) == [
        ".reproduce.lock", "figures", "nano-13b", "nano-33b", "nano-5gram.json", "nano-65b",
        "nano-7b", "nano-null.limit-4.json",
    ]  # fmt: skip
    for name in NAMES:
        assert [row["step"] for row in read_metrics(folder / "runs" / name)] == [*range(1, 13)]
        assert sorted(path.name for path in (folder / "runs" / name / "evaluations").iterdir()) == [
            "step-00000001.limit-4.json", "step-00000001.limit-4.jsonl",
            "step-00000012.limit-4.json", "step-00000012.limit-4.jsonl",
        ]  # fmt: skip
    told = json.loads((folder / "runs/nano-65b/samples.json").read_text())
    assert [sample["style"] for sample in told] == list(samples.PROMPTS)
    assert sorted(path.name for path in folder.iterdir()) == ["data", "runs"]
    assert not (folder / "data/runs").exists()  # only if asked for


def test_the_summary_shows_every_model_and_three_5_grams(made):
    folder, printed = made
    [start] = [i for i, line in enumerate(printed.splitlines()) if "Test bits per byte" in line]
    rows = {line[:18].rstrip(): line[18:].split() for line in printed.splitlines()[start + 2 :]}
    counted = json.loads((folder / "runs/nano-5gram.json").read_text())
    expected = {
        "5-gram of bytes": counted["bytes"]["test"],
        "5-gram, all text": counted["all"]["test"],
        "5-gram, text read": counted["seen"]["test"],
    }  # fmt: skip
    for name in NAMES:
        expected[name] = json.loads((folder / "runs" / name / "test.json").read_text())
    for name, told in expected.items():
        values = [told["bpb"], *(told["bpb_by_slice"][s] for s in ("c4", "github", "books"))]
        assert rows[name] == [f"{value:.3f}" for value in values]
    assert len({tuple(rows[name]) for name in expected}) == 7


def test_runs_in_lanes_are_those_of_one_thread(project):
    for name in (NAMES[0], NAMES[3]):
        assert_same_as_alone(project, name)


def test_a_table_shows_what_each_lane_did(made):
    _, printed = made
    lines = printed.splitlines()
    start = next(
        i for i, line in enumerate(lines) if line.split() == ["stage", "lane", "began", "took"]
    )
    rows = [line.rsplit(maxsplit=3) for line in lines[start + 1 :]]
    jobs = {f"{verb} {name}" for verb in ("train", "evaluate") for name in NAMES}
    jobs.add("count 5-grams")
    lanes = {name: lane for name, lane, _, _ in rows if name in jobs}
    assert set(lanes) == jobs and set(lanes.values()) == {"1", "2"}
    order = [row[0].split("  ")[0].strip() for row in rows]
    assert order[0] == "fetch" and order[1] == "build" and order[-1] == "samples"
    for name in NAMES:
        assert order.index(f"train {name}") < order.index(f"evaluate {name}")


def test_the_second_call_does_nothing_again(project):
    before = times(project)
    printed = make(project)
    after = times(project)
    rewritten = {path for path in after if before.get(path) != after[path]}
    allowed = {"runs/.reproduce.lock"} | {
        f"runs/{name}/{file}"
        for name in NAMES
        for file in ("config.toml", "tokenizer.model", "logs/rank-00000.log")
    }
    assert rewritten <= allowed and set(after) == set(before)
    assert printed.count("is complete (12 steps)") == 4 and printed.count("is up to date") == 2


def test_a_deleted_run_is_made_again(project):
    before = times(project)
    losses = [row["loss"] for row in read_metrics(project / "runs/nano-33b")]
    shutil.rmtree(project / "runs/nano-33b")
    assert make(project).count("is complete (12 steps)") == 3
    after = times(project)
    assert set(after) == set(before)
    assert [row["loss"] for row in read_metrics(project / "runs/nano-33b")] == losses
    redone = {path for path in after if before[path] != after[path]}
    lost = {path for path in before if path.startswith("runs/nano-33b/")}
    assert lost | {f"runs/figures/{name}" for name in FIGURES} <= redone  # drawn from the new run
    assert not {path for path in redone - lost if path.endswith((".jsonl", ".safetensors"))}
    assert not {path for path in redone - lost if "/evaluations/" in path}


def test_without_the_waterfall_the_figures_are_drawn_again(project, monkeypatch):
    monkeypatch.setattr(reproduce, "draw_figures", lambda **_: "drawn again")
    assert "drawn again" not in make(project)
    (project / "runs/figures/data_waterfall.json").unlink()
    assert "drawn again" in make(project)


def test_lost_samples_are_written_again(project):
    before = times(project)
    (project / "runs/nano-65b/samples.json").unlink()
    assert "figures: runs/figures is up to date" in make(project)
    after = times(project)
    assert set(after) == set(before)
    assert all(before[f"runs/figures/{name}"] == after[f"runs/figures/{name}"] for name in FIGURES)


def test_publishing_copies_what_notebook_06_reads(project, monkeypatch):
    old = project / "data/runs/nano-7b/evaluations/step-00099999.limit-2.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")  # of a longer run, published before
    make(project, "--publish")
    assert sorted(path.name for path in (project / "figures").iterdir()) == FIGURES
    monkeypatch.chdir(project)
    for name in NAMES:
        assert read_metrics(teach.published_run(name)) == read_metrics(project / "runs" / name)
        assert read_config(teach.published_run(name) / "config.toml") == replace(
            preset(name), threads=1
        )
    for file in ("nano-5gram.json", "nano-65b/samples.json"):
        assert teach.published_run(file).read_bytes() == (project / "runs" / file).read_bytes()
    copied = [path for path in (project / "data/runs").rglob("*") if path.is_file()]
    results = sorted((project / "runs").rglob("evaluations/*.json"))
    rows = [max((project / "runs" / name).glob("evaluations/*.jsonl"))
            for name in ("nano-7b", "nano-65b")]  # fmt: skip
    assert len(results) == 4 * 2 and len(copied) == 4 * 3 + 2 + len(results) + len(rows)
    for path in (*results, *rows):
        assert teach.published_run(path.relative_to(project / "runs")).exists()


def processes_in(folder):
    """The processes whose working folder it is."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "cwd").resolve() == folder and "Z (" not in (path / "status").read_text():
                found.append(int(path.name))
    return found


def wait_until(condition, seconds=120):
    """Look again and again; whether it came true."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.fixture
def started(project):
    """A ``reproduce`` in two lanes, in a process group of its own, as a shell gives it."""
    shutil.rmtree(project / "runs")
    path = os.pathsep.join(sys.path)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "tests/helpers/tiny_ladder.py")], cwd=project, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env=os.environ | {"TINY_STEPS": STEPS, "PYTHONPATH": path},
    )  # fmt: skip
    yield process
    for number in processes_in(project):
        os.kill(number, signal.SIGKILL)
    process.wait()


def both_train(project):
    """Whether the two largest models have taken a step."""
    logs = [project / "runs" / name / "metrics.jsonl" for name in NAMES[2:]]
    return all(map(Path.exists, logs))


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stop_leaves_no_process(project, started, number):
    assert wait_until(lambda: both_train(project))
    assert len(processes_in(project)) == 3
    if number == signal.SIGINT:
        os.killpg(started.pid, number)  # as Ctrl-C does
    else:
        started.send_signal(number)
    printed, _ = started.communicate(timeout=120)
    assert wait_until(lambda: not processes_in(project), 30)
    if number == signal.SIGKILL:
        return
    assert started.returncode == 128 + number
    assert printed.splitlines()[-1] == "error: stopped; run the same command to go on"
    assert "Traceback" not in printed
    for name in NAMES[2:]:  # the last step was saved
        folder = project / "runs" / name
        assert read_metrics(folder)[-1]["step"] == checkpoint.steps(folder)[-1]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc")
def test_a_killed_job_is_named_and_the_next_call_goes_on(project, started, monkeypatch):
    assert wait_until(lambda: both_train(project))
    with contextlib.redirect_stderr(io.StringIO()) as error, pytest.raises(SystemExit) as refused:
        make(project)
    assert refused.value.code == 1
    assert "another reproduce is at work in runs/reproduce" in error.getvalue()
    assert error.getvalue().count("\n") == 1

    victim = next(n for n in processes_in(project) if n != started.pid)
    os.kill(victim, signal.SIGKILL)
    printed, _ = started.communicate(timeout=120)
    *_, line = printed.splitlines()
    assert started.returncode == 1 and not processes_in(project)
    assert line.startswith("error: train nano-") and "killed by signal 9" in line
    assert "Traceback" not in printed

    monkeypatch.setenv("TINY_STEPS", STEPS)
    make(project)
    assert_same_as_alone(project, "nano-33b")
