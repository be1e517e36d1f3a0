"""Requests to stop: Ctrl-C, and the SIGTERM of a scheduler that wants its machines back.

The step in hand is ended and saved. Of many processes perhaps only one gets the signal, or two get
different ones, so they share what they got in every step: all stop after the same step, for one
reason.
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
        """The signal that this process has got; 0 for none."""
        self.agreed = 0
        """The signal for which all processes stop."""

    def __enter__(self) -> "StopRequest":
        self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.number and number == signal.SIGINT:  # a person insists: stop at once
            raise KeyboardInterrupt
        self.number = number  # schedulers and torchrun may both send SIGTERM: once is enough

    def received(self) -> list[float]:
        """What this process has got, as 0 or 1 for each of ``SIGNALS``."""
        return [float(self.number == number) for number in SIGNALS]

    def agree(self, shares: list[float]) -> int:
        """The signal to stop for, given the share of processes that got each; 0 to go on.

        SIGTERM counts for more: its exit code tells a scheduler that the run is not complete.
        """
        for number, share in zip(SIGNALS, shares, strict=True):
            if share:
                self.agreed = number
        return self.agreed
