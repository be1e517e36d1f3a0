"""datatrove's executors give what the built-in runner gives, byte for byte after sorting."""

import bz2
import json
import os
import stat
from itertools import chain, islice

import pytest
from tiny import ROOT

pytest.importorskip("datatrove")

import dill
import tyro
from datatrove.executor import RayPipelineExecutor, SlurmPipelineExecutor

from minillama.corpus.archive import read_members
from minillama.corpus.document import to_json
from minillama.corpus.pipeline import ExactDuplicates, ShortTexts, StepContext, load_documents, run
from minillama.corpus.recipes import RECIPES
from minillama.corpus.statistics import StepStats
from minillama.errors import ConfigError, DataError
from minillama.scale import datatrove, datatrove_steps
from minillama.scale.datatrove import Engine, find_parts, make_executors, run_datatrove
from minillama.scale.datatrove_steps import (
    BY_HASH,
    cut_stages,
    share,
)

PLACES = {"downloads": ROOT / "data" / "downloads", "sources": ROOT / "data" / "sources.toml"}
ALONE = Engine(tasks=3, workers=1)
SLURM = Engine("slurm", tasks=3, workers=2, partition="cpu", activate="source env/bin/activate")

C4_JOBS = sum(3 if isinstance(stage[0], BY_HASH) else 1 for stage in cut_stages(RECIPES["c4"]))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Some files of the pinned packages, as a crawl would lie there."""
    root = tmp_path_factory.mktemp("files")
    html = ["*/doc/faq/*.html", "*/doc/tutorial/*.html"]
    for name, archive, member, count in (
        ("html", "sqlalchemy-2.1.9", html, 16), ("rst", "django-5.2.19", ["*/docs/faq/*"], 7),
        ("howto", "django-5.2.19", ["*/docs/howto/*.txt"], 24),
    ):  # fmt: skip
        (root / name).mkdir()
        members = read_members(PLACES["downloads"] / f"{archive}.tar.gz", member)
        for path, content in islice(members, count):
            (root / name / path.split("/")[-1]).write_bytes(content)
    return root


@pytest.fixture(scope="module")
def wikipedia(folders):
    """Prose for the models by which pages are judged."""
    parts = find_parts("c4", StepContext(**PLACES), "nano", folders / "howto", "rst")
    path = folders / "wikipedia.jsonl"
    path.write_text("".join(map(to_json, everything(parts))))
    return path


def everything(parts):
    stats, context = StepStats("read"), StepContext(**PLACES)
    return chain.from_iterable(part.documents(context, stats) for part in parts)


def built_in(parts, steps, context):
    """Lines and waterfall of the built-in runner."""
    rows = []
    documents = run(steps, everything(parts), rows, context)
    return sorted(map(to_json, documents)), rows


def lines(folder):
    return sorted(chain.from_iterable(open(p, encoding="utf-8") for p in folder.glob("*.jsonl")))


def drops(output):
    """What datatrove's own statistics say was dropped, by stage and step."""
    found = {}
    for path in sorted(output.glob("logs/*/stats.json")):
        for step in json.loads(path.read_text()):
            if "STEP" not in step["name"]:
                continue
            counts = {
                key.removeprefix("dropped_"): value if isinstance(value, int) else value["total"]
                for key, value in step["stats"].items() if key.startswith("dropped_")
            }  # fmt: skip
            found.setdefault(step["name"].split(": ")[1], []).append(counts)
    return found


@pytest.mark.parametrize(
    ("name", "kind", "settings"),
    [("commoncrawl", "html", ALONE), ("c4", "rst", ALONE), ("c4", "rst", Engine(tasks=7))],
)
def test_the_same_as_the_built_in_runner(name, kind, settings, folders, wikipedia, tmp_path):
    context = StepContext(**PLACES, wikipedia=wikipedia if name == "commoncrawl" else None)
    parts = find_parts(name, context, "nano", folders / kind, kind)
    expected, rows = built_in(parts, RECIPES[name], context)
    told = run_datatrove(
        name, tmp_path, settings, folders / kind, kind, wikipedia=context.wikipedia, **PLACES
    )
    assert lines(tmp_path / "clean") == expected and len(expected) >= 2
    assert len(list((tmp_path / "clean").iterdir())) == len(parts) >= 7
    assert told.splitlines()[-1] == f"written: {tmp_path / 'clean'}"
    theirs = [counts for _, steps in sorted(drops(tmp_path).items()) for counts in steps]
    mine = [row.dropped for row in sorted(rows, key=lambda row: row.step.removesuffix(" again"))]
    assert theirs == mine and any(mine)
    assert not any(row.note.startswith("not run") for row in rows)


def test_packages_are_read_as_in_the_build(tmp_path):
    context = StepContext(**PLACES)
    parts = find_parts("stackexchange", context, "nano", None, "crawl")
    assert [task.source.name for task in parts] == ["chatterbot-corpus", "chitchat-dataset"]
    expected, _ = built_in(parts, RECIPES["stackexchange"], context)
    run_datatrove("stackexchange", tmp_path, ALONE, **PLACES)
    assert lines(tmp_path / "clean") == expected and len(expected) > 10


def test_stages_are_cut_where_order_begins_and_ends():
    names = [
        [type(step).__name__ for step in stage] for stage in cut_stages(RECIPES["commoncrawl"])
    ]
    assert names == [
        ["MaskPersonal", "ShortTexts"], ["RepeatedParts"], ["ShortTexts", "Languages"],
        ["PerplexityBuckets"], ["References"],
    ]  # fmt: skip
    assert cut_stages(()) == [()]
    for recipe in RECIPES.values():
        assert tuple(chain.from_iterable(cut_stages(recipe))) == recipe


@pytest.mark.parametrize(("count", "tasks"), [(7, 3), (3, 7), (1, 1), (1000, 13)])
def test_shares_are_neighbors_and_cover_all(count, tasks):
    shares = [list(share(count, rank, tasks)) for rank in range(tasks)]
    assert list(chain.from_iterable(shares)) == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_killed_task_leaves_nothing_half_written(folders, tmp_path, monkeypatch):
    """And the next run does that task only."""
    settings = (ALONE, folders / "rst", "rst")
    real, read = datatrove_steps.READERS["rst"], []

    def failing(members, skipped):
        for member in members:
            read.append(member[0])
            if len(read) == 5:
                raise KeyboardInterrupt
            yield from real([member], skipped)

    monkeypatch.setitem(datatrove_steps.READERS, "rst", failing)
    with pytest.raises(KeyboardInterrupt):
        run_datatrove("c4", tmp_path / "out", *settings, **PLACES)
    stage = tmp_path / "out" / "stage0"
    assert {p.name for p in stage.iterdir()} == {f"{i:05d}.jsonl" for i in range(4)}
    run_datatrove("c4", tmp_path / "out", *settings, **PLACES)
    assert len(read) == 5 + 3 and len(set(read)) == 7  # its two files and the last task's, of 7
    run_datatrove("c4", tmp_path / "whole", *settings, **PLACES)
    assert lines(tmp_path / "out" / "clean") == lines(tmp_path / "whole" / "clean")


def test_unreadable_files_are_counted(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "dump.xml.bz2").write_bytes(bz2.compress(b"<mediawiki>" * 9)[:-20])
    run_datatrove("wikipedia", tmp_path / "out", ALONE, folder, "wikipedia", **PLACES)
    assert lines(tmp_path / "out" / "clean") == []
    stats = json.loads((tmp_path / "out" / "logs" / "00-of-1-tasks" / "stats.json").read_text())
    assert [key for key in stats[0]["stats"] if key.startswith("dropped_")] == [
        "dropped_cut short (EOFError)"
    ]


def stub(folder, name, script):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_slurm_by_the_same_settings(folders, tmp_path, monkeypatch):
    """A stand-in for sbatch keeps the scripts; the pickled stages are then run as Slurm would."""
    stub(tmp_path / "bin", "sbatch",
         f'n=$(($(ls {tmp_path}/bin | wc -l) + 1000))\neval last=\\${{$#}}\n'
         f'echo "$@" > {tmp_path}/bin/job$n; cat "$last" >> {tmp_path}/bin/job$n\n'
         'echo Submitted batch job $n')  # fmt: skip
    stub(tmp_path / "bin", "scontrol", "echo node1")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    output = tmp_path / "out"
    told = run_datatrove("c4", output, SLURM, folders / "rst", "rst", **PLACES)
    assert "handed to Slurm" in told and not (output / "clean").exists()
    jobs = [path.read_text() for path in sorted((tmp_path / "bin").glob("job*"))]
    made = [job for job in jobs if "launch_pickled_pipeline" in job]
    assert len(made) == C4_JOBS
    for job in made:
        assert "#SBATCH --array=0-2%2" in job and "#SBATCH --partition=cpu" in job
        assert "#SBATCH --mem-per-cpu=4G" in job and "\nsource env/bin/activate\n" in job
    assert "--dependency" not in made[0].split("\n")[0]
    for job in made[1:]:
        assert "--dependency=afterok:" in job.split("\n")[0]
    monkeypatch.setenv("SLURM_NODELIST", "node1")
    for logs in sorted((output / "logs").iterdir()):
        for rank in range(int(logs.name.split("-")[2])):
            monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(rank))
            with open(logs / "executor.pik", "rb") as file:
                dill.load(file).run()
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")
    run_datatrove("c4", tmp_path / "local", ALONE, folders / "rst", "rst", **PLACES)
    assert lines(output / "clean") == lines(tmp_path / "local" / "clean") != []


def test_a_dry_run_shows_the_scripts(folders, tmp_path):
    told = run_datatrove("c4", tmp_path, SLURM, folders / "rst", "rst", dry_run=True, **PLACES)
    assert told.count("#!/bin/bash") == C4_JOBS and told.startswith(
        "3 tasks: minillama's documents, "
    )
    assert told.count("launch_pickled_pipeline") == C4_JOBS
    assert not (tmp_path / "plan.json").exists()


def test_the_command_line_takes_the_same_settings(folders, tmp_path):
    flags = ["--executor", "slurm", "--partition", "cpu", "--tasks", "3", "--workers", "2"]
    place = ["--folder", str(folders / "rst"), "--reader", "rst", "--dry-run"]
    place += [f"--{name}={path}" for name, path in PLACES.items()]
    told = tyro.cli(run_datatrove, args=["c4", str(tmp_path), *flags, *place])
    assert "#SBATCH --partition=cpu" in told and "#SBATCH --array=0-2%2" in told


def test_ray_by_the_same_settings(folders, tmp_path):
    context = StepContext(**PLACES)
    parts = find_parts("c4", context, "nano", folders / "rst", "rst")
    made = make_executors(
        parts, RECIPES["c4"], context, tmp_path, Engine("ray", tasks=3, memory_gb=8)
    )
    assert all(isinstance(stage, RayPipelineExecutor) for stage in made)
    assert [stage.tasks for stage in made] == [3] * C4_JOBS and made[0].mem_per_cpu_gb == 8
    assert [stage.depends for stage in made] == [None, *made[:-1]]
    books = make_executors(parts, RECIPES["books"], context, tmp_path, Engine("ray", tasks=3))
    assert [stage.tasks for stage in books] == [3, 1]
    slurm = make_executors(parts, RECIPES["c4"], context, tmp_path, SLURM)
    assert all(isinstance(stage, SlurmPipelineExecutor) for stage in slurm)
    names = [[[step.name for step in stage.pipeline] for stage in each] for each in (made, slurm)]
    assert names[0] == names[1]


def test_engines_that_are_not_there(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no sbatch"):
        run_datatrove("c4", tmp_path / "a", SLURM, folders / "rst", "rst", **PLACES)
    monkeypatch.setattr(datatrove.importlib.util, "find_spec", lambda name: name != "ray" or None)
    with pytest.raises(ConfigError, match="Ray is not installed"):
        run_datatrove("c4", tmp_path / "a", Engine("ray"), folders / "rst", "rst", **PLACES)
    monkeypatch.setattr(datatrove.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"Install minillama with its extra"):
        run_datatrove("c4", tmp_path / "a", ALONE, folders / "rst", "rst", **PLACES)
    assert not (tmp_path / "a" / "plan.json").exists()


def test_wrong_settings(folders, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'books'"):
        run_datatrove("book", tmp_path, **PLACES)
    with pytest.raises(ConfigError, match="no reader"):
        run_datatrove("c4", tmp_path, folder=folders / "rst", reader="rest", **PLACES)
    with pytest.raises(ConfigError, match="needs a partition"):
        Engine("slurm")
    with pytest.raises(ConfigError, match="above 0"):
        Engine(tasks=0)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file to read"):
        run_datatrove("c4", tmp_path, folder=tmp_path / "empty", **PLACES)
    run_datatrove("arxiv", tmp_path / "out", ALONE, folders / "rst", "rst", **PLACES)
    with pytest.raises(DataError, match="other settings"):
        run_datatrove("c4", tmp_path / "out", ALONE, folders / "rst", "rst", **PLACES)


def test_parts_without_a_document_are_there_too(folders, tmp_path):
    context = StepContext(**PLACES)
    parts = find_parts("arxiv", context, "nano", folders / "rst", "rst")
    steps = (ShortTexts(10**9), ExactDuplicates())
    make_executors(parts, steps, context, tmp_path, ALONE)[-1].run()
    parts = sorted((tmp_path / "clean").iterdir())
    assert len(parts) == 7 and not any(list(load_documents(part)) for part in parts)
