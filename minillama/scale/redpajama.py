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

Every file becomes one part of the corpus, written whole or not at all: what is interrupted goes on
with the first file that is not there yet.
"""

import glob
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from tyro.conf import Positional

from minillama.corpus.document import Document, Dropped
from minillama.corpus.deduplicate import hash64
from minillama.corpus.language import WIKIPEDIA_LANGUAGES
from minillama.corpus.mixture import epochs, mixture
from minillama.corpus.pipeline import MIN_BYTES
from minillama.corpus.statistics import SPLITS, StepStats, merge, summary, table1
from minillama.corpus.token_files import TokenFile, write_tokens
from minillama.errors import ConfigError, DataError, nearest
from minillama.files import alone_in, atomic_path, read_json, remove, sha256, write_json
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
HELD_OUT = 1_000
"""One document in so many is held out."""
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
        paths = sorted((root / folder).rglob("*"))
        addresses = [str(path) for path in paths if path.name.endswith(ENDINGS) and path.is_file()]
        listed = root / "urls" / f"{folder}.txt"
        if not addresses and listed.exists():
            addresses = sorted(listed.read_text(encoding="utf-8").split())
        for number, address in enumerate(addresses):
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
        told = "`datasets` is not installed"
        raise ConfigError(told, "install minillama with its extra: minillama[redpajama]") from None
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # a folder is nobody's business
    file = address if "://" in address else glob.escape(str(Path(address).resolve()))
    rows = datasets.load_dataset(
        "text", data_files=[file], split="train", streaming=True, encoding="latin-1"
    )
    for row in rows:
        yield row["text"].encode("latin-1")


def torn_zstandard(address: str) -> bool:
    """Whether a file here ends inside a frame, which the reader of such files passes over."""
    if "://" in address or not address.endswith(".zst"):
        return False
    import zstandard

    frame = None
    with open(address, "rb") as file:
        while content := file.read(2**20):
            while content:
                frame = zstandard.ZstdDecompressor().decompressobj() if frame is None else frame
                try:
                    frame.decompress(content)
                except zstandard.ZstdError:
                    return True
                content = frame.unused_data
                frame = None if frame.eof else frame
    return frame is not None or not Path(address).stat().st_size


def documents(
    file: File, row: StepStats, lines: Iterator[bytes] | None = None
) -> Iterator[Document]:
    """The documents of one file, each with the number of its line as its place.

    Args:
        file: the file.
        row: counts what comes in and what is dropped, by reason; it grows.
        lines: the file's lines, if they are at hand.
    """
    torn = lines is None and torn_zstandard(file.address)
    lines = iter(stream(file.address) if lines is None else lines)
    number = 0
    while True:
        try:
            line = next(lines, None)
        except (OSError, EOFError, ValueError, RuntimeError) as error:
            row.drop(f"the file breaks off ({type(error).__name__})")
            return
        if line is None:
            row.drop("the file breaks off (zstandard)", int(torn))
            return
        number += 1
        row.enter(len(line))
        told = _parse(file, line)
        if isinstance(told, Dropped):
            row.drop(told.reason)
        else:
            document = Document(told, file.slice, SOURCE, f"{file.name}#{number}")
            row.leave(document.size)
            yield document


def _parse(file: File, line: bytes) -> str | Dropped:
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
    language, license = meta.get("language"), meta.get("license")
    if file.slice == "github" and license and not str(license).lower().startswith(LICENSES):
        return Dropped("another license")
    if file.slice == "wikipedia" and language not in WIKIPEDIA_LANGUAGES:
        return Dropped("another language")
    return text if len(text.encode()) >= MIN_BYTES else Dropped("too short")


def build_part(file: File, corpus: Path, model: bytes, held_out: int = HELD_OUT) -> Path:
    """Tokenize one file into ``tokens/<part>.<split>.*``; what is there already stays.

    Beside the tokens lie where each document is from, and last of all <part>.json, without which
    the part is not there. One document in ``held_out``, by a hash of its text, is in the split
    ``valid``.
    """
    tokens = corpus / "tokens"
    done = tokens / f"{file.part}.json"
    tokenizer, row = Tokenizer(model), StepStats("read")
    told = {"name": file.name, "tokenizer": hashlib.sha256(model).hexdigest(), "of": held_out,
            "size": file.size}  # fmt: skip
    if done.exists() and {k: v for k, v in read_json(done).items() if k in told} == told:
        return done
    done.unlink(missing_ok=True)
    held: list[Document] = []  # few: kept until the others are written

    def train(origins: Any) -> Iterator[tuple[list[int], int]]:
        for document in documents(file, row):
            if hash64(document.key) % held_out == 0:
                held.append(document)
            else:
                yield encoded(document, origins)

    def encoded(document: Document, origins: Any) -> tuple[list[int], int]:
        origin = {"source": SOURCE, "path": document.path, "id": document.key[:16]}
        origins.write(json.dumps(origin) + "\n")
        return tokenizer.encode(document.text, bos=True, eos=True), document.size

    for split in SPLITS:
        origin = corpus / "text" / f"{file.part}.{split}.jsonl"
        with atomic_path(origin) as aside, open(aside, "w", encoding="utf-8") as origins:
            ids = train(origins) if split == "train" else (encoded(d, origins) for d in held)
            write_tokens(tokens / f"{file.part}.{split}", ids, tokenizer.vocab_size)
    write_json(done, told | {"row": asdict(row)})
    return done


def join(corpus: Path, slice_name: str, parts: Sequence[str], split: str) -> TokenFile:
    """One token file of the shards of all parts, which stay where they are."""
    tokens = corpus / "tokens"
    index = tokens / f"{slice_name}.{split}.json"
    files = [TokenFile(tokens / f"{part}.{split}.json") for part in parts]
    told = [read_json(file.index) for file in files]
    starts = np.cumsum([0, *(file.tokens for file in files)])
    pieces = [file.offsets[:-1] + start for file, start in zip(files, starts, strict=False)]
    offsets = tokens / f"{slice_name}.{split}.offsets.npy"
    with atomic_path(offsets) as aside, open(aside, "wb") as out:
        np.save(out, np.concatenate([*pieces, starts[-1:]]).astype(np.int64))
    origins = corpus / "text" / f"{slice_name}.{split}.jsonl"
    with atomic_path(origins) as aside, open(aside, "wb") as out:
        for part in parts:
            with open(corpus / "text" / f"{part}.{split}.jsonl", "rb") as piece:
                shutil.copyfileobj(piece, out)
    whole = told[0] | {key: sum(each[key] for each in told)
                       for key in ("tokens", "documents", "bytes")}  # fmt: skip
    whole["shards"] = [shard for each in told for shard in each["shards"]]
    whole["offsets"] = {"file": offsets.name, "sha256": sha256(offsets)}
    write_json(index, whole)
    return TokenFile(index)


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
        held_out: one document in so many is kept for validation.
        budget: training tokens for which the table states the epochs.
        workers: files at a time.

    Raises:
        ConfigError: an unknown slice, or `datasets` is not installed.
        DataError: there are no files, or nothing in them.
    """
    for name in slices:
        if name not in FOLDERS.values():
            raise ConfigError(f"there is no slice '{name}'", nearest(name, FOLDERS.values()))
    if min(workers, budget, 1 if max_files is None else max_files) < 1 or held_out < 2:
        told = "workers, max_files and budget must be above 0, held_out above 1"
        raise ConfigError(told, "leave out what you are not sure of")
    by_slice: dict[str, list[File]] = {}
    for file in find_files(redpajama):
        if not slices or file.slice in slices:
            by_slice.setdefault(file.slice, []).append(file)
    by_slice = {name: list(islice(files, max_files)) for name, files in by_slice.items()}
    if absent := [name for name in slices if name not in by_slice]:
        raise DataError(f"{redpajama} has no files of {', '.join(absent)}", "leave them out")
    pieces = Tokenizer.load(tokenizer)
    with alone_in(corpus):
        return _build_full(
            redpajama, tokenizer, corpus, by_slice, pieces, held_out, budget, workers
        )


def _build_full(
    redpajama: Path, tokenizer: Path, corpus: Path, by_slice: dict[str, list[File]],
    pieces: Tokenizer, held_out: int, budget: int, workers: int,
) -> str:  # fmt: skip
    """Build a corpus in a folder where nobody else does."""
    (corpus / "manifest.json").unlink(missing_ok=True)  # first: what is left is no corpus
    for left in corpus.rglob(".*.tmp"):  # of a build that was killed
        remove(left)
    with atomic_path(corpus / "tokenizer.model") as aside:
        shutil.copy(tokenizer, aside)
    wanted = [file for files in by_slice.values() for file in files]
    jobs = [(file, corpus, pieces.model, held_out) for file in wanted]
    with pool(workers, "tokenize") as run:
        list(tqdm(run(build_part, *zip(*jobs, strict=True)), "tokenize", len(jobs), unit="file"))
    told, counts = {}, {}
    for name, files in by_slice.items():
        parts = [file.part for file in files]
        joined = {split: join(corpus, name, parts, split) for split in SPLITS}
        rows = merge(
            [StepStats(**read_json(corpus / "tokens" / f"{p}.json")["row"])] for p in parts
        )
        counts[name] = joined["train"].tokens
        told[name] = summary(rows) | {
            split: {"documents": f.n_documents, "bytes": f.n_bytes, "tokens": f.tokens}
            for split, f in joined.items()
        }
    weights = mixture(name for name, count in counts.items() if count)
    if not weights:
        raise DataError(f"{redpajama} has no document that can be kept", "look into its files")
    manifest = {
        "vocab_size": pieces.vocab_size,
        "tokenizer_sha256": sha256(corpus / "tokenizer.model"),
        "weights": weights,
        "epochs": epochs(weights, counts, budget),
        "sources": [SOURCE],
        "slices": {name: told[name] for name in weights},
        "left_out": {name: entry for name, entry in told.items() if name not in weights},
    }
    write_json(corpus / "manifest.json", manifest)
    return table1(manifest, budget)
