"""What a token costs to generate: bytes, FLOP, seconds, money (the paper's introduction).

"The preferred model is not the fastest to train but the fastest at inference." Here is the
arithmetic behind that sentence. Formulas count multiplications by matrices and by keys and values;
norms, softmax and activations are left out, being under a percent at the paper's sizes. The
roofline (Williams et al., 2009) is a lower bound on time: a pass can be no faster than its
arithmetic, and no faster than the memory it must read.

A pass reads ``new`` tokens in each of ``batch`` sequences that have ``before`` tokens in the cache
already; a number takes ``number`` bytes (4: float32, 2: 16 bits, 1: int8).
"""

import math
import timeit
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from minillama.config import ModelConfig
from minillama.errors import ConfigError, nearest
from minillama.inference.kv_cache import cache_bytes
from minillama.paper import PUE
from minillama.parallel.memory import GIB, GPUS

BANDWIDTH = {
    "v100-32gb": 0.90e12, "t4": 0.32e12, "a100-40gb": 1.555e12, "a100-80gb": 2.039e12,
    "rtx-4090": 1.008e12, "h100": 3.35e12, "h200": 4.8e12, "b200": 8.0e12,
}  # fmt: skip
"""Memory bandwidth of a GPU in byte/s, from the makers' data sheets (the SXM forms)."""


def weight_bytes(config: ModelConfig, number: int = 2) -> int:
    """Bytes of all weights."""
    return number * config.num_parameters()


def multiplied_parameters(config: ModelConfig) -> int:
    """The parameters that every token meets in a product.

    That is all but the norms' weights and the input embedding, of which a token looks up one row:
    98% of 7B, but 69% of the smallest ``nano`` model.
    """
    norms = (2 * config.n_layers + 1) * config.dim
    return config.num_parameters() - config.vocab_size * config.dim - norms


def forward_flops(config: ModelConfig, new: int = 1, before: int = 0, batch: int = 1) -> int:
    """FLOP of a pass.

    Two for each multiplied parameter and token, and in every layer 4 dim for each pair of a query
    and a key that it sees: q k and the product with v, a multiplication and an addition each.
    """
    pairs = new * before + new * (new + 1) // 2
    attention = 4 * config.n_layers * config.dim * pairs
    return batch * (2 * multiplied_parameters(config) * new + attention)


def forward_bytes(
    config: ModelConfig, new: int = 1, before: int = 0, batch: int = 1, number: int = 2
) -> int:
    """Bytes that a pass moves at least: each weight once, whatever the batch, and the cache.

    Earlier keys and values are read, new ones written; of the input embedding the rows in use.
    """
    unused_rows = config.vocab_size - batch * new
    weights = config.num_parameters() - unused_rows * config.dim
    return number * weights + cache_bytes(config, before + new, batch, number)


def intensity(
    config: ModelConfig, new: int = 1, before: int = 0, batch: int = 1, number: int = 2
) -> float:
    """Arithmetic intensity: FLOP for each byte moved."""
    moved = forward_bytes(config, new, before, batch, number)
    return forward_flops(config, new, before, batch) / moved


@dataclass(frozen=True)
class Machine:
    """What a roofline needs: peak FLOP/s and memory bandwidth in byte/s."""

    peak: float
    bandwidth: float

    @property
    def ridge(self) -> float:
        """FLOP per byte at which arithmetic and memory take equally long."""
        return self.peak / self.bandwidth

    def seconds(
        self, config: ModelConfig, new: int = 1, before: int = 0, batch: int = 1, number: int = 2
    ) -> float:
        """The least time of a pass: a decode step by default, a prefill with ``new`` > 1."""
        arithmetic = forward_flops(config, new, before, batch) / self.peak
        memory = forward_bytes(config, new, before, batch, number) / self.bandwidth
        return max(arithmetic, memory)


def machine(gpu: str, gpus: int = 1) -> Machine:
    """The data sheet's machine; of ``gpus`` GPUs that split every matrix, at no cost of their own.

    Raises:
        ConfigError: an unknown GPU; the nearest name is suggested.
    """
    if gpu not in GPUS:
        raise ConfigError(f"unknown GPU '{gpu}'", nearest(gpu, GPUS))
    return Machine(gpus * GPUS[gpu].peak, gpus * BANDWIDTH[gpu])


def measure_machine(size: int = 1024, repeat: int = 5) -> Machine:
    """The roofline of the machine at hand, in float32 and with torch's number of threads.

    The product of two ``size x size`` matrices gives FLOP/s; a matrix of 32 times as many numbers,
    which no cache holds, times a vector gives byte/s. The best of ``repeat`` times counts.
    """
    square = torch.randn(size, size)
    tall = torch.randn(32 * size, size)
    # The first call of each warms up.
    products = timeit.repeat(lambda: square @ square, number=1, repeat=repeat + 1)
    reads = timeit.repeat(lambda: tall @ square[0], number=1, repeat=repeat + 1)
    peak = 2 * size**3 / min(products[1:])
    bandwidth = tall.nbytes / min(reads[1:])
    return Machine(peak, bandwidth)


@dataclass(frozen=True)
class Serving:
    """Steady decoding of ``batch`` sequences whose context is ``context`` tokens on the average."""

    config: ModelConfig
    gpu: str
    gpus: int
    batch: int
    context: int
    number: int = 2

    @property
    def bytes(self) -> int:
        """Weights and cache together."""
        cache = cache_bytes(self.config, self.context, self.batch, self.number)
        return weight_bytes(self.config, self.number) + cache

    @property
    def latency(self) -> float:
        """Seconds from one token of a sequence to its next, by the roofline."""
        gpus = machine(self.gpu, self.gpus)
        return gpus.seconds(self.config, 1, self.context - 1, self.batch, self.number)

    @property
    def tokens_per_s(self) -> float:
        """Throughput of all sequences together."""
        return self.batch / self.latency

    def cost_per_million(self, price_per_gpu_hour: float) -> float:
        """What a million generated tokens cost, in the currency of the price."""
        return 1e6 / self.tokens_per_s * self.gpus * price_per_gpu_hour / 3600

    @property
    def joules_per_token(self) -> float:
        """Energy of a token at the GPUs' full power, with the data center's share (Section 6)."""
        return self.gpus * GPUS[self.gpu].power * PUE / self.tokens_per_s


def serving(
    config: ModelConfig, gpu: str, context: int = 1024, batch: int | None = None, number: int = 2
) -> Serving:
    """Decoding on as few GPUs (1, 2, 4, 8...) as hold the weights in nine tenths of their memory.

    By default ``batch`` is as many sequences as the memory left holds.

    Raises:
        ConfigError: an unknown GPU, or a batch that does not fit.
    """
    machine(gpu)  # is the name known?
    usable, gpus = 0.9 * GPUS[gpu].memory * GIB, 1
    weights = weight_bytes(config, number)
    sequence = cache_bytes(config, context, 1, number)
    while weights + sequence > gpus * usable:
        gpus *= 2
    most = int((gpus * usable - weights) // sequence)
    if batch is not None and batch > most:
        raise ConfigError(f"a batch of {batch} does not fit", f"the largest is {most}")
    return Serving(config, gpu, gpus, batch or most, context, number)


def tokens_to_reach(tokens: np.ndarray, losses: np.ndarray, target: float) -> float | None:
    """Training tokens at which a logged loss first falls to ``target``.

    Between two logged points the loss is a straight line over the logarithm of tokens. None if the
    run never gets there, or was there before its first point.
    """
    reached = np.flatnonzero(losses <= target)
    if not len(reached):
        return None
    after = reached[0]
    if losses[after] == target:
        return float(tokens[after])
    if after == 0:
        return None
    before = after - 1
    share = (losses[before] - target) / (losses[before] - losses[after])
    return float(tokens[before] * (tokens[after] / tokens[before]) ** share)


@dataclass(frozen=True)
class TrainedModel:
    """A shape, the tokens that it was trained on, and the length of its texts."""

    config: ModelConfig
    trained: float
    seq_len: int

    @property
    def flops_per_token(self) -> float:
        """FLOP to read or write one token of a text, on the average: about 2 N."""
        return forward_flops(self.config, self.seq_len) / self.seq_len

    @property
    def training_flops(self) -> float:
        """About 6 N for each token: the backward pass costs two forward passes."""
        return 3 * self.flops_per_token * self.trained

    def total_flops(self, served: float) -> float:
        """Training, and serving so many tokens."""
        return self.training_flops + self.flops_per_token * served


def crossover(small: TrainedModel, large: TrainedModel) -> float:
    """Served tokens from which on the model that is cheaper to run is the cheaper one altogether.

    6 N1 D1 + 2 N1 S = 6 N2 D2 + 2 N2 S, solved for S. 0 if it is the cheaper one to train already.
    """
    extra = small.training_flops - large.training_flops
    saved = large.flops_per_token - small.flops_per_token
    if saved > 0:
        return max(0.0, extra / saved)
    return math.inf if extra > 0 else 0.0


def cheapest(models: Sequence[TrainedModel]) -> dict[TrainedModel, tuple[float, float]]:
    """For each model that is ever the cheapest, the served tokens from and up to which it is."""
    ordered = sorted(models, key=lambda model: (model.flops_per_token, model.training_flops))
    found = {}
    for i, model in enumerate(ordered):
        # Cheaper than all larger ones from here on, and than all smaller ones up to there.
        begin, end = 0.0, math.inf
        for larger in ordered[i + 1 :]:
            begin = max(begin, crossover(model, larger))
        for smaller in ordered[:i]:
            end = min(end, crossover(smaller, model))
        if begin < end:
            found[model] = (begin, end)
    return found
