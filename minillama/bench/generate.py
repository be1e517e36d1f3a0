"""Speed of generation: alone, in a batch and in 8 bits, beside transformers and llama2.c.

All contenders read the same weights and write greedily, one run each in turn, so that a machine
whose speed drifts slows all. The limit is that of memory: every weight but the embeddings is read
once for a token (in a batch, once for a token of every sequence), so no program can write more
tokens a second than the machine reads bytes a second, divided by the bytes of those weights.
Weights that stay in the processor's cache may exceed it.
"""

import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from minillama.config import ModelConfig
from minillama.corpus.token_files import Corpus, open_corpus
from minillama.errors import ConfigError, DataError
from minillama.evaluate.perplexity import batches, score
from minillama.inference import Decoder, Sampling, generate_tokens
from minillama.inference.quantize import quantized
from minillama.interop import formats, huggingface, llama2c
from minillama.interop.vocabulary import Kind, Piece, tokenizer_of
from minillama.model import Llama
from minillama.tokenizer import SPACE, Tokenizer
from minillama.train.allocator import keep_freed_memory
from minillama.train.checkpoint import load_model
from minillama.train.config import read_config

CONFIG = ModelConfig(
    dim=288, n_layers=6, n_heads=6, vocab_size=32_000, multiple_of=32, max_seq_len=256
)
"""The shape of llama2.c's stories15M: 15.2 million weights to read a token."""
BATCH = 16
ALONE, TOGETHER, EIGHT = "minillama", f"minillama, batch of {BATCH}", "minillama, int8"
Ids = list[int]


@dataclass(frozen=True)
class Contender:
    """One way to generate."""

    name: str
    run: Callable[[int], tuple[Ids, float]]
    """Write so many tokens; return the ids (none if unknown) and tokens a second."""
    bytes_per_token: float
    """Weights that have to be read for one token."""


@dataclass(frozen=True)
class Row:
    """What was measured of one contender."""

    name: str
    tokens_per_s: float
    """Median over the rounds."""
    best: float
    ratio: float
    """Median of the paired ratios to ``minillama``, alone and in float32."""
    limit_share: float
    """Of the tokens a second that memory allows."""
    equal: int | None
    """How many of its first ids are those of ``minillama``."""


def step_bytes(config: ModelConfig, bytes_each: int = 4) -> int:
    """Bytes of weights that a step reads: all but the embeddings, of which it takes one row."""
    return bytes_each * (config.num_parameters() - (config.vocab_size - 1) * config.dim)


def bandwidth(n_bytes: int, repeats: int = 20) -> float:
    """Bytes a second at which this machine reads so many bytes: the best of some sums."""
    data = torch.ones(n_bytes // 4)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        data.sum()
        times.append(time.perf_counter() - began)
    return 4 * len(data) / min(times)


def ours(decoder: Decoder, prompt: Ids, batch: int) -> Callable[[int], tuple[Ids, float]]:
    """Generation by ``decoder``, ``batch`` sequences side by side."""
    prompts = [[*prompt, i % decoder.config.vocab_size] for i in range(5, 5 + batch)]

    def run(tokens: int) -> tuple[Ids, float]:
        began = time.perf_counter()
        ids = generate_tokens(decoder, prompts, Sampling(0.0), tokens, batch_size=batch)
        return ids[0], sum(map(len, ids)) / (time.perf_counter() - began)

    return run


def transformers(model: Llama, prompt: Ids) -> Callable[[int], tuple[Ids, float]] | None:
    """Hugging Face's ``generate`` with the same weights; None if it is not installed."""
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError:
        return None
    config = LlamaConfig(**huggingface.config_to_huggingface(model.config))
    theirs = LlamaForCausalLM(config).eval()
    theirs.load_state_dict(huggingface.to_huggingface(model.state_dict(), model.config))
    theirs.generation_config.eos_token_id = None
    ids = torch.tensor([[*prompt, 5]])

    def run(tokens: int) -> tuple[Ids, float]:
        began = time.perf_counter()
        out = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens,
            pad_token_id=0,
        )  # fmt: skip
        new = out[0, ids.shape[1] :].tolist()
        return new, len(new) / (time.perf_counter() - began)

    return run


def c_program(
    binary: Path, model: Llama, tokenizer: Tokenizer, folder: Path
) -> Callable[[int], tuple[Ids, float]]:
    """A built llama2.c, which says its own speed."""
    file = llama2c.save(model, tokenizer, folder / "model.bin")

    def run(tokens: int) -> tuple[Ids, float]:
        command = [str(binary.resolve()), str(file), "-t", "0", "-n", str(tokens + 1),
                   "-z", str(file.with_name("tokenizer.bin"))]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, timeout=600, check=False)
        except OSError as error:
            told = f"{binary} does not run: {error.strerror}"
            raise ConfigError(told, "name a built llama2.c") from error
        said = re.search(rb"tok/s: *([0-9.]+)", done.stderr + done.stdout)
        if done.returncode or not said:
            raise ConfigError(f"{binary} told no tokens a second", "name a built llama2.c")
        return [], float(said[1])

    return run


def compare(contenders: Sequence[Contender], tokens: int, rounds: int) -> list[Row]:
    """Let each write ``tokens`` tokens in each round, after a short warm-up."""
    limit = bandwidth(int(contenders[0].bytes_per_token))
    rates: dict[str, list[float]] = {each.name: [] for each in contenders}
    ids: dict[str, Ids] = {}
    for i in range(rounds + 1):
        for each in contenders:
            ids[each.name], rate = each.run(tokens if i else min(8, tokens))
            rates[each.name] += [rate] if i else []
    base = contenders[0].name

    def row(each: Contender) -> Row:
        mine, rate = ids[each.name], rates[each.name]
        middle = statistics.median(rate)
        same = [a == b for a, b in zip(mine, ids[base], strict=False)]
        return Row(
            each.name, middle, max(rate),
            statistics.median(a / b for a, b in zip(rate, rates[base], strict=True)),
            middle * each.bytes_per_token / limit,
            (same + [False]).index(False) if mine else None,
        )  # fmt: skip

    return [row(each) for each in contenders]


def log_prob(decoder: Decoder, parts: list[np.ndarray]) -> float:
    """Total log-probability in nats that a decoder gives to the targets of the windows."""
    total = 0.0
    for tokens, targets in batches(parts):
        logits = decoder(tokens).flatten(0, 1)
        total -= float(F.cross_entropy(logits, targets.flatten(), reduction="sum"))
    return total


def quantization_cost(model: Llama, corpus: Corpus, max_tokens: int) -> tuple[float, float]:
    """Bits per byte on the validation text, of a model in float32 and in int8."""
    float32, eight = (
        score(corpus, lambda parts, d=decoder: log_prob(d, parts), max_tokens,
              model.config.max_seq_len)["bpb"]
        for decoder in (Decoder(model), quantized(model))
    )  # fmt: skip
    return float32, eight


def words(vocab_size: int) -> Tokenizer:
    """A vocabulary of any size, for a model without one."""
    entries = [Piece("<unk>", 0, Kind.UNKNOWN), Piece("<s>", 0, Kind.CONTROL)]
    entries += [Piece("</s>", 0, Kind.CONTROL)]
    entries += [Piece(f"<0x{byte:02X}>", 0, Kind.BYTE) for byte in range(256)]
    entries += [Piece(SPACE, 0, Kind.NORMAL)]
    entries += [Piece(f"{SPACE}w{i}", -i, Kind.NORMAL) for i in range(vocab_size - len(entries))]
    return tokenizer_of(entries, "the benchmark's vocabulary")


def bench_generate(
    source: Path | None = None,
    tokens: int = 200,
    rounds: int = 5,
    llama2c: Path | None = None,
    tied: bool = False,
    corpus: Path | None = None,
    max_tokens: int = 20_000,
) -> list[Row]:
    """Compare the speed of generation, and print the table.

    Args:
        source: a run, or a model that `minillama convert` reads; random weights of the shape of
            llama2.c's stories15M by default.
        tokens: tokens each contender writes in a round.
        rounds: counted rounds.
        llama2c: a built llama2.c (the file `run`), to compare with.
        tied: one matrix for embeddings and output, for the random weights only.
        corpus: a built corpus, on whose validation text int8 is compared with float32; that of
            the run by default.
        max_tokens: validation tokens scored in each slice.
    """
    keep_freed_memory()
    if tokens < 1 or rounds < 1:
        raise ConfigError(f"{tokens} tokens, {rounds} rounds", "choose 1 or more of each")
    model, pieces = _model(source, tied)
    config, binary = model.config, llama2c
    if tokens > config.max_seq_len - 1:
        raise DataError(
            f"{tokens} tokens do not fit the context of {config.max_seq_len}",
            f"choose --tokens {config.max_seq_len - 1} or fewer",
        )
    one, decoder = step_bytes(config), Decoder(model)
    contenders = [
        Contender(ALONE, ours(decoder, [1], 1), one),
        Contender(TOGETHER, ours(decoder, [1], BATCH), one / BATCH),
        Contender(EIGHT, ours(quantized(model), [1], 1), step_bytes(config, 1)),
    ]
    theirs = transformers(model, [1])
    if theirs:
        contenders.append(Contender("transformers", theirs, one))
    size = sum(weight.numel() for weight in model.parameters())
    print(
        f"CPU, {torch.get_num_threads()} threads, {size:,} parameters in float32, {tokens} tokens"
    )
    print(f"{one / 1e6:.1f} MB of weights are read for a token")
    if not theirs:
        print("transformers is not installed: left out")
    with tempfile.TemporaryDirectory() as folder:
        if binary:
            program = c_program(binary, model, pieces, Path(folder))
            contenders.append(Contender("llama2.c", program, one))
        rows = compare(contenders, tokens, rounds)
    print(render(rows))
    held_out = corpus or _corpus_of(source)
    if held_out:
        float32, eight = quantization_cost(model, open_corpus(held_out), max_tokens)
        print(f"validation bits per byte: float32 {float32:.4f}, int8 {eight:.4f} "
              f"({eight / float32 - 1:+.2%})")  # fmt: skip
    return rows


def render(rows: Sequence[Row]) -> str:
    """The table."""
    head = f"{'':<24}{'tokens/s':>9}{'best':>8}{'ratio':>8}{'of memory limit':>17}{'equal ids':>11}"
    return "\n".join([head, *(
        f"{row.name:<24}{row.tokens_per_s:>9.1f}{row.best:>8.1f}{row.ratio:>7.2f}x"
        f"{row.limit_share:>17.0%}{'' if row.equal is None else row.equal:>11}"
        for row in rows
    )])  # fmt: skip


def _model(source: Path | None, tied: bool) -> tuple[Llama, Tokenizer]:
    if source:
        return formats.load(source) or load_model(source)
    torch.manual_seed(0)
    model = Llama(CONFIG)
    torch.nn.init.normal_(model.output.weight)  # apart enough that rounding decides nothing
    if tied:
        model.tok_embeddings.weight = model.output.weight
    return model, words(CONFIG.vocab_size)


def _corpus_of(source: Path | None) -> Path | None:
    """The corpus that a run was trained on, if it is still there."""
    if source is None or not (source / "config.toml").exists():
        return None
    corpus = Path(read_config(source / "config.toml").corpus)
    return corpus if corpus.exists() else None
