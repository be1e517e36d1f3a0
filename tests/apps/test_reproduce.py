"""``make reproduce`` on a tiny ladder: it makes everything, once, and goes on where it was."""

import contextlib
import io
import json
import shutil

import pytest
from benchmarks import make_wheel
from tiny import make_corpus, tiny_config

from minillama import teach
from minillama.apps import cli, reproduce, samples
from minillama.config import ModelConfig
from minillama.train.config import read_config
from minillama.train.log import read_metrics

NAMES = [f"nano-{rung}" for rung in reproduce.RUNGS]
STEMS = ("data_waterfall", "figure1_loss_vs_tokens", "figure2_benchmarks", "figure2_perplexity")
FIGURES = [f"{stem}.{kind}" for stem in STEMS for kind in ("csv", "json", "png", "svg")]


def preset(name):
    """In place of a preset: 12 steps, with a context that holds the prompts of the samples."""
    model = ModelConfig(dim=16, n_layers=1 + NAMES.index(name) // 2, n_heads=2, vocab_size=320,
                        multiple_of=8, max_seq_len=256)  # fmt: skip
    return tiny_config("data/corpus/nano", "runs", name=name, model=model, seed=NAMES.index(name))


def make(folder, *options):
    """``minillama reproduce`` in a project folder; returns what it printed."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        patch.chdir(folder)
        patch.setattr(reproduce, "load_preset", preset)
        patch.setattr(samples, "MAX_NEW_TOKENS", 4)
        cli.run(["reproduce", "--questions", "4", *options])
    return out.getvalue()


def times(folder):
    """When each file of a project folder was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in files}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A project folder after the first call, and what that printed."""
    folder, aside = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("wheel") / "data"
    data = make_corpus(folder / "data", built=False).data
    package = make_wheel(aside)
    with open(data / "sources.toml", "a") as sources:
        sources.write(package["sources"].read_text())
    shutil.copytree(package["downloads"], data / "downloads", dirs_exist_ok=True)
    return folder, make(folder)


@pytest.fixture
def project(made, tmp_path):
    """The same folder to change; a copy keeps the times."""
    return shutil.copytree(made[0], tmp_path / "project")


def test_everything_is_made(made):
    folder, _ = made
    assert sorted(path.name for path in (folder / "figures").iterdir()) == FIGURES
    assert sorted(path.name for path in (folder / "runs").iterdir()) == [
        "nano-13b", "nano-33b", "nano-5gram.json", "nano-65b", "nano-7b",
        "nano-null.limit-4.json",
    ]  # fmt: skip
    for name in NAMES:
        assert [row["step"] for row in read_metrics(folder / "runs" / name)] == [*range(1, 13)]
        assert sorted(path.name for path in (folder / "runs" / name / "evaluations").iterdir()) == [
            "step-00000001.limit-4.json", "step-00000001.limit-4.jsonl",
            "step-00000012.limit-4.json", "step-00000012.limit-4.jsonl",
        ]  # fmt: skip
    told = json.loads((folder / "runs/nano-65b/samples.json").read_text())
    assert [sample["style"] for sample in told] == list(samples.PROMPTS)
    assert not (folder / "data/runs").exists()  # only if asked for


def test_the_summary_shows_every_model_and_three_5_grams(made):
    folder, printed = made
    [start] = [
        i for i, line in enumerate(printed.splitlines()) if "Validation bits per byte" in line
    ]
    rows = {line[:18].rstrip(): line[18:].split() for line in printed.splitlines()[start + 2 :]}
    counted = json.loads((folder / "runs/nano-5gram.json").read_text())
    expected = {
        "5-gram of bytes": counted["bytes"], "5-gram, all text": counted["all"],
        "5-gram, text read": counted["seen"],
    }  # fmt: skip
    for name in NAMES:
        last = read_metrics(folder / "runs" / name)[-1]
        expected[name] = {"bpb": last["valid_bpb"], "bpb_by_slice": last["valid_bpb_by_slice"]}
    for name, told in expected.items():
        values = [told["bpb"], *(told["bpb_by_slice"][s] for s in ("c4", "github", "books"))]
        assert rows[name] == [f"{value:.3f}" for value in values]
    assert len({tuple(rows[name]) for name in expected}) == 7


def test_the_second_call_does_nothing_again(project):
    before = times(project)
    printed = make(project)
    after = times(project)
    rewritten = {path for path in after if before.get(path) != after[path]}
    allowed = {
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
    assert lost | {f"figures/{name}" for name in FIGURES} <= redone  # drawn from the new run
    assert not {path for path in redone - lost if path.endswith((".jsonl", ".safetensors"))}
    assert not {path for path in redone - lost if "/evaluations/" in path}


def test_without_the_waterfall_the_figures_are_drawn_again(project, monkeypatch):
    monkeypatch.setattr(reproduce, "draw_figures", lambda **_: "drawn again")
    assert "drawn again" not in make(project)
    (project / "figures/data_waterfall.json").unlink()
    assert "drawn again" in make(project)


def test_lost_samples_are_written_again(project):
    before = times(project)
    (project / "runs/nano-65b/samples.json").unlink()
    assert "6 figures: figures is up to date" in make(project)
    after = times(project)
    assert set(after) == set(before)
    assert all(before[f"figures/{name}"] == after[f"figures/{name}"] for name in FIGURES)


def test_publishing_copies_what_notebook_06_reads(project, monkeypatch):
    old = project / "data/runs/nano-7b/evaluations/step-00099999.limit-2.json"
    old.parent.mkdir(parents=True)
    old.write_text("{}")  # of a longer run, published before
    make(project, "--publish-logs")
    monkeypatch.chdir(project)
    for name in NAMES:
        assert read_metrics(teach.published_run(name)) == read_metrics(project / "runs" / name)
        assert read_config(teach.published_run(name) / "config.toml") == preset(name)
    for file in ("nano-5gram.json", "nano-65b/samples.json"):
        assert teach.published_run(file).read_bytes() == (project / "runs" / file).read_bytes()
    copied = [path for path in (project / "data/runs").rglob("*") if path.is_file()]
    results = sorted((project / "runs").rglob("evaluations/*.json"))
    rows = [max((project / "runs" / name).glob("evaluations/*.jsonl"))
            for name in ("nano-7b", "nano-65b")]  # fmt: skip
    assert len(results) == 4 * 2 and len(copied) == 4 * 2 + 2 + len(results) + len(rows)
    for path in (*results, *rows):
        assert teach.published_run(path.relative_to(project / "runs")).exists()
