"""One process among the others of its run: how it fares, and how all of them end together.

A rank that fails says so on the board, and only the first one says it to the user; the others end
without a word. Errors, warnings and requests to stop also go to the rank's log.
"""

import contextlib
import hashlib
import re
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist

from minillama.errors import MinillamaError
from minillama.scale.agreement import Board, OtherRankFailed, agree_in_group
from minillama.scale.rank_log import RankLog
from minillama.scale.watchdog import Watchdog

LINGER = 3.0
"""Seconds that a rank which failed waits for the others to have read why."""
LOST = ("closed by peer", "reset by peer", "timed out", "timeout", "broken pipe", "nccl", "recv")


class RankError(MinillamaError):
    """The connection to another rank broke, and no rank has said why: it was killed."""


class Crew:
    """What the training loop tells the other ranks; alone, only the log is left of it.

    Args:
        board: None if there is only one process.
        hang_seconds: see ``Watchdog``.
    """

    def __init__(self, board: Board | None = None, hang_seconds: float = 0) -> None:
        self.board = board
        self.log = RankLog(board.rank if board else 0)
        self._watchdog = Watchdog(board, self.log, hang_seconds) if board else None

    def agree(self, topic: str, facts: dict[str, Any]) -> None:
        """Wait for all ranks; raise ``ConfigError`` if their facts differ."""
        if self.board and dist.is_initialized():
            agree_in_group(self.board.size, facts)
        elif self.board:
            self.board.agree(topic, facts)

    @property
    def patience(self) -> float:
        """Seconds that a collective may wait: longer than the watchdog does; 0 for torch's own."""
        longest = self._watchdog.longest if self._watchdog else 0
        return longest + 60 if longest else 0

    def beat(self, step: int) -> None:
        """A step is finished."""
        if self._watchdog:
            self._watchdog.beat(step)

    @contextlib.contextmanager
    def on_duty(self) -> Iterator[None]:
        """Watch, log and pass on warnings in the block; let one rank tell what ended it."""
        with self._passing_warnings_on():
            if self._watchdog:
                self._watchdog.start()
            try:
                yield
            except BaseException as error:
                self._end(error)
                raise
            finally:
                if self._watchdog:
                    self._watchdog.stop()

    def _end(self, error: BaseException) -> None:
        """Say it, or raise ``SystemExit`` if another rank says it."""
        code = getattr(error, "exit_code", None)
        if code is not None:  # all ranks were asked to stop and have saved
            self.log.write(f"{error}")
            if self.board and self.board.rank:
                raise SystemExit(code) from None
            return
        self.log.write("".join(traceback.format_exception(error)))
        if not self.board:
            return
        told = error
        if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST):
            reason = re.sub(r"^\[\S+\] ", "", str(error).splitlines()[0])  # where in torch's code
            told = RankError(
                f"lost another process of the run ({reason.split('. ')[0]})",
                "it was killed or its machine is gone; run the same command to go on",
            )
        first = not isinstance(error, OtherRankFailed) and self.board.claim(str(told))
        self.board.linger(LINGER)
        if not first:
            raise SystemExit(1) from error
        if told is not error:
            raise told from error

    @contextlib.contextmanager
    def _passing_warnings_on(self) -> Iterator[None]:
        """Every warning goes to the log; one that many ranks have is shown by one of them."""
        show = warnings.showwarning

        def pass_on(message: Warning | str, *rest: Any, **more: Any) -> None:
            self.log.write(f"warning: {message}")
            digest = hashlib.sha256(str(message).encode()).hexdigest()
            if not self.board or self.board.first(f"warning/{digest}"):
                show(message, *rest, **more)

        warnings.showwarning = pass_on
        try:
            yield
        finally:
            warnings.showwarning = show
