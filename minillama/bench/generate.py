"""Speed of generation: alone, in a batch and in 8 bits, beside transformers and llama2.c.

All contestants read the same weights and write greedily, in turn. The limit is that of memory:
every weight but the embeddings is read once for a token, or for a token of every sequence, at the
machine's bytes a second. Weights that stay in the processor's cache may exceed it.
"""

import re
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from minillama.analysis.inference_budget import measure_machine
from minillama.bench.race import Columns, Timed, race, table_of
from minillama.bench.train import build_huggingface
from minillama.config import ModelConfig
from minillama.errors import ConfigError, DataError
from minillama.inference import Decoder, Sampling, generate_tokens
from minillama.inference.quantize import quantized
from minillama.interop import formats, huggingface
from minillama.interop.llama2c import save as save_llama2c
from minillama.interop.vocabulary import Kind, Piece, tokenizer_of
from minillama.model import Llama
from minillama.tokenizer import SPACE, Tokenizer
from minillama.train.allocator import keep_freed_memory
from minillama.train.checkpoint import load_model

CONFIG = ModelConfig(
    dim=288, n_layers=6, n_heads=6, vocab_size=32_000, multiple_of=32, max_seq_len=256
)
"""The shape of llama2.c's stories15M: 15.2 million weights to read a token."""
BATCH = 16
ALONE, TOGETHER, EIGHT = "minillama", f"minillama, batch of {BATCH}", "minillama, int8"
Turn = Callable[[], Timed]
"""Write some tokens; returns the seconds of one, and the ids (none if they are unknown)."""


@dataclass(frozen=True)
class GenerateRow:
    """What was measured of one contestant."""

    name: str
    tokens_per_s: float  # median over the rounds
    best: float
    ratio: float  # median of the paired ratios to ``minillama``, alone and in float32
    limit_share: float  # of the tokens a second that memory allows
    equal: int | None  # how many of its first ids are those of ``minillama``


COLUMNS: Columns = {
    "": lambda row: row.name,
    "tokens/s": lambda row: f"{row.tokens_per_s:.1f}",
    "best": lambda row: f"{row.best:.1f}",
    "ratio": lambda row: f"{row.ratio:.2f}x",
    "of memory limit": lambda row: f"{row.limit_share:.0%}",
    "equal ids": lambda row: row.equal,
}


def step_bytes(config: ModelConfig, bytes_each: int = 4) -> int:
    """Bytes of weights that a step reads: all but the embeddings, of which it takes one row."""
    return bytes_each * (config.num_parameters() - (config.vocab_size - 1) * config.dim)


def write_with(decoder: Decoder, prompts: list[list[int]], tokens: int) -> Timed:
    """Generation by minillama, the prompts side by side."""
    began = time.perf_counter()
    ids = generate_tokens(decoder, prompts, Sampling(0.0), tokens, batch_size=len(prompts))
    seconds = time.perf_counter() - began
    written = sum(map(len, ids))
    return Timed(seconds / written, ids[0])


def build_transformers(model: Llama, prompt: list[int], tokens: int) -> Turn:
    """Hugging Face's ``generate`` with the same weights."""
    reference, _ = build_huggingface(model.config)
    reference.load_state_dict(huggingface.to_huggingface(model.state_dict(), model.config))
    reference.eval().generation_config.eos_token_id = None
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    settings = {"do_sample": False, "max_new_tokens": tokens, "pad_token_id": 0, "use_cache": True}

    def write() -> Timed:
        began = time.perf_counter()
        [out] = reference.generate(ids, attention_mask=mask, **settings)
        seconds = time.perf_counter() - began
        new = out[len(prompt) :].tolist()
        return Timed(seconds / len(new), new)

    return write


def run_llama2c(binary: Path, file: Path, tokens: int) -> Timed:
    """A built llama2.c, which says its own speed."""
    vocabulary = str(file.with_name("tokenizer.bin"))
    flags = ["-t", "0", "-n", str(tokens + 1), "-z", vocabulary]
    command = [str(binary.resolve()), str(file), *flags]
    try:
        done = subprocess.run(command, capture_output=True, timeout=600, check=False)
    except OSError as error:
        message = f"{binary} does not run: {error.strerror}"
        raise ConfigError(message, "name a built llama2.c") from error
    found = re.search(rb"tok/s: *([0-9.]+)", done.stderr + done.stdout)
    if done.returncode or not found:
        raise ConfigError(f"{binary} prints no tokens a second", "name a built llama2.c")
    return Timed(1 / float(found[1]), [])


def measure_generation(
    contestants: dict[str, Turn], token_bytes: dict[str, float], rounds: int
) -> list[GenerateRow]:
    """Let each write in turn; ``token_bytes`` are those that have to be read for one token."""
    bandwidth = measure_machine().bandwidth
    results = race(contestants, rounds)
    base = next(iter(results.values()))
    reference = base.outputs[-1]
    rows = []
    for name, result in results.items():
        rate = 1 / result.median
        # How far its ids are those of the first contestant.
        ids = result.outputs[-1]
        same = [a == b for a, b in zip(ids, reference, strict=False)]
        equal = [*same, False].index(False) if ids else None
        row = GenerateRow(
            name,
            tokens_per_s=rate,
            best=1 / result.best,
            ratio=base.slower_than(result),
            limit_share=rate * token_bytes[name] / bandwidth,
            equal=equal,
        )
        rows.append(row)
    return rows


def make_vocabulary(vocab_size: int) -> Tokenizer:
    """A vocabulary of any size, which llama2.c asks for."""
    entries = [
        Piece("<unk>", 0, Kind.UNKNOWN),
        Piece("<s>", 0, Kind.CONTROL),
        Piece("</s>", 0, Kind.CONTROL),
    ]
    entries += [Piece(f"<0x{byte:02X}>", 0, Kind.BYTE) for byte in range(256)]
    entries.append(Piece(SPACE, 0, Kind.NORMAL))
    for i in range(vocab_size - len(entries)):
        entries.append(Piece(f"{SPACE}w{i}", -i, Kind.NORMAL))
    return tokenizer_of(entries, "the benchmark's vocabulary")


def bench_generate(
    source: Path | None = None,
    tokens: int = 200,
    rounds: int = 5,
    llama2c: Path | None = None,
) -> list[GenerateRow]:
    """Compare the speed of generation, and print the table.

    Args:
        source: a run, or a model that `minillama convert` reads; random weights of the shape of
            llama2.c's stories15M by default.
        tokens: tokens each contestant writes in a round.
        rounds: counted rounds.
        llama2c: a built llama2.c (the file `run`), to compare with.
    """
    keep_freed_memory()
    if tokens < 1 or rounds < 1:
        raise ConfigError(f"{tokens} tokens, {rounds} rounds", "choose 1 or more of each")
    if source:
        model, tokenizer = formats.load(source) or load_model(source)
    else:
        torch.manual_seed(0)
        model, tokenizer = Llama(CONFIG), make_vocabulary(CONFIG.vocab_size)
        torch.nn.init.normal_(model.output.weight)  # apart enough that rounding decides nothing
    config = model.config
    if tokens >= config.max_seq_len:
        what = f"{tokens} tokens do not fit the context of {config.max_seq_len}"
        raise DataError(what, f"choose --tokens {config.max_seq_len - 1} or fewer")
    # Prompts of two pieces, the second differing from sequence to sequence.
    prompts = [[1, i % config.vocab_size] for i in range(5, 5 + BATCH)]
    decoder = Decoder(model)
    contestants = {
        ALONE: partial(write_with, decoder, prompts[:1], tokens),
        TOGETHER: partial(write_with, decoder, prompts, tokens),
        EIGHT: partial(write_with, quantized(model), prompts[:1], tokens),
    }
    try:
        contestants["transformers"] = build_transformers(model, prompts[0], tokens)
    except ImportError:
        print("transformers is not installed: left out")
    # Bytes that each reads for a token.
    one = step_bytes(config)
    token_bytes = dict.fromkeys((ALONE, "transformers", "llama2.c"), one)
    token_bytes |= {TOGETHER: one / BATCH, EIGHT: step_bytes(config, 1)}
    with tempfile.TemporaryDirectory() as folder:
        if llama2c:
            file = save_llama2c(model, tokenizer, Path(folder) / "model.bin")
            contestants["llama2.c"] = partial(run_llama2c, llama2c, file, tokens)
        rows = measure_generation(contestants, token_bytes, rounds)
    threads, size = torch.get_num_threads(), config.num_parameters()
    print(f"CPU, {threads} threads, {size:,} parameters in float32, {tokens} tokens")
    print(f"{one / 1e6:.1f} MB of weights are read for a token")
    print(table_of(rows, COLUMNS))
    return rows
