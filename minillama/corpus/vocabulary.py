"""``minillama tokenizer``: train one on files or on a corpus, and look at what it does."""

from collections.abc import Iterator
from pathlib import Path

from tyro.conf import Positional

from minillama.corpus.document import read_documents
from minillama.corpus.text_files import EMPTY, UnreadableError, kind_of, read_text_file
from minillama.corpus.token_files import open_corpus
from minillama.errors import DataError
from minillama.tokenizer import Tokenizer, train_tokenizer

DEFAULT = Path("data/corpus/nano/tokenizer.model")


def sample(folder: Path, weights: dict[str, float], megabytes: float = 6.0) -> Iterator[str]:
    """Training text for the tokenizer: every slice by its share, as far as its text goes."""
    for name, weight in weights.items():
        wanted = weight * megabytes * 1e6
        for record in read_documents(folder / "text" / f"{name}.train.jsonl"):
            if wanted <= 0:
                break
            yield record["text"][: int(wanted)]
            wanted -= len(record["text"])


def read_texts(path: Path) -> Iterator[str]:
    """The texts of a file, of all .txt files below a folder, or of a built corpus by its shares.

    Raises:
        DataError: nothing is there, or a file cannot be read.
    """
    if (path / "manifest.json").exists():
        yield from sample(path, open_corpus(path).weights)
        return
    if not path.exists():
        raise DataError(f"{path} does not exist", "name a text file, a folder or a built corpus")
    below = sorted(file for file in path.rglob("*") if kind_of(file) == ".txt")
    for file in below if path.is_dir() else [path]:
        try:
            yield from (text for _, text in read_text_file(file))
        except UnreadableError as error:
            if error.reason != EMPTY:
                raise


def train(
    texts: Positional[tuple[Path, ...]],
    vocab_size: int = 32_000,
    out: Path = Path("tokenizer.model"),
) -> str:
    """Train a SentencePiece BPE tokenizer as in Section 2.1.

    Args:
        texts: text files, folders of .txt files, or built corpora (sampled by their mixture).
        vocab_size: pieces; the paper has 32,000.
        out: the file to write.

    Raises:
        DataError: no readable text, or too little for so many pieces.
    """
    if not texts:
        raise DataError("no texts were named", "name text files, a folder or a built corpus")
    lines = (text for path in texts for text in read_texts(path))
    tokenizer = train_tokenizer(lines, out, vocab_size)
    return f"{out}: {tokenizer.vocab_size:,} pieces"


def encode(
    text: Positional[str], tokenizer: Path = DEFAULT, bos: bool = False, eos: bool = False
) -> str:
    """Print the piece ids of a text.

    Args:
        text: any text.
        tokenizer: a tokenizer.model.
        bos: put the begin mark in front.
        eos: put the end mark behind.
    """
    return " ".join(map(str, Tokenizer.load(tokenizer).encode(text, bos=bos, eos=eos)))


def decode(ids: Positional[tuple[int, ...]], tokenizer: Path = DEFAULT) -> str:
    """Print the text of piece ids.

    Args:
        ids: as ``minillama tokenizer encode`` prints them.
        tokenizer: a tokenizer.model.
    """
    return Tokenizer.load(tokenizer).decode(ids)
