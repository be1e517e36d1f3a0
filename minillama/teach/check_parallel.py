"""Checks for the exercises of notebook 08 (parallelism); threads play the processes."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from minillama.teach.checking import (
    NotYet,
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


def _together(size: int, play: Callable[[int], Any], hint: str) -> list[Any]:
    """Return ``play(rank)`` of all ranks at once.

    Raises the first error that is not a vain wait; if all are, ``NotYet`` with ``hint``.
    """
    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(play, rank) for rank in range(size)]
    errors = [future.exception() for future in futures if future.exception()]
    for error in errors:
        if not isinstance(error, _Stuck):
            raise error
    if errors:
        raise NotYet(hint)
    return [future.result() for future in futures]


def _play_ring(answer: Callable, given: Tensor) -> tuple[list[Any], list[int]]:
    """Results of all ranks, and the numbers that each passed on; ``given (rank, piece, number)``"""
    size = len(given)
    inboxes, passed = [queue.Queue() for _ in range(size)], [0] * size

    def play(rank: int) -> Any:
        def pass_on(tensor: Tensor) -> Tensor:
            passed[rank] += tensor.numel()
            inboxes[(rank + 1) % size].put(tensor.clone())
            try:
                return inboxes[rank].get(timeout=PATIENCE)
            except queue.Empty:
                raise _Stuck from None

        return answer(rank, list(given[rank].clone()), pass_on)

    hint = "one waits for a message that nobody sends; all must call pass_on equally often"
    return _together(size, play, f"{size} ranks: {hint}"), passed


@exercise
def check_ring(answer: Callable) -> str:
    """``answer(rank, pieces, pass_on) -> pieces``, the sums over all ranks, piece by piece.

    ``pieces`` are as many tensors as there are ranks; ``pass_on(tensor)`` gives a tensor to the
    next rank, and returns what the one before gave.
    """
    for size in (2, 3, 5):
        given = seeded(size, size, 4, seed=size)
        results, passed = _play_ring(answer, given)
        for rank, result in enumerate(results):
            call = f"{size} ranks: rank {rank}"
            returned(result, "the list of pieces")
            expect(len(result) == size, f"return {size} pieces, not {len(result)}")
            sums = zip(result, given.sum(0), strict=True)
            finished = [i for i, (piece, total) in enumerate(sums) if close(piece, total)]
            turns = f"pass the finished ones round, {size - 1} turns more"
            one = f"has one finished sum, of piece {finished}: {turns}"
            expect(len(finished) != 1, f"{call} {one}")
            expect(len(finished) == size, f"{call} has the right sums of pieces {finished} only")
        least = 2 * (size - 1) * 4
        expect(
            max(passed) <= least,
            f"{size} ranks: right, but a rank passed on {max(passed)} numbers and {least} are "
            "enough: one piece a turn, the one that has just come",
        )
    return "2 (n - 1) pieces from each rank, to its neighbor only"


def _play_sum(answer: Callable, tensors: tuple[Tensor, ...], size: int) -> tuple[list[Any], ...]:
    """Of all ranks: the results, the sizes of the sums that were asked for, and the FLOP."""
    meeting, box = threading.Barrier(size), [None] * size
    sums, flops = [[] for _ in range(size)], [0] * size

    def play(rank: int) -> Any:
        def add_up(tensor: Tensor) -> Tensor:
            sums[rank].append(tensor.numel())
            box[rank] = tensor
            try:
                meeting.wait(PATIENCE)
                total = torch.stack(box).sum(0)
                meeting.wait(PATIENCE)
            except threading.BrokenBarrierError:
                raise _Stuck from None
            return total

        with FlopCounterMode(display=False) as counter:
            result = answer(*(t.clone() for t in tensors), rank, size, add_up)
        flops[rank] = counter.get_total_flops()
        return result

    hint = "one rank waits for the others: all must call add_up equally often"
    return _together(size, play, hint), sums, flops


@exercise
def check_split_feed_forward(answer: Callable) -> str:
    """``answer(x, w1, w2, w3, rank, size, add_up) -> w2(SiLU(w1 x) * w3 x)`` on every rank.

    Each rank multiplies by its share of the three matrices; ``add_up(tensor)`` is the sum over the
    ranks, the only message.
    """
    for size, dim, hidden in ((1, 4, 8), (2, 6, 16), (4, 8, 24)):
        x, w2 = seeded(2, 3, dim, seed=hidden), seeded(dim, hidden, seed=1)
        w1, w3 = seeded(2, hidden, dim, seed=2)
        right = F.linear(F.silu(x @ w1.T) * (x @ w3.T), w2)
        results, sums, flops = _play_sum(answer, (x, w1, w2, w3), size)
        call = f"{size} ranks, hidden width {hidden}"
        returned(results[0], "(batch, seq, dim)")
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
    """``answer(rank, world, tensor, batch) -> numbers of the sequences that this rank reads``.

    The ranks of a tensor group are neighbors: 0 to tensor - 1, and so on.
    """
    for world, tensor, batch in ((4, 1, 8), (2, 2, 4), (4, 2, 8), (16, 4, 8)):
        call = f"{batch} sequences on {world} ranks, tensor = {tensor}"
        given = [answer(rank, world, tensor, batch) for rank in range(world)]
        returned(given[0], "a list of numbers")
        parts = [[int(number) for number in part] for part in given]
        for rank, part in enumerate(parts):
            first = rank // tensor * tensor
            expect(
                part == parts[first],
                f"{call}: rank {rank} reads {part} and rank {first} {parts[first]}; they hold "
                "pieces of the same matrices and need the same input",
            )
        groups, count = world // tensor, len(parts[0])
        shared = f"rank 0 reads {count} sequences; the batch is shared by {groups} groups"
        expect(count == batch // groups, f"{call}: {shared}")
        joined = sum(parts[::tensor], [])
        once = f"together the groups read {joined}; each sequence is to be read by one group"
        expect(sorted(joined) == list(range(batch)), f"{call}: {once}")
        expect(joined == sorted(joined), f"{call}: give each group one unbroken stretch, in order")
    return "the batch is cut by groups, not by ranks"


@diagnose(
    (8_000, 8, 1, 1), (8_000, 8, 1, 4), (8_000, 4, 5, 1), (6_400, 16, 4, 2), (6_400, 1, 4, 1),
    praise="8 bytes a parameter and pass inside the group, little between the groups",
    tolerance=1e-6,
)  # fmt: skip
def check_sharded_bytes(parameters: int, shard: int, replicate: int, passes: int) -> tuple:
    """``answer(parameters, shard, replicate, passes) -> bytes`` that a rank sends in a step.

    In each of ``passes`` micro-batches all weights are gathered twice, in bfloat16, and gradients
    reduced and scattered once, in float32; once a step, replicas average what they have.
    """
    one_pass = (shard - 1) / shard * 8 * parameters
    inside = passes * one_pass
    between = 2 * (replicate - 1) / replicate * 4 * parameters / shard
    whole = passes * 8 * parameters if shard > 1 else 0
    return inside + between, {
        "each pass gathers the weights twice: forward, and again backward": inside * 3 / 4
        + between,
        "weights travel in bfloat16, 2 bytes; only gradients have 4": inside * 3 / 2 + between,
        "a process need not send its own piece to itself: (n - 1) / n": whole + between,
        "a replica averages only its piece, 1 / shard of the gradients": inside + between * shard,
        "the replicas' mean is taken once a step, not once a pass": inside + passes * between,
        "every pass gathers and scatters": one_pass + between,
        "the replicas' mean is missing": inside,
    }


@exercise
def check_mesh_choice(answer: Callable) -> str:
    """``answer(gpus, heads, fits, sent) -> (shard, tensor)``: of the meshes that fit, the quietest.

    ``fits(shard, tensor)`` says whether a GPU's memory suffices, ``sent(shard, tensor)`` how many
    bytes it sends in a step. ``shard * tensor`` divides ``gpus`` and ``tensor`` divides ``heads``.
    None if nothing fits.
    """

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
        given, call = answer(gpus, heads, fits, sent), f"{gpus} GPUs, {heads} heads"
        expect(given is not None, f"{call}: you returned None, but some mesh fits")
        shard, tensor = (int(number) for number in several(given, 2, "(shard, tensor)"))
        mesh, total = f"shard {shard} x tensor {tensor}", shard * tensor
        expect(gpus % total == 0, f"{call}: {mesh} = {total} does not divide {gpus}")
        expect(heads % tensor == 0, f"{call}: tensor {tensor} does not divide {heads} heads")
        expect(fits(shard, tensor), f"{call}: {mesh} does not fit")
        least_sent = min(sent(*other) for other in meshes)
        better = f"{mesh} fits, but another mesh sends less"
        expect(sent(shard, tensor) <= least_sent, f"{call}: {better}")
    nothing = answer(4, 4, lambda shard, tensor: False, lambda shard, tensor: 1.0)
    expect(nothing is None, "return None when nothing fits")
    return "memory says which meshes are possible, the network which of them is best"
