"""The watchdog: a process of a run never waits for ever for one that hangs, failed or is gone.

A thread beside the training loop. It looks at two things: whether steps still finish, and whether
another rank has left word on the board that it failed. A collective cannot be called back from
Python, so in both cases the process ends itself; the launcher sees it and ends the rest.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
from pathlib import Path
from types import FrameType

import torch

from minillama.scale.agreement import Board, group_ranks, name_ranks
from minillama.scale.rank_log import RankLog

TICK = 1.0
"""Seconds between two looks, at most."""
GRACE = 8.0
"""Seconds for a process to end by itself after another one has failed."""
FIRST_STEP = 3
"""The first step, with all that comes before it, has this many times as long: it compiles."""


class Watchdog(threading.Thread):
    """Ends this process if no step finishes for ``seconds``, or if another rank has failed.

    Args:
        board: where ranks say that they failed.
        log: this rank's log; gets the stacks of all threads.
        seconds: the longest time between two steps, validation and checkpoints included; 0 for
            no limit. Time in which the process was stopped as a whole (Ctrl-Z) does not count.
    """

    def __init__(self, board: Board, log: RankLog, seconds: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._board, self._log, self._seconds = board.copy(), log, seconds
        self._tick = min(TICK, seconds / 10) if seconds else TICK
        self._main, self._done = threading.get_ident(), threading.Event()
        self._step: int | None = None
        self._idle = 0.0

    @property
    def longest(self) -> float:
        """The longest time that a step may take, the first included; 0 for no limit."""
        return self._seconds * FIRST_STEP

    def beat(self, step: int) -> None:
        """A step is finished."""
        self._step, self._idle = step, 0.0

    def stop(self) -> None:
        """Watch no longer."""
        self._done.set()
        self.join(timeout=GRACE)

    def run(self) -> None:
        """Look, and look again."""
        last = time.monotonic()
        while not self._done.wait(self._tick):
            now = time.monotonic()
            self._idle += min(now - last, 2 * self._tick)
            last = now
            try:
                failure = self._board.failure()
            except RuntimeError as error:  # the store is gone, and with it the rank that kept it
                failure = (0, f"the store cannot be reached ({str(error).splitlines()[0]})")
            if failure:
                self._follow(*failure)
            elif self._seconds and self._idle > self._limit():
                self._give_up()

    def _limit(self) -> float:
        return self._seconds * (FIRST_STEP if self._step is None else 1)

    def _follow(self, rank: int, told: str) -> None:
        """Another rank failed: leave the main thread a moment to notice, then end."""
        if told == HANG:
            self._report_place()
        if not self._done.wait(GRACE):
            self._log.write(f"ended from outside, because rank {rank} failed: {told}")
            os._exit(1)

    def _give_up(self) -> None:
        """No step finishes: the first rank to see it says where everyone stands; then end."""
        first = self._board.claim(HANG)
        self._report_place()
        if first:
            time.sleep(min(2 * TICK, self._seconds) + 3 * self._tick)  # until all have reported
            try:
                stand = self._board.posted("stands")
            except RuntimeError:
                stand = {}
            sys.stderr.write(hang_report(stand, self._board, self._limit(), self._step, self._log))
            sys.stderr.flush()
        os._exit(1)

    def _report_place(self) -> None:
        """Say where the main thread stands: on the board in short, in the log with all threads."""
        self._log.write(f"no step has finished for {self._idle:.0f} s; the stacks of all threads:")
        self._log.write_stacks()
        frame = sys._current_frames().get(self._main)
        note = {"place": place(frame), "stack": "".join(traceback.format_stack(frame))}
        with contextlib.suppress(RuntimeError):
            self._board.post("stands", note)


HANG = "no step finishes"
"""What a watchdog claims on the board."""


def place(frame: FrameType | None) -> str:
    """Where a thread stands, in the innermost frame that is not torch's own."""
    frames = [f for f, _ in traceback.walk_stack(frame)] if frame else []
    torch_folder = str(Path(torch.__file__).parent)
    ours = [f for f in frames if not f.f_code.co_filename.startswith(torch_folder)] or frames
    if not ours:
        return "an unknown place"
    code = ours[0].f_code
    return f"{code.co_name} ({Path(code.co_filename).name}:{ours[0].f_lineno})"


def hang_report(
    stand: dict[int, dict[str, str]], board: Board, limit: float, step: int | None, log: RankLog
) -> str:
    """One line that names the ranks and where they stand, then a stack for each such place."""
    places = group_ranks({rank: note["place"] for rank, note in stand.items()})
    told = [f"{name_ranks(ranks)} in {where}" for where, ranks in places.items()]
    if silent := [rank for rank in range(board.size) if rank not in stand]:
        told.insert(0, f"{name_ranks(silent)} without an answer")
    logs = log.path.parent if log.path else "not written"
    after = "before the first step" if step is None else f"after step {step}"
    lines = [
        f"error: no step has finished for {limit:g} s {after}: {'; '.join(told)}. "
        "Run the same command to go on from the last checkpoint; if steps, validation and "
        f"checkpoints take that long, raise --hang-seconds. All stacks: {logs}."
    ]
    for where, ranks in places.items():
        lines += [f"{name_ranks(ranks)}, {where}:", *stand[ranks[0]]["stack"].splitlines()]
    return "".join(f"\n[rank {board.rank}] {line}" for line in lines) + "\n"
