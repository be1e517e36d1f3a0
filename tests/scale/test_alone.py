"""One build at a time in a folder; workers that end with their build; traces of single tokens."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from tiny import ROOT, TinyCorpus, make_corpus, python

from minillama.corpus import contamination, token_files
from minillama.corpus.document import read_documents
from minillama.corpus.token_files import open_corpus
from minillama.corpus.trace import trace
from minillama.errors import ConfigError, DataError
from minillama.evaluate.tasks import TASKS
from minillama.files import alone_in
from minillama.scale import build_corpus


def held_elsewhere(folder):
    """Another process that holds the folder."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom pathlib import Path\n"
        "from minillama.files import alone_in\n"
        f"with alone_in(Path({str(folder)!r})):\n    print('held', flush=True)\n    input()\n"
    )
    command = [sys.executable, "-c", code]
    other = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    return other


def test_two_builds_in_one_folder(tmp_path):
    corpus = make_corpus(tmp_path, built=False)
    other = held_elsewhere(corpus.folder)
    with pytest.raises(DataError, match="another build is at work"):
        corpus.build()
    assert not corpus.folder.exists()
    with alone_in(corpus.folder.with_name("other")):
        pass
    other.kill()  # the lock goes with it
    other.wait()
    assert corpus.build() and open_corpus(corpus.folder)


def gone(process):
    """Whether a process has ended, waited for or not."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


START_METHODS = ("fork", "spawn", "forkserver")


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="no /proc")
@pytest.mark.parametrize("method", START_METHODS)
def test_workers_of_a_killed_build_end(method):
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nimport multiprocessing, time\n"
        f"multiprocessing.set_start_method({method!r})\n"
        "from minillama.scale.pool import pool\n"
        "with pool(2, 'x') as run:\n"
        "    for number in run(eval, ['__import__(\"os\").getpid()'] * 2):\n"
        "        print(number, flush=True)\n    time.sleep(60)\n"
    )
    build = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    workers = {int(build.stdout.readline()) for _ in range(2)}
    assert not any(map(gone, workers))
    build.kill()
    build.wait()
    end = time.monotonic() + 30
    while not all(map(gone, workers)) and time.monotonic() < end:
        time.sleep(0.1)
    left = [worker for worker in workers if not gone(worker)]
    for worker in left:
        os.kill(worker, signal.SIGKILL)
    assert not left


@pytest.mark.parametrize("method", START_METHODS)
def test_a_build_of_several_processes_is_the_same_however_they_start(tmp_path, method):
    corpus = make_corpus(tmp_path / "a", documents=10, built=False)
    multiprocessing.set_start_method(method, force=True)
    try:
        corpus.build(workers=2)
    finally:
        multiprocessing.set_start_method(None, force=True)
    alone = make_corpus(tmp_path / "b", documents=10)
    assert open_corpus(corpus.folder).fingerprint == open_corpus(alone.folder).fingerprint


@pytest.fixture(scope="module")
def in_shards(tmp_path_factory):
    """A corpus whose slices have several shards each."""
    patch = pytest.MonkeyPatch()
    patch.setattr(token_files, "SHARD_TOKENS", 3_000)
    corpus = make_corpus(tmp_path_factory.mktemp("shards"), documents=20)
    patch.undo()
    return corpus


def test_first_and_last_tokens_of_documents_and_shards_are_traced(in_shards: TinyCorpus):
    opened = open_corpus(in_shards.folder)
    file, name = opened.train["books"], "books.train"
    told = list(read_documents(in_shards.folder / "text" / f"{name}.jsonl"))
    starts = [file.shard_range(shard["file"])[0] for shard in file.contents["shards"]]
    starts.append(file.tokens)
    assert len(starts) >= 4 and len(told) == file.n_documents
    for number, record in enumerate(told):
        first, last = int(file.offsets[number]), int(file.offsets[number + 1]) - 1
        for at in (first, last):
            line = f"{record['source']}  {record['path']}\ndocument {number} ({record['id']}), "
            expected = trace(in_shards.folder, "books", at)
            assert expected.startswith(f"{line}token {at - first}: ")
            shard = max(i for i, start in enumerate(starts[:-1]) if start <= at)
            place = in_shards.folder / "tokens" / f"{name}.{shard:05d}.bin:{at - starts[shard]}"
            assert trace(place) == expected
    ends = [(i, end - starts[i] - 1) for i, end in enumerate(starts[1:])]
    for shard, last in ends:
        place = in_shards.folder / "tokens" / f"{name}.{shard:05d}.bin"
        assert trace(place.with_name(f"{place.name}:{last}")).endswith("''")  # </s>
        with pytest.raises(DataError, match=f"has {last + 1} tokens, not {last + 1}"):
            trace(place.with_name(f"{place.name}:{last + 1}"))


def test_traces_of_what_is_not_there(in_shards: TinyCorpus, tmp_path):
    tokens = in_shards.folder / "tokens"
    for place, told in (
        (in_shards.folder, r"no SHARD:OFFSET"),
        (tokens / "books.train.00000.bin", r"no SHARD:OFFSET"),
        (tokens / "books.train.00099.bin:0", "has no shard books.train.00099.bin"),
        (tokens / "tales.train.00000.bin:0", "tales.train.json does not exist"),
        (tmp_path / "books.train.00000.bin:0", "does not exist"),
    ):
        with pytest.raises(DataError, match=told):
            trace(place)
    with pytest.raises(DataError, match="number is missing"):
        trace(in_shards.folder, "books")
    corpus = make_corpus(tmp_path / "x")
    path = corpus.folder / "text" / "books.train.jsonl"
    path.write_text(path.read_text().split("\n")[0] + "\n")
    last = open_corpus(corpus.folder).train["books"].tokens - 1
    with pytest.raises(DataError, match="have no document"):
        trace(corpus.folder, "books", last)


@pytest.mark.parametrize(
    "change", [{"slice_mb": float("nan")}, {"slice_mb": float("inf")}, {"budget": 0}]
)
def test_numbers_that_are_none(tmp_path, change):
    corpus = make_corpus(tmp_path, built=False)
    with pytest.raises(ConfigError, match="above 0 and finite"):
        corpus.build(**change)
    assert not corpus.folder.exists()


def test_every_benchmark_of_the_evaluation_is_looked_for():
    looked_for = {task.removesuffix("_easy").removesuffix("_challenge") for task in TASKS}
    looked_for = {"race" if name.startswith("race_") else name for name in looked_for}
    looked_for -= {"minimal_pairs"}  # ours, made from lists of words
    assert looked_for == set(contamination.ALL_BENCHMARKS)


def test_benchmarks_that_could_not_be_looked_for_are_named():
    manifest = {"benchmarks": {name: 5 for name in contamination.ALL_BENCHMARKS if name != "race"},
                "weights": {}, "slices": {}, "left_out": {}, "packages": []}  # fmt: skip
    assert build_corpus.describe(manifest, 10).endswith(
        "not checked against, as they are not here: race"
    )
    manifest["benchmarks"]["race"] = 1
    assert "not checked against" not in build_corpus.describe(manifest, 10)


def test_folders_that_cannot_be_made_are_one_line(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone" / "further")
    (tmp_path / "file").write_text("")
    for place in ("link", "file", "file/below"):
        done = python(
            "-m", "minillama", "data", "fetch", "--downloads", str(tmp_path / place), cwd=ROOT
        )
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("error: ") and "Check the path" in done.stderr
