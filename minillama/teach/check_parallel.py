"""Checks for the exercises of notebook 08 (parallelism); threads play the processes."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from minillama.teach.checking import (
    close,
    compare,
    diagnose,
    exercise,
    expect,
    returned,
    seeded,
    several,
)

PATIENCE = 1.0
"""Seconds that a thread waits for its neighbors."""


class _Stuck(Exception):
    """A rank waited for a message that never came."""


Exchange = Callable[[Tensor], list[Tensor]]


def _play(size: int, act: Callable[[int, Exchange], Any], message: str) -> list[Any]:
    """Return ``act(rank, exchange)`` of all ranks, each on a thread.

    ``exchange(tensor)`` waits until all ranks have given a tensor, and returns them all. Raises the
    first error of a rank; if ranks only waited in vain for others, ``NotYet``, naming ``message``.
    """
    meeting, box = threading.Barrier(size), [None] * size

    def run(rank: int) -> Any:
        def exchange(tensor: Tensor) -> list[Tensor]:
            box[rank] = tensor.clone()
            try:
                meeting.wait(PATIENCE)
                everyone = list(box)
                meeting.wait(PATIENCE)
            except threading.BrokenBarrierError:
                raise _Stuck from None
            return everyone

        return act(rank, exchange)

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    errors = [future.exception() for future in futures if future.exception()]
    for error in errors:
        if not isinstance(error, _Stuck):
            raise error
    hint = f"a rank waits for the others: all must call {message} equally often"
    expect(not errors, f"{size} ranks: {hint}")
    return [future.result() for future in futures]


def _pass_round(
    answer: Callable, given: Tensor, passed: list, rank: int, exchange: Exchange
) -> Any:
    """Return what a rank makes of ``given (rank, piece, number)``; count what it passes on."""

    def pass_on(tensor: Tensor) -> Tensor:
        passed[rank] += tensor.numel()
        everyone = exchange(tensor)
        return everyone[rank - 1]

    pieces = list(given[rank].clone())
    return answer(rank, pieces, pass_on)


@exercise
def check_ring(answer: Callable) -> str:
    """``answer(rank, pieces, pass_on) -> pieces``, the sums over all ranks, piece by piece."""
    for size in (2, 3, 5):
        given = seeded(size, size, 4, seed=size)
        passed = [0] * size
        results = _play(size, partial(_pass_round, answer, given, passed), "pass_on")
        for rank, result in enumerate(results):
            call = f"{size} ranks: rank {rank}"
            returned(result, "the list of pieces")
            expect(len(result) == size, f"return {size} pieces, not {len(result)}")
            sums = zip(result, given.sum(0), strict=True)
            done = [close(piece, total) for piece, total in sums]
            finished = [i for i, right in enumerate(done) if right]
            turns = f"pass the finished ones round, {size - 1} turns more"
            one = f"has one finished sum, of piece {finished}: {turns}"
            expect(len(finished) != 1, f"{call} {one}")
            expect(len(finished) == size, f"{call} has the right sums of pieces {finished} only")
        most, least = max(passed), 2 * (size - 1) * 4
        expect(
            most <= least,
            f"{size} ranks: right, but a rank passed on {most} numbers and {least} are "
            "enough: one piece a turn, the one that has just come",
        )
    return "2 (n - 1) pieces from each rank, to its neighbor only"


def _multiply(
    answer: Callable, tensors: tuple, sums: list, flops: list, rank: int, exchange: Exchange
) -> Any:
    """Return what a rank makes of ``tensors``; note its FLOP and the sizes of its sums."""

    def add_up(tensor: Tensor) -> Tensor:
        sums[rank].append(tensor.numel())
        return sum(exchange(tensor))

    with FlopCounterMode(display=False) as counter:
        result = answer(*(t.clone() for t in tensors), rank, len(sums), add_up)
    flops[rank] = counter.get_total_flops()
    return result


@exercise
def check_split_feed_forward(answer: Callable) -> str:
    """``answer(x, w1, w2, w3, rank, size, add_up) -> w2(SiLU(w1 x) * w3 x)`` on every rank."""
    for size, dim, hidden in ((1, 4, 8), (2, 6, 16), (4, 8, 24)):
        x, w2 = seeded(2, 3, dim, seed=hidden), seeded(dim, hidden, seed=1)
        w1, w3 = seeded(2, hidden, dim, seed=2)
        right = F.linear(F.silu(x @ w1.T) * (x @ w3.T), w2)
        sums, flops = [[] for _ in range(size)], [0] * size
        results = _play(size, partial(_multiply, answer, (x, w1, w2, w3), sums, flops), "add_up")
        call = f"{size} ranks, hidden width {hidden}"
        returned(results[0], "(batch, seq, dim)")

        # Typical mistakes, and what is right but costs more than it need.
        alone = all(isinstance(result, Tensor) for result in results) and not any(sums)
        parts = size > 1 and alone and close(sum(results), right)
        expect(
            not parts, f"{call}: each rank returns its part of a sum; nobody has added up the parts"
        )
        every = f"it is {size} times too large: every rank did all of the work"
        for result in results:
            compare(f"{call}: the result", result, right, {every: size * right})
        expect(
            max(flops) * size <= 6 * x.numel() * hidden,
            f"{call}: right, but a rank multiplies by more than 1 / {size} of the matrices",
        )
        expect(
            size == 1 or sums[0] == [x.numel()],
            f"{call}: right, but one sum, of (batch, seq, dim), is enough: after w2",
        )
    return "w1 and w3 by rows, w2 by columns, one sum at the end"


@exercise
def check_mesh_sequences(answer: Callable) -> str:
    """``answer(rank, world, tensor, batch) -> numbers of the sequences that this rank reads``."""
    for world, tensor, batch in ((4, 1, 8), (2, 2, 4), (4, 2, 8), (16, 4, 8)):
        groups, everything = world // tensor, list(range(batch))
        local = batch // groups
        group_of = [rank // tensor for rank in range(world)]
        right = [everything[group * local : (group + 1) * local] for group in group_of]
        call = f"{batch} sequences on {world} ranks, tensor = {tensor}, rank by rank,"
        given = []
        for rank in range(world):
            part = returned(answer(rank, world, tensor, batch), "a list of numbers")
            given.append([int(number) for number in part])
            first = rank // tensor * tensor
            expect(
                given[rank] == given[first],
                f"{call}: rank {rank} reads {part} and rank {first} {given[first]}; they hold "
                "pieces of the same matrices and need the same input",
            )
        wrong = {
            f"the batch is shared by {groups} groups": [everything] * world,
            "each sequence is to be read by one group": [right[0]] * world,
            "give each group one unbroken stretch": [
                everything[group::groups] for group in group_of
            ],
        }
        compare(call, given, right, wrong)
    return "the batch is cut by groups, not by ranks"


@exercise
def check_sharded_bytes(answer: Callable) -> str:
    """``answer(parameters, shard, replicate, passes) -> bytes`` that a rank sends in a step."""
    for parameters, shard, replicate, passes in (
        (8_000, 8, 1, 1), (8_000, 8, 1, 4), (8_000, 4, 5, 1), (6_400, 16, 4, 2), (6_400, 1, 4, 1),
    ):  # fmt: skip
        one_pass = (shard - 1) / shard * 8 * parameters
        inside = passes * one_pass
        between = 2 * (replicate - 1) / replicate * 4 * parameters / shard
        whole = passes * 8 * parameters if shard > 1 else 0
        wrong = {
            "each pass gathers the weights twice, also backward": inside * 3 / 4 + between,
            "weights travel in bfloat16, 2 bytes; only gradients have 4": inside * 3 / 2 + between,
            "a process need not send its own piece to itself: (n - 1) / n": whole + between,
            "a replica averages only its piece, 1 / shard of all": inside + between * shard,
            "the replicas' mean is taken once a step, not once a pass": inside + passes * between,
            "every pass gathers and scatters": one_pass + between,
            "the replicas' mean is missing": inside,
        }
        diagnose(
            answer, (parameters, shard, replicate, passes), inside + between, wrong, tolerance=1e-6
        )
    return "8 bytes a parameter and pass inside the group, little between the groups"


@exercise
def check_mesh_choice(answer: Callable) -> str:
    """``answer(gpus, heads, fits, sent) -> (shard, tensor)``, the quietest mesh that fits."""

    def sent(shard: int, tensor: int) -> float:
        return 8 * (1 - 1 / shard) / tensor + tensor / 3 + 1 / shard / tensor

    for gpus, heads, least in ((8, 8, 8), (16, 12, 4), (48, 6, 24), (64, 52, 16), (32, 32, 1)):

        def fits(shard: int, tensor: int, least: int = least) -> bool:
            return shard * tensor >= least and tensor * shard**0.5 >= least**0.5

        tensors = [n for n in range(1, gpus + 1) if gpus % n == 0 and heads % n == 0]
        meshes = [
            (shard, tensor)
            for tensor in tensors
            for shard in range(1, gpus + 1)
            if gpus % (shard * tensor) == 0 and fits(shard, tensor)
        ]
        given = answer(gpus, heads, fits, sent)
        call = f"{gpus} GPUs, {heads} heads"
        expect(given is not None, f"{call}: you returned None, but some mesh fits")
        shard, tensor = (int(number) for number in several(given, 2, "(shard, tensor)"))
        mesh = f"shard {shard} x tensor {tensor}"
        total = shard * tensor
        expect(gpus % total == 0, f"{call}: {mesh} = {total} does not divide {gpus}")
        expect(heads % tensor == 0, f"{call}: tensor {tensor} does not divide {heads} heads")
        expect(fits(shard, tensor), f"{call}: {mesh} does not fit")
        least_sent = min(sent(*other) for other in meshes)
        better = f"{mesh} fits, but another mesh sends less"
        expect(sent(shard, tensor) <= least_sent, f"{call}: {better}")
    nothing = answer(4, 4, lambda shard, tensor: False, lambda shard, tensor: 1.0)
    expect(nothing is None, "return None when nothing fits")
    return "memory says which meshes are possible, the network which of them is best"
