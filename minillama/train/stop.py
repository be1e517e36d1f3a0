"""Requests to stop: Ctrl-C, and the SIGTERM of a scheduler that wants its machines back.

The step in hand is ended and saved. Of many processes perhaps only one is told, or two are told
differently, so every step ends with a vote: all of them stop after the same step, for one reason.
"""

import signal
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """The run was asked to stop; it finished its step and saved first."""

    def __init__(self, signal_number: int, step: int) -> None:
        self.exit_code = 128 + signal_number
        super().__init__(f"stopped after step {step}; run the same command to go on")


class StopRequest:
    """Catches Ctrl-C and SIGTERM (preemption), so that the loop can end a step and save."""

    def __init__(self) -> None:
        self.number = 0

    def __enter__(self) -> "StopRequest":
        self.number = 0
        self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:  # a person insists: stop at once
            raise KeyboardInterrupt
        self.number = number  # schedulers and torchrun may both send SIGTERM: once is enough

    def votes(self) -> list[float]:
        """What this process has been sent, as 0 or 1 for each of ``SIGNALS``."""
        return [float(self.number == number) for number in SIGNALS]

    @staticmethod
    def decide(votes: list[float]) -> int:
        """The signal to stop for, given the mean or sum of all votes; 0 to go on.

        SIGTERM counts for more: its exit code tells a scheduler that the run is not complete.
        """
        return max((number for number, vote in zip(SIGNALS, votes, strict=True) if vote), default=0)
