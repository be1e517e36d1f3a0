"""Small inputs in the real formats, and the corpus and configurations made of them."""

import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minillama.config import ModelConfig
from minillama.files import sha256
from minillama.scale.build_corpus import build
from minillama.scale.user_texts import add_texts
from minillama.train.config import TrainConfig
from minillama.train.optimizer import OptimizerConfig

ROOT = Path(__file__).parents[2]
STORY = """
    the old miller walked along river and found a small boat under green willow while rain
    fell on quiet hills; nobody knew why lamp in his window burned all night, but every child
    of village said it was for sailors who had lost their way home
"""
WORDS = STORY.split()


def prose(seed: int, words: int = 120) -> str:
    """Sentences of our own few words, different for every seed."""
    rng = np.random.default_rng(seed)
    sentences = []
    while words > 0:
        length = int(rng.integers(5, 12))
        sentences.append(" ".join(rng.choice(WORDS, length)).capitalize() + ".")
        words -= length
    return " ".join(sentences)


def code(seed: int) -> str:
    """A Python source file."""
    names = np.random.default_rng(seed).choice(WORDS, 8)
    return "".join(
        f"def {name.strip(';,')}_{i}(value):\n    '''Add {i} to the value.'''\n"
        f"    return value + {i}\n\n"
        for i, name in enumerate(names)
    )


MIT = "Permission is hereby granted, free of charge, to any person, to deal without restriction"
"""The words by which the license is known."""


def sdist(path: Path, files: dict[str, str | bytes]) -> Path:
    """A .tar.gz with these files."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def wheel(path: Path, files: dict[str, str | bytes]) -> Path:
    """A .whl with these files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def write_sources(path: Path, packages: list[tuple[Path, str, str]]) -> Path:
    """A sources.toml for archives named NAME-VERSION..., given as (file, slice, reader)."""
    tables = []
    for file, slice_name, reader in packages:
        name, version = file.name.removesuffix(".tar.gz").removesuffix(".whl").split("-")[:2]
        kind = "wheel" if file.suffix == ".whl" else "sdist"
        tables.append(
            f'[[source]]\nname = "{name}"\nversion = "{version}"\nformat = "{kind}"\n'
            f'sha256 = "{sha256(file)}"\nlicense = "our own words"\n[[source.slices]]\n'
            f'slice = "{slice_name}"\nreader = "{reader}"\nmembers = ["*"]\n'
        )
    path.write_text("\n".join(tables), encoding="utf-8")
    return path


@dataclass(frozen=True)
class TinyCorpus:
    """A data folder, and how it was built."""

    data: Path

    @property
    def folder(self) -> Path:
        """The built corpus."""
        return self.data / "corpus" / "tiny"

    def add(self, texts: dict[str, str | bytes]) -> str:
        """Add texts of the user's own, in place of those that were added before."""
        folder = self.data / "mine"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, text in texts.items():
            (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
        return add_texts((folder,), data=self.data)

    def build(self, **changes: object) -> str:
        """Build it (again)."""
        settings = {
            "name": "tiny", "vocab_size": 320, "slice_mb": 1.0, "budget": 10_000,
            "data": self.data, "sources": self.data / "sources.toml",
            "downloads": self.data / "downloads", "workers": 1,
        } | changes  # fmt: skip
        return build(**settings)


def make_corpus(data: Path, documents: int = 30, built: bool = True) -> TinyCorpus:
    """Three packages: books, code and pages of documentation."""
    downloads = data / "downloads"
    downloads.mkdir(parents=True)
    packages = [
        (sdist(downloads / "tales-1.0.tar.gz",
               {f"tales-1.0/{i:02}.txt": prose(i) for i in range(documents)}),
         "books", "gutenberg"),
        (wheel(downloads / "tools-2.0-py3-none-any.whl",
               {f"tools/{i:02}.py": code(100 + i) for i in range(documents)}
               | {"tools/LICENSE": MIT}), "github", "python"),
        (sdist(downloads / "guide-3.0.tar.gz",
               {f"guide-3.0/{i:02}.rst": prose(200 + i) for i in range(documents)}), "c4", "rst"),
    ]  # fmt: skip
    write_sources(data / "sources.toml", packages)
    corpus = TinyCorpus(data)
    if built:
        corpus.build()
    return corpus


def tiny_config(corpus: Path, runs: Path, **changes: object) -> TrainConfig:
    """A run of 12 steps of 8 sequences of 16 tokens, a second or less."""
    settings = {
        "model": ModelConfig(dim=16, n_layers=2, n_heads=2, vocab_size=320, multiple_of=8,
                             max_seq_len=32),
        "optimizer": OptimizerConfig(lr=1e-2, warmup_steps=3),
        "corpus": str(corpus), "runs": str(runs), "name": "run", "tokens": 12 * 128,
        "batch_tokens": 128, "seq_len": 16, "micro_batch": 8, "eval_every": 6, "eval_tokens": 64,
        "save_every": 3, "milestones": 2, "device": "cpu", "threads": 1,
    } | changes  # fmt: skip
    return TrainConfig(**settings)


def python(*arguments: str, timeout: float = 120, **options: object) -> subprocess.CompletedProcess:
    """Run this Python with these arguments; output as text."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, **options)
