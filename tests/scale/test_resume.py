"""A build that was killed leaves no corpus, and goes on where it was."""

import os
import signal
import sys

import pytest
from tiny import make_corpus

from minillama.corpus.token_files import open_corpus
from minillama.errors import DataError
from minillama.files import sha256
from minillama.scale import build_corpus as build_module
from minillama.scale.clean import clean_slice


def run_and_kill_at(corpus, event_number):
    """Build in a forked process that dies at its n-th file operation; False if it had fewer."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL)
        return status == signal.SIGKILL
    count = 0

    def watch(event, arguments):
        nonlocal count
        of_files = event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
        if of_files and str(corpus.folder) in str(arguments[0]):
            count += 1
            if count == event_number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    try:
        corpus.build()
        os._exit(0)
    finally:
        os._exit(1)


def test_a_build_killed_at_any_file_operation_leaves_no_corpus_and_goes_on(tmp_path, tiny_corpus):
    """Each kill is further on than the one before, so every build begins where one was stopped."""
    corpus = make_corpus(tmp_path, built=False)
    killed, done = 0, set()
    for event_number in range(1, 400, 17):
        if not run_and_kill_at(corpus, event_number):
            break
        killed += 1
        with pytest.raises(DataError, match="holds no corpus"):
            open_corpus(corpus.folder)
        reports = {(p, p.stat().st_mtime_ns) for p in corpus.folder.glob("work/*/*.json")}
        assert done <= reports  # what was done is not done again
        done = reports
    assert killed >= 3 and len(done) == 6
    corpus.build()
    for path in tiny_corpus.folder.glob("tokens/*.bin"):
        assert sha256(path) == sha256(corpus.folder / "tokens" / path.name)
    assert not list(corpus.folder.rglob("*.tmp")) and not (corpus.folder / "work").exists()


def killed_at_books(build_dir, name, tasks):
    """In place of a job: memory runs out."""
    if name == "books":
        os.kill(os.getpid(), signal.SIGKILL)
    clean_slice(build_dir, name, tasks)


def test_a_killed_worker_is_one_line_and_leaves_no_corpus(tmp_path, monkeypatch):
    corpus = make_corpus(tmp_path, built=False)
    with monkeypatch.context() as patch:
        patch.setattr(build_module, "clean_slice", killed_at_books)
        with pytest.raises(DataError, match="a process was killed in the stage 'clean'.*un again"):
            corpus.build(workers=2)
    with pytest.raises(DataError, match="holds no corpus"):
        open_corpus(corpus.folder)
    corpus.build(workers=2)
    assert open_corpus(corpus.folder).slices == ["c4", "github", "books"]
