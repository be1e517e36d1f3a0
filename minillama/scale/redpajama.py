"""The full-size corpus: RedPajama-Data-1T, the open copy of the paper's seven slices.

Together Computer (2023) followed Section 2.1 slice by slice, 1.2T tokens in 2,084 files of JSON
lines, so that nothing has to be cleaned again: the files are streamed through Hugging Face
``datasets``, checked line by line and tokenized into shards. Their layout, as it is published::

    arxiv/arxiv_<uuid>.jsonl             github/filtered_<hash>.sampled.jsonl
    book/book.jsonl (withdrawn)          stackexchange/stackexchange.jsonl
    c4/c4-train.<number>-of-01024.jsonl  wikipedia/wiki.jsonl
    common_crawl/<dump>/en_<head|middle>_<number>.json.gz.dedup.classifier.jsonl.zst
    urls/<folder>.txt                    the same files on the web, one address a line

A line holds {"text": ..., "meta": {...}}; in common_crawl the classifier's findings stand beside
the text instead. A folder that has the files is read itself, else the addresses in ``urls``, which
is what Hugging Face keeps of the data set.

Every file becomes one part of the corpus (``parts``), written whole or not at all: what is
interrupted goes on with the first file that is not there yet.
"""

import glob
import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from tqdm import tqdm
from tyro.conf import Positional

from minillama.corpus.document import Document, Dropped
from minillama.corpus.language import WIKIPEDIA_LANGUAGES
from minillama.corpus.pipeline import MIN_BYTES
from minillama.corpus.statistics import StepStats, table1
from minillama.errors import ConfigError, DataError, nearest
from minillama.files import alone_in, atomic_path, read_json, remove, write_json
from minillama.scale.parts import HELD_OUT, join_corpus, write_part
from minillama.scale.pool import pool
from minillama.tokenizer import Tokenizer

FOLDERS = {
    "common_crawl": "commoncrawl", "c4": "c4", "github": "github", "wikipedia": "wikipedia",
    "book": "books", "arxiv": "arxiv", "stackexchange": "stackexchange",
}  # fmt: skip
"""RedPajama's names of the slices, and Table 1's."""
LICENSES = ("apache", "bsd", "mit")
"""How the names of the licenses begin that its files from GitHub may state."""
SOURCE = "RedPajama-Data-1T==1.0.0"
ENDINGS = (".jsonl", ".jsonl.zst", ".jsonl.gz")
MAX_LINE = 64 * 2**20
"""Characters of the longest line that is parsed."""
BUDGET = 1_400_000_000_000


@dataclass(frozen=True)
class File:
    """One file of the data set."""

    slice: str
    number: int
    """Its place among the slice's files, by name."""
    address: str
    """Where it is read."""
    name: str
    """Its path in the data set."""

    @property
    def size(self) -> int | None:
        """Bytes of a file that is here: one that was fetched again is read again."""
        return None if "://" in self.address else Path(self.address).stat().st_size

    @property
    def part(self) -> str:
        """The beginning of the names of what is made of it."""
        return f"{self.slice}.part{self.number:05d}"


def find_files(root: str | Path) -> list[File]:
    """All files of a folder in RedPajama's layout. Raises ``DataError`` if there are none."""
    root, found = Path(root), []
    for folder, name in FOLDERS.items():
        listed = root / "urls" / f"{folder}.txt"
        paths = (root / folder).rglob("*.jsonl*")
        addresses = [str(path) for path in paths if path.name.endswith(ENDINGS)]
        if not addresses and listed.exists():
            addresses = listed.read_text(encoding="utf-8").split()
        for number, address in enumerate(sorted(addresses)):
            inside = address[address.rfind(f"/{folder}/") + 1 :]
            found.append(File(name, number, address, inside))
    if not found:
        what = f"{root} has none of RedPajama's folders ({', '.join(FOLDERS)}) and no urls"
        raise DataError(what, "name the folder that holds them")
    return found


def stream(address: str) -> Iterator[bytes]:
    """The lines of a file, here or on the web, compressed or not, through ``datasets``.

    Lines and not JSON, because one bad line would end a JSON reader; and in Latin-1, which reads
    every byte as it is, because one bad byte would end a UTF-8 reader.
    """
    try:
        import datasets
    except ImportError:
        hint = "install minillama with its extra: minillama[redpajama]"
        raise ConfigError("`datasets` is not installed", hint) from None
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a folder is nobody's business
    file = address if "://" in address else glob.escape(str(Path(address).resolve()))
    rows = datasets.load_dataset(
        "text", data_files=[file], split="train", streaming=True, encoding="latin-1"
    )
    for row in rows:
        yield row["text"].encode("latin-1")
    if file.endswith(".zst") and is_torn(Path(address)):  # their reader passes over it
        raise EOFError("zstandard")


def is_torn(path: Path) -> bool:
    """Whether a zstandard file here ends inside a frame."""
    import zstandard

    frame = None
    with open(path, "rb") as file:
        while content := file.read(2**20):
            while content:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                try:
                    frame.decompress(content)
                except zstandard.ZstdError:
                    return True
                content = frame.unused_data
                frame = None if frame.eof else frame
    return frame is not None or not path.stat().st_size


def read_redpajama(file: File, stats: StepStats) -> Iterator[Document]:
    """The documents of one file, each with the number of its line as its place.

    Args:
        file: the file.
        stats: counts what comes in and what is dropped, by reason; it grows.
    """
    lines = enumerate(stream(file.address), start=1)
    while True:
        try:
            number, line = next(lines, (0, b""))
        except (OSError, EOFError, ValueError, RuntimeError) as error:
            stats.drop(f"the file breaks off ({type(error).__name__})")
            return
        if not number:
            return
        stats.enter(len(line))
        text = parse_line(file.slice, line)
        if isinstance(text, Dropped):
            stats.drop(text.reason)
            continue
        document = Document(text, file.slice, SOURCE, f"{file.name}#{number}")
        stats.leave(document.size)
        yield document


def parse_line(slice_name: str, line: bytes) -> str | Dropped:
    """The text of a line, or why there is none."""
    if len(line) > MAX_LINE:
        return Dropped("too long a line")
    try:
        record = json.loads(line)
        text, meta = record["text"], record.get("meta", {})
        meta = json.loads(meta) if isinstance(meta, str) else meta
        text = text.encode(errors="replace").decode()  # half of a surrogate pair is no character
    except UnicodeDecodeError:
        return Dropped("not UTF-8")
    except ValueError:
        return Dropped("not JSON")
    except (KeyError, TypeError, AttributeError, RecursionError):
        return Dropped("without a text")
    meta = meta if isinstance(meta, dict) else {}
    license = str(meta.get("license") or "mit").lower()
    if slice_name == "github" and not license.startswith(LICENSES):
        return Dropped("another license")
    if slice_name == "wikipedia" and meta.get("language") not in WIKIPEDIA_LANGUAGES:
        return Dropped("another language")
    return text if len(text.encode()) >= MIN_BYTES else Dropped("too short")


def build_part(file: File, corpus: Path, model: bytes, held_out: int = HELD_OUT) -> None:
    """Tokenize one file into a part of the corpus; what is there already stays."""
    done = corpus / "tokens" / f"{file.part}.json"
    digest = hashlib.sha256(model).hexdigest()
    made_of = {"name": file.name, "tokenizer": digest, "of": held_out, "size": file.size}
    if done.exists() and made_of.items() <= read_json(done).items():
        return
    done.unlink(missing_ok=True)
    stats = StepStats("read")
    write_part(corpus, file.part, read_redpajama(file, stats), Tokenizer(model), held_out)
    write_json(done, made_of | {"stats": asdict(stats)})


def build_full(
    redpajama: Positional[Path],
    tokenizer: Positional[Path],
    corpus: Path = Path("data/corpus/full"),
    slices: tuple[str, ...] = (),
    max_files: int | None = None,
    held_out: int = HELD_OUT,
    budget: int = BUDGET,
    workers: int = 2,
) -> str:
    """Tokenize RedPajama-Data-1T, the open copy of the paper's data, and print Table 1.

    Args:
        redpajama: a folder in its layout, with the files themselves or with urls/.
        tokenizer: a tokenizer.model; the paper's has 32,000 pieces.
        corpus: the corpus's folder.
        slices: only these of Table 1; all that are there by default.
        max_files: of each slice, only so many files.
        held_out: one document in so many is kept for validation, and one for the test.
        budget: training tokens for which the table states the epochs.
        workers: files at a time.

    Raises:
        ConfigError: an unknown slice, or `datasets` is not installed.
        DataError: there are no files, or nothing in them.
    """
    for name in slices:
        if name not in FOLDERS.values():
            raise ConfigError(f"there is no slice '{name}'", nearest(name, FOLDERS.values()))
    if min(workers, budget, 1 if max_files is None else max_files) < 1 or held_out < 3:
        what = "workers, max_files and budget must be above 0, held_out above 2"
        raise ConfigError(what, "leave out what you are not sure of")
    # The files of each slice.
    by_slice: dict[str, list[File]] = {}
    for file in find_files(redpajama):
        wanted = not slices or file.slice in slices
        if wanted and (max_files is None or file.number < max_files):
            by_slice.setdefault(file.slice, []).append(file)
    if absent := [name for name in slices if name not in by_slice]:
        raise DataError(f"{redpajama} has no files of {', '.join(absent)}", "leave them out")
    model = Tokenizer.load(tokenizer).model
    # What of them is not there yet, then the whole.
    with alone_in(corpus):
        (corpus / "manifest.json").unlink(missing_ok=True)  # first: what is left is no corpus
        for left in list(corpus.rglob(".*.tmp")):  # of a build that was killed
            remove(left)
        with atomic_path(corpus / "tokenizer.model") as tmp:
            shutil.copy(tokenizer, tmp)
        files = list(chain.from_iterable(by_slice.values()))
        build = partial(build_part, corpus=corpus, model=model, held_out=held_out)
        with pool(workers, "tokenize") as run:
            list(tqdm(run(build, files), "tokenize", len(files), unit="file"))
        parts = {name: [file.part for file in files] for name, files in by_slice.items()}
        manifest = join_corpus(corpus, parts, [SOURCE], budget)
    return table1(manifest, budget)
