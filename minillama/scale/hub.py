"""Any text data set of the Hugging Face hub, or a folder in its layouts, as a corpus to train on.

The data set is streamed through `datasets`, so that the disk only holds the tokens. Documents are
taken as they are, but for exact duplicates and those that repeat a benchmark. Every 20 million
tokens are a part of the corpus (``parts``); with it is written where the stream stood, so that a
run that was interrupted, or that asks for more tokens, goes on behind the last part.
"""

import glob
import hashlib
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, count
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tyro.conf import Positional

from minillama.corpus.contamination import Index, benchmark_index
from minillama.corpus.deduplicate import HashSet
from minillama.corpus.document import Document, no_surrogates, read_documents
from minillama.corpus.sources import DOWNLOADS, SOURCES
from minillama.corpus.statistics import StepStats, table1
from minillama.corpus.token_files import SPLITS
from minillama.errors import ConfigError, DataError, nearest
from minillama.files import alone_in, read_json, remove, write_json
from minillama.scale.parts import HELD_OUT, join_corpus, write_part
from minillama.tokenizer import Tokenizer, train_tokenizer

PART_TOKENS = 20_000_000
TOKENIZER_CHARACTERS = 20_000_000
"""Text at the beginning of the stream that a tokenizer is trained on."""
UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
READ_HINT = (
    "check the name, --config and --split; if the hub did not answer, run the same command again: "
    "it goes on"
)
BUILDERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
"""How `datasets` calls the readers of files."""


def parse_count(text: str) -> int:
    """The number in 1B, 2.5M, 300k or 5_000_000. Raises ``ConfigError`` for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMBT]?)", text.upper().replace("_", ""))
    number = float(found[1]) * UNITS[found[2]] if found else 0
    if number < 1:
        raise ConfigError(f"tokens = '{text}' is no number", "write 1B, 300M or 5_000_000")
    return round(number)


class HubStream:
    """The rows of a data set, in its order, from wherever they were left.

    Args:
        dataset: its name on the hub, or a folder.
        config: one of its configurations, or of the folder's subfolders.
        split: one of its splits.
        files: only these files of it (patterns).

    Raises:
        ConfigError: `datasets` is not installed, or the files are of an unknown kind.
        DataError: the data set, the configuration or the split is not there, or the hub is not.
    """

    def __init__(self, dataset: str, config: str, split: str, files: tuple[str, ...]) -> None:
        try:
            import datasets
            import huggingface_hub
        except ImportError:
            hint = "install minillama with its extra: minillama[hub]"
            raise ConfigError("`datasets` is not installed", hint) from None
        datasets.disable_progress_bars()  # one line of ours, and none of theirs
        datasets.utils.logging.set_verbosity_error()
        huggingface_hub.utils.logging.set_verbosity_error()
        self.dataset, self.rows_read = dataset, 0
        options = _builder_options(dataset, config, files)
        with self._errors_in_one_line():
            builder = datasets.load_dataset_builder(**options)
            if hasattr(builder.config, "sample_by"):
                builder.config.sample_by = "document"  # a text file, not each of its lines
            self._rows = builder.as_streaming_dataset(split=split)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rows = iter(self._rows)
        while True:
            with self._errors_in_one_line():
                row = next(rows, None)
            if row is None:
                return
            self.rows_read += 1
            yield row

    @contextmanager
    def _errors_in_one_line(self) -> Iterator[None]:
        """Whatever fails in other libraries, on the network or in a file, is one line."""
        try:
            yield
        except Exception as error:
            first_line = str(error).strip().split("\n")[0] or type(error).__name__
            what = f"{self.dataset} cannot be read: {first_line[:300]}"
            raise DataError(what, READ_HINT) from None

    @property
    def state(self) -> dict[str, Any]:
        """Where the stream stands, as JSON."""
        return {"rows": self.rows_read, "stream": self._rows.state_dict()}

    def go_on(self, state: dict[str, Any]) -> None:
        """Let the next iteration begin where a stream stood."""
        self.rows_read = state["rows"]
        self._rows.load_state_dict(state["stream"])


def _builder_options(dataset: str, config: str, files: tuple[str, ...]) -> dict[str, Any]:
    """What `datasets` is asked for."""
    folder = Path(dataset).resolve()
    if files:
        endings = [ending.lower() for ending in Path(files[0]).suffixes]
        kinds = [ending for ending in endings if ending in BUILDERS]
        if not kinds:
            raise ConfigError(f"'{files[0]}' is no {' '.join(BUILDERS)}", "name the ending")
        base = glob.escape(str(folder)) if folder.is_dir() else f"hf://datasets/{dataset}"
        return {"path": BUILDERS[kinds[-1]], "data_files": [f"{base}/{file}" for file in files]}
    if not folder.is_dir():
        return {"path": dataset, "name": config or None}
    if (folder / config).is_dir():
        return {"path": str(folder), "data_dir": config or None}
    return {"path": str(folder), "name": config}


def read_text_column(stream: HubStream, column: str, stats: StepStats) -> Iterator[tuple[int, str]]:
    """The rows' numbers and texts; rows without a text are counted and passed over.

    Raises:
        ConfigError: there is no such column.
    """
    for row in stream:
        if column not in row:
            what = f"{stream.dataset} has no column '{column}'"
            raise ConfigError(what, nearest(column, row))
        text = row[column] if isinstance(row[column], str) else ""
        stats.enter(len(text.encode(errors="replace")))
        if text.strip():
            yield stream.rows_read, no_surrogates(text)
        else:
            stats.drop("without a text")


@dataclass(frozen=True)
class HubSlice:
    """What is read, and as what."""

    dataset: str
    config: str
    split: str
    files: tuple[str, ...]
    column: str
    slice: str
    held_out: int

    @property
    def source(self) -> str:
        """The source that the documents name."""
        return " ".join(filter(None, [self.dataset, self.config, *self.files]))

    def documents(
        self, stream: HubStream, stats: StepStats, seen: HashSet, index: Index
    ) -> Iterator[Document]:
        """The documents that repeat no benchmark and no other document; ``seen`` grows.

        One run of words of a benchmark is enough: nobody can say yet in how many documents it
        stands.
        """
        for number, text in read_text_column(stream, self.column, stats):
            document = Document(text, self.slice, self.source, f"{self.split}#{number}")
            hits = index.hits(text)
            if hits:
                stats.drop(f"repeats {min(hits.values())}")
                continue
            [new] = seen.first_time([int(document.key[:16], 16)])
            if not new:
                stats.drop("exact duplicate")
                continue
            stats.leave(document.size)
            yield document


def build_hub(
    dataset: Positional[str],
    config: str = "",
    split: str = "train",
    column: str = "text",
    tokens: str = "1B",
    files: tuple[str, ...] = (),
    slice: str = "",
    corpus: Path | None = None,
    tokenizer: Path | None = None,
    vocab_size: int = 32_000,
    held_out: int = HELD_OUT,
    sources: Path = SOURCES,
    downloads: Path = DOWNLOADS,
) -> str:
    """Stream a data set of the Hugging Face hub, or a folder in its layouts, into a corpus.

    Args:
        dataset: its name, such as HuggingFaceFW/fineweb-edu, or a folder.
        config: its configuration, such as sample-10BT; of a folder also a subfolder.
        split: its split.
        column: the column that holds the text.
        tokens: stop at so many (1B, 300M, 5_000_000), held-out ones among them; run again with
            more to go on.
        files: read only these files of it, such as "*.jsonl.gz".
        slice: the slice of the corpus; by default the data set's name. With those of Table 1,
            several data sets make one corpus.
        corpus: the corpus's folder; by default data/corpus/ and the data set's name.
        tokenizer: a tokenizer.model; by default one is trained on the first of the text.
        vocab_size: its pieces.
        held_out: one document in so many is kept for validation.
        sources: the list of packages, for the benchmarks that are looked for.
        downloads: where they were fetched to.

    Raises:
        ConfigError: a setting or a column that is not there, or `datasets` is not installed.
        DataError: the data set cannot be read, or the folder holds another corpus.
    """
    budget = parse_count(tokens)
    name = re.sub(r"\W+", "_", Path(dataset).resolve().name).strip("_").lower()
    slice, corpus = slice or name, corpus or Path("data/corpus") / name
    if not re.fullmatch(r"\w+", slice) or held_out < 3:
        raise ConfigError(f"slice = '{slice}', held_out = {held_out}", "a word, and 3 or more")
    hub_slice = HubSlice(dataset, config, split, files, column, slice, held_out)
    stream = HubStream(dataset, config, split, files)
    with alone_in(corpus):
        if (corpus / "manifest.json").exists() and not find_parts(corpus):
            raise DataError(f"{corpus} is a corpus of another kind", "choose another --corpus")
        for left in list(corpus.rglob(".*.tmp")):  # of a run that was killed
            remove(left)
        model = prepare_tokenizer(corpus, tokenizer, stream, column, vocab_size)
        index = load_benchmarks(sources, downloads)
        write_slice(hub_slice, stream, corpus, model, index, budget)
        parts = find_parts(corpus)
        read = {read_json(corpus / "tokens" / f"{p[0]}.json")["source"] for p in parts.values()}
        (corpus / "manifest.json").unlink(missing_ok=True)  # until all parts are joined
        manifest = join_corpus(corpus, parts, sorted(read), budget)
    return table1(manifest, budget)


def find_parts(corpus: Path) -> dict[str, list[str]]:
    """The finished parts of every slice."""
    parts: dict[str, list[str]] = {}
    for path in sorted((corpus / "tokens").glob("*.part?????.json")):
        parts.setdefault(path.name.split(".")[0], []).append(path.stem)
    return parts


def prepare_tokenizer(
    corpus: Path, given: Path | None, stream: HubStream, column: str, vocab_size: int
) -> Tokenizer:
    """The corpus's tokenizer: the one that is there, or was given, or is trained on the stream.

    Raises:
        ConfigError: another one was given than the one that is there.
    """
    path = corpus / "tokenizer.model"
    if path.exists():
        present = Tokenizer.load(path)
        if given and Tokenizer.load(given).model != present.model:
            hint = "leave out --tokenizer, or choose another --corpus"
            raise ConfigError(f"{corpus} has another tokenizer than {given}", hint)
        return present
    if given:
        Tokenizer.load(given).save(path)
        return Tokenizer.load(path)
    start = stream.state
    texts = (text for _, text in read_text_column(stream, column, StepStats("sample")))
    trained = train_tokenizer(_limit(texts, TOKENIZER_CHARACTERS), path, vocab_size)
    stream.go_on(start)
    return trained


def _limit(texts: Iterable[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text
        characters -= len(text)
        if characters <= 0:
            return


def load_benchmarks(sources: Path, downloads: Path) -> Index:
    """The texts of all benchmarks; none, and a warning, where they were not fetched."""
    try:
        return benchmark_index(sources, downloads)
    except DataError as error:
        warnings.warn(f"documents are not compared with benchmarks: {error}", stacklevel=2)
        return Index()


def write_slice(
    hub_slice: HubSlice, stream: HubStream, corpus: Path, tokenizer: Tokenizer, index: Index,
    budget: int,
) -> None:  # fmt: skip
    """Write the parts that a slice still lacks for ``budget`` tokens.

    Raises:
        DataError: the parts that are there were read from elsewhere, or otherwise.
    """
    digest = hashlib.sha256(tokenizer.model).hexdigest()
    made_of = asdict(hub_slice) | {"files": list(hub_slice.files), "source": hub_slice.source}
    made_of |= {"tokenizer": digest, "benchmarks": sorted(index.examples)}

    # What is there.
    done = find_parts(corpus)
    reports = [read_json(corpus / "tokens" / f"{p}.json") for p in done.get(hub_slice.slice, ())]
    for report in reports:
        if not made_of.items() <= report.items():
            hint = "choose another --corpus or --slice, or delete the folder"
            raise DataError(f"{corpus} was made with other settings", hint)
    if reports:
        stream.go_on(reports[-1]["state"])
    total = sum(report["tokens"] for report in reports)
    ended = any(report["ended"] for report in reports)
    seen = HashSet()
    for part in chain.from_iterable(done.values()):
        seen.first_time(_read_keys(corpus, part))

    # What is not.
    numbers = count(len(reports))
    with tqdm(total=budget, initial=total, unit="token", unit_scale=True, desc="tokenize") as bar:
        while total < budget and not ended:
            part = f"{hub_slice.slice}.part{next(numbers):05d}"
            stats, wanted = StepStats("read"), min(PART_TOKENS, budget - total)
            documents = hub_slice.documents(stream, stats, seen, index)
            written = write_part(corpus, part, documents, tokenizer, hub_slice.held_out, wanted)
            ended = written < wanted
            report = made_of | {"tokens": written, "ended": ended, "state": stream.state}
            write_json(corpus / "tokens" / f"{part}.json", report | {"stats": asdict(stats)})
            total += written
            bar.update(written)


def _read_keys(corpus: Path, part: str) -> Iterator[int]:
    """The first 64 bits of the keys of a part's documents."""
    for split in SPLITS:
        for record in read_documents(corpus / "text" / f"{part}.{split}.jsonl"):
            yield int(record["id"], 16)
