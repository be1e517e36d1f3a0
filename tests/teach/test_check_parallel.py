"""The checks of notebook 08: right answers pass, typical mistakes are named."""

from collections.abc import Callable

import pytest
import torch.nn.functional as F
from exercises import *  # noqa: F403

from minillama import teach


def ring(kind: str) -> Callable:
    def answer(rank, pieces, pass_on):
        n = len(pieces)
        for phase in range(1 if kind == "half" else 2):
            for turn in range(n - 1):
                out = (rank - turn + phase) % n
                came = pass_on(pieces[out])
                place = (out - 1) % n
                pieces[place] = came if phase else pieces[place] + came
        return pieces

    return answer


def whole_ring(rank, pieces, pass_on):
    held = total = list(pieces)
    for _ in range(len(pieces) - 1):
        held = [pass_on(piece) for piece in held]
        total = [a + b for a, b in zip(total, held, strict=True)]
    return total


def uneven_ring(rank, pieces, pass_on):
    return [pass_on(piece) for piece in pieces] if rank else pieces


def feed_forward(kind: str) -> Callable:
    def answer(x, w1, w2, w3, rank, size, add_up):
        share = slice(None) if kind == "all" else slice(rank, None, size)  # any share will do
        if kind == "averaged":
            return add_up(F.linear(F.silu(x @ w1.T) * (x @ w3.T), w2)) / size
        hidden = F.silu(x @ w1[share].T) * (x @ w3[share].T)
        if kind == "early":
            return add_up(hidden) @ w2[:, share].T
        if kind == "missing":
            return hidden @ w2[:, share].T
        if kind == "halves":
            n = x.shape[1] // 2
            out = hidden @ w2[:, share].T
            return F.pad(add_up(out[:, :n]), (0, 0, 0, x.shape[1] - n)) + F.pad(
                add_up(out[:, n:]), (0, 0, n, 0)
            )
        if kind == "stuck" and rank:
            return hidden
        return add_up(hidden @ w2[:, share].T)

    return answer


def sequences(kind: str) -> Callable:
    def answer(rank, world, tensor, batch):
        groups, group = world // tensor, rank // tensor
        if kind == "ranks":
            groups, group = world, rank
        if kind == "far":
            group = rank % groups
        if kind == "all":
            return list(range(batch))
        if kind == "first":
            return list(range(batch // groups))
        if kind == "strided":
            return list(range(group, batch, groups))
        return list(range(group * batch // groups, (group + 1) * batch // groups))

    return answer


def sharded(
    gather: float = 4, ring: bool = True, piece: bool = True, often: str = "right"
) -> Callable:
    def answer(parameters, shard, replicate, passes):
        inside = parameters * (gather + 4) * ((shard - 1) / shard if ring else shard > 1)
        between = 2 * (replicate - 1) / replicate * 4 * parameters / (shard if piece else 1)
        if often == "no replicas":
            between = 0
        between *= passes if often == "every pass" else 1
        return inside * (1 if often == "once" else passes) + between

    return answer


def choice(kind: str) -> Callable:
    def answer(gpus, heads, fits, sent):
        meshes = [
            (shard, tensor)
            for tensor in range(1, gpus + 1)
            for shard in range(1, gpus + 1)
            if (kind == "mesh" or gpus % (shard * tensor) == 0)
            and (kind == "heads" or heads % tensor == 0)
        ]
        good = [mesh for mesh in meshes if kind == "memory" or fits(*mesh)]
        if kind == "right":
            return min(good, key=lambda mesh: sent(*mesh), default=None)
        if kind == "careless":
            return min(good, key=lambda mesh: sent(*mesh))
        if kind == "none":
            return None
        if kind == "first":
            return good[0] if good else None
        return good[0] if kind == "memory" else good[-1]

    return answer


RIGHT: list[tuple[str, Callable]] = [
    ("check_ring", ring("right")),
    ("check_split_feed_forward", feed_forward("right")),
    ("check_mesh_sequences", sequences("right")),
    ("check_sharded_bytes", sharded()),
    ("check_mesh_choice", choice("right")),
]

MISTAKES: list[tuple[str, Callable, str]] = [
    ("check_ring", lambda rank, pieces, pass_on: None, "returned None"),
    ("check_ring", lambda rank, pieces, pass_on: pieces, "right sums of pieces [] only"),
    ("check_ring", lambda rank, pieces, pass_on: pieces[:1], "return 2 pieces"),
    ("check_ring", ring("half"), "one finished sum"),
    ("check_ring", whole_ring, "are enough"),
    ("check_ring", uneven_ring, "equally often"),
    ("check_split_feed_forward", lambda *a: None, "returned None"),
    ("check_split_feed_forward", feed_forward("all"), "2 times too large"),
    ("check_split_feed_forward", feed_forward("averaged"), "more than 1 / 2"),
    ("check_split_feed_forward", feed_forward("early"), "not the values"),
    ("check_split_feed_forward", feed_forward("missing"), "nobody has added up"),
    ("check_split_feed_forward", feed_forward("halves"), "one sum"),
    ("check_split_feed_forward", feed_forward("stuck"), "waits for the others"),
    ("check_mesh_sequences", lambda *a: None, "returned None"),
    ("check_mesh_sequences", sequences("ranks"), "need the same input"),
    ("check_mesh_sequences", sequences("far"), "need the same input"),
    ("check_mesh_sequences", sequences("all"), "shared by 4 groups"),
    ("check_mesh_sequences", sequences("first"), "read by one group"),
    ("check_mesh_sequences", sequences("strided"), "unbroken stretch"),
    ("check_sharded_bytes", sharded(gather=2), "gathers the weights twice"),
    ("check_sharded_bytes", sharded(gather=8), "bfloat16"),
    ("check_sharded_bytes", sharded(ring=False), "its own piece"),
    ("check_sharded_bytes", sharded(piece=False), "1 / shard"),
    ("check_sharded_bytes", sharded(often="every pass"), "once a step, not"),
    ("check_sharded_bytes", sharded(often="once"), "every pass gathers"),
    ("check_sharded_bytes", sharded(often="no replicas"), "mean is missing"),
    ("check_mesh_choice", choice("none"), "some mesh fits"),
    ("check_mesh_choice", choice("mesh"), "does not divide"),
    ("check_mesh_choice", choice("heads"), "heads"),
    ("check_mesh_choice", choice("memory"), "does not fit"),
    ("check_mesh_choice", choice("first"), "another mesh sends less"),
    ("check_mesh_choice", choice("careless"), "min()"),
    ("check_mesh_choice", lambda *a: 8, "pair"),
]


def test_an_error_of_one_rank_is_shown(capsys: pytest.CaptureFixture) -> None:
    def answer(rank, pieces, pass_on):
        return pass_on(pieces[rank]) / (rank - 1)["x"]

    teach.check_ring(answer)
    assert "answer stopped with TypeError" in capsys.readouterr().out
