"""A corpus of the paper's size, 1.4T tokens, made of sparse files: memory and time do not grow.

The files have the size and form of real ones and take no room on the disk: all tokens are 0.
"""

import json
import os
import shutil

import numpy as np
import pytest
from tiny import ROOT, python

from minillama.corpus.token_files import SHARD_TOKENS
from minillama.files import sha256, write_json

TOKENS = 1_400_000_000_000
DOCUMENT = 1_000
"""Tokens in a document: 1.4 billion documents."""
TABLE_1 = {
    "commoncrawl": 0.67, "c4": 0.15, "github": 0.045, "wikipedia": 0.045, "books": 0.045,
    "arxiv": 0.025, "stackexchange": 0.02,
}  # fmt: skip
GIB = 2**30
MOST_MAPS = 100
"""Linux allows a process 65,530."""


def sparse(path, size, end=b""):
    """A file of ``size`` bytes, of which only the last are written."""
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.truncate(size)
        file.seek(size - len(end))
        file.write(end)


def write_offsets(path, documents, tokens):
    """Of many documents a sparse file: where they begin is asked of few; of few a whole one."""
    if documents < 10_000_000:
        np.save(path, np.arange(documents + 1, dtype=np.int64) * DOCUMENT)
        return
    header = {"descr": "<i8", "fortran_order": False, "shape": (documents + 1,)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        begin = file.tell()
    sparse(path, begin + 8 * (documents + 1), np.int64(tokens).tobytes())


def write_token_file(folder, stem, tokens):
    """Shards, offsets and index of one split of one slice."""
    documents = tokens // DOCUMENT
    tokens = documents * DOCUMENT
    shards = []
    for number, begin in enumerate(range(0, tokens, SHARD_TOKENS)):
        name, length = f"{stem}.{number:05d}.bin", min(SHARD_TOKENS, tokens - begin)
        sparse(folder / name, 2 * length)
        shards.append({"file": name, "tokens": length, "sha256": "0" * 64})
    write_offsets(folder / f"{stem}.offsets.npy", documents, tokens)
    write_json(folder / f"{stem}.json", {
        "dtype": "<u2", "documents": documents, "tokens": tokens, "bytes": 4 * tokens,
        "shards": shards, "offsets": {"file": f"{stem}.offsets.npy", "sha256": "0" * 64},
    })  # fmt: skip


@pytest.fixture(scope="module")
def trillion(tiny_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trillion")
    (folder / "tokens").mkdir()
    shutil.copy(tiny_corpus.folder / "tokenizer.model", folder)
    for name, share in TABLE_1.items():
        write_token_file(folder / "tokens", f"{name}.train", int(share * TOKENS))
        for split in ("valid", "test"):
            write_token_file(folder / "tokens", f"{name}.{split}", int(share * TOKENS / 1_000))
    digest = sha256(folder / "tokenizer.model")
    manifest = {"weights": TABLE_1, "tokenizer_sha256": digest, "vocab_size": 320}
    write_json(folder / "manifest.json", manifest)
    return folder


SCRIPT = """
import json, sys, time
from minillama.corpus.token_files import open_corpus
from minillama.train.dataloader import StatelessDataLoader
from minillama.train.validation import score

stages, folder = {}, sys.argv[1]

def measure(name, function):
    began = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - began
    # Not getrusage's peak, which a child inherits from the process that started it.
    [line] = [line for line in open("/proc/self/status") if line.startswith("VmHWM")]
    peak = 1024 * int(line.split()[1])
    maps = sum(folder in line for line in open("/proc/self/maps"))
    stages[name] = {"seconds": seconds, "peak": peak, "maps": maps}
    return result

corpus = measure("open", lambda: open_corpus(folder))
loader = StatelessDataLoader(corpus, 2048, 2048, seed=0)  # one of the 65B preset's 256 readers
first = measure("first batch", lambda: loader.batch(0, 3, 256))
late = measure("batch at step 300,000", lambda: loader.batch(299_999, 3, 256))
whole = measure("a whole batch", lambda: loader.batch(0))
result = measure("validation", lambda: score(corpus, lambda parts: -1.0, 2**19, 2048))
assert first.shape == late.shape == (8, 2049) and whole.shape == (2048, 2049)
assert set(result["loss_by_slice"]) == set(corpus.weights)
print(json.dumps(stages))
"""


def test_a_rank_needs_little_memory_and_time(trillion):
    done = python("-c", SCRIPT, str(trillion), env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert not done.returncode, done.stderr[-3_000:]
    stages = json.loads(done.stdout)
    assert len(stages) == 5
    for name, stage in stages.items():
        assert stage["peak"] < GIB, (name, stage)
        assert stage["maps"] < MOST_MAPS, (name, stage)
        assert stage["seconds"] < 5, (name, stage)  # less than one, if the machine is not busy


def test_the_corpus_is_as_large_as_it_says_and_takes_no_room(trillion):
    files = list((trillion / "tokens").glob("*.bin"))
    assert sum(file.stat().st_size for file in files) >= 2 * TOKENS * 0.999
    assert sum(512 * file.stat().st_blocks for file in files) < GIB / 10
    assert len(files) < 1_400
