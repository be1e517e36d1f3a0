"""Memory does not grow with the corpus: documents pass through, they are not gathered."""

import json

import numpy as np
from tiny import WORDS, python, wheel, write_sources

PROGRAM = """
import json, sys
from pathlib import Path
from minillama.scale.build_corpus import build
data = Path(sys.argv[1])
build(name="big", vocab_size=320, slice_mb=0.5, data=data, sources=data / "sources.toml",
      downloads=data / "downloads", workers=1)
told = json.loads((data / "corpus/big/manifest.json").read_text())["slices"]
status = Path("/proc/self/status").read_text()  # getrusage counts the parent's memory too
print(json.dumps([told["commoncrawl"]["bytes_in"], int(status.split("VmHWM:")[1].split()[0])]))
"""


def peak(data, megabytes):
    """Bytes in, and the most memory (KiB) that a build of so much text ever held."""
    (data / "downloads").mkdir(parents=True)
    words = np.random.default_rng(0).choice(WORDS, int(megabytes * 2.6e5))
    lines = [" ".join(line) for line in words[: len(words) // 10 * 10].reshape(-1, 10)]
    files = {f"p/{i:05}.txt": "\n".join(lines[i : i + 200]) for i in range(0, len(lines), 200)}
    package = wheel(data / "downloads" / "web-1.0-py3-none-any.whl", files)
    write_sources(data / "sources.toml", [(package, "commoncrawl", "gutenberg")])
    done = python("-c", PROGRAM, str(data))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_ten_times_the_input_in_the_same_memory(tmp_path):
    small, little = peak(tmp_path / "small", 1.25)
    large, much = peak(tmp_path / "large", 12.5)
    assert 9.5 * small < large and large > 12e6
    assert much < 1.3 * little and 1024 * (much - little) < large  # not even the bytes themselves
