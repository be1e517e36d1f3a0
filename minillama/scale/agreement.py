"""Many processes, one word: they start only if they agree, and one of them says what went wrong.

The ranks leave each other notes on a board: the key-value store through which they found each
other. Unlike a collective it needs no partner, so it also works when the ranks disagree, or when
one of them is about to end. torchrun hosts the store, so that it outlives every rank; started
without torchrun, rank 0 does.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import minillama
from minillama.errors import ConfigError, MinillamaError

MEETING_SECONDS = 600.0
"""How long a rank waits for the others to start."""


def code_digest() -> str:
    """The start of a checksum over the package's Python files."""
    package = Path(minillama.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:12]


CODE = code_digest()  # now: later the files may be edited, and no longer what was imported


class OtherRankFailed(MinillamaError):
    """Another rank has said what is wrong; this one only has to end."""


class Board:
    """Notes that the ranks of a run leave each other.

    Args:
        store: a key-value store that all ranks share.
        rank, size: this process's place.
    """

    def __init__(self, store: dist.Store, rank: int, size: int) -> None:
        self._store, self.rank, self.size = store, rank, size

    def group_store(self) -> dist.Store:
        """Where the ranks of a process group find each other."""
        return dist.PrefixStore("group", self._store)

    def copy(self) -> "Board":
        """The same board for another thread, which does not wait while this one waits."""
        return Board(self._store.clone(), self.rank, self.size)

    def claim(self, failure: str) -> bool:
        """Whether this rank is the first to fail, so that it is the one to tell.

        Without a board (rank 0 hosted it and is gone) it is rank 1.
        """
        try:
            mine = json.dumps([self.rank, failure])
            first = self._store.compare_set("failure", "", mine).decode() == mine
            self.post("knows", True)
            return first
        except RuntimeError:
            return self.rank == 1

    def failure(self) -> tuple[int, str] | None:
        """The rank that failed first and what it said; None as long as all is well."""
        if not self._store.check(["failure"]):
            return None
        rank, text = json.loads(self._store.get("failure"))
        self.post("knows", True)
        return rank, text

    def linger(self, seconds: float) -> None:
        """Before ending after a failure: let the others read it, if this rank hosts the store."""
        end = time.monotonic() + seconds
        while self.hosted_here and len(self.posted("knows")) < self.size and time.monotonic() < end:
            time.sleep(0.05)

    @property
    def hosted_here(self) -> bool:
        """Whether the store ends with this process."""
        return self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"

    def first(self, topic: str) -> bool:
        """Whether this is the first rank to ask about ``topic``."""
        try:
            return self._store.add(f"first/{topic}", 1) == 1
        except RuntimeError:
            return True

    def post(self, key: str, value: Any) -> None:
        """Leave a note of this rank."""
        self._store.set(f"{key}/{self.rank}", json.dumps(value))

    def posted(self, key: str) -> dict[int, Any]:
        """The notes that are there by now, by rank."""
        keys = {rank: f"{key}/{rank}" for rank in range(self.size)}
        there = [rank for rank in keys if self._store.check([keys[rank]])]
        notes = self._store.multi_get([keys[rank] for rank in there]) if there else []
        return {rank: json.loads(note) for rank, note in zip(there, notes, strict=True)}

    def wait(self, keys: list[str]) -> None:
        """Wait until all ``keys`` are there, ``MEETING_SECONDS`` at most.

        Raises:
            OtherRankFailed: a rank has failed, and told it.
            ConfigError: they are not there in time.
        """
        end = time.monotonic() + MEETING_SECONDS
        while not self._store.check(keys):
            if failure := self.failure():
                raise OtherRankFailed(f"rank {failure[0]} failed: {failure[1]}")
            if time.monotonic() > end:
                silent = [key for key in keys if not self._store.check([key])]
                ranks = name_ranks([int(key.split("/")[-1]) for key in silent])
                raise ConfigError(
                    f"no word from {ranks} in {MEETING_SECONDS:g} s", "see their logs"
                )
            time.sleep(0.02)

    def agree(self, topic: str, facts: dict[str, Any]) -> None:
        """Return once all ranks have come, if they hold the same ``facts``.

        Raises:
            ConfigError: the first fact on which they differ, its values and the ranks.
            OtherRankFailed: a rank has failed before it came here.
        """
        self.post(topic, facts)
        if self.rank == 0:  # compares for all, so that 2,048 ranks read 2,048 notes and not 4 M
            self.wait([f"{topic}/{rank}" for rank in range(self.size)])
            notes = self.posted(topic)
            self._store.set(f"{topic}/verdict/0", json.dumps(difference(notes)))
        else:
            self.wait([f"{topic}/verdict/0"])
        refuse(json.loads(self._store.get(f"{topic}/verdict/0")))


def facts(config: Any) -> dict[str, Any]:
    """What all ranks must have in common: settings, and the code that they run.

    A corpus may lie elsewhere on another machine (its checksum is compared), and threads may
    differ.
    """
    settings = flatten(dataclasses.asdict(config))
    own = {name: value for name, value in settings.items() if name not in ("corpus", "threads")}
    return own | {"the version of torch": torch.__version__, "the code of minillama": CODE}


def flatten(settings: dict[str, Any], above: str = "") -> dict[str, Any]:
    """Nested settings by their dotted names, as in ``optimizer.lr``."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{above}{name}.")
        else:
            flat[above + name] = value
    return flat


def agree_in_group(size: int, facts: dict[str, Any]) -> None:
    """The same by a collective, for ranks that have joined a group: it notices a rank that died.

    Raises:
        ConfigError: the first fact on which the ranks differ.
    """
    notes: list[dict[str, Any]] = [{}] * size
    dist.all_gather_object(notes, facts)
    refuse(difference(dict(enumerate(notes))))


def refuse(verdict: str) -> None:
    """Raise ``ConfigError`` if there is a difference."""
    if verdict:
        raise ConfigError(verdict, "start all of them from the same files and with one command")


def difference(notes: dict[int, dict[str, Any]]) -> str:
    """Where the notes of the ranks differ, in words; empty if nowhere."""
    for name in sorted(set().union(*notes.values())):
        values = {rank: json.dumps(note.get(name)) for rank, note in notes.items()}
        if len(set(values.values())) > 1:
            groups = group_ranks(values)
            told = ", ".join(f"{value} on {name_ranks(ranks)}" for value, ranks in groups.items())
            return f"the processes disagree on {name}: {told}"
    return ""


def group_ranks(values: dict[int, str]) -> dict[str, list[int]]:
    """The ranks that hold each value, the smallest group first: the odd one out leads."""
    groups: dict[str, list[int]] = {}
    for rank, value in sorted(values.items()):
        groups.setdefault(value, []).append(rank)
    return dict(sorted(groups.items(), key=lambda item: len(item[1])))


def name_ranks(ranks: list[int]) -> str:
    """Ranks in words: ``rank 3``, or ``ranks 0-2, 5``."""
    parts = []
    for _, run in itertools.groupby(enumerate(sorted(ranks)), lambda pair: pair[1] - pair[0]):
        numbers = [rank for _, rank in run]
        parts.append(str(numbers[0]) + (f"-{numbers[-1]}" if len(numbers) > 1 else ""))
    return f"{'rank' if len(ranks) == 1 else 'ranks'} {', '.join(parts)}"
