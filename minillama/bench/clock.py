"""The clock for computations on a CPU."""

import time
from collections.abc import Callable

import torch


def choose_clock() -> Callable[[], float]:
    """Seconds that this process computes, if it has one thread; else those of the wall.

    The first do not run while another program has the processor. With several threads they would
    be added up.
    """
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter
