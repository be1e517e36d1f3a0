"""Several processes of one run, forked from this one, so that torch is imported only once."""

import traceback
from collections.abc import Callable
from typing import Any

import torch._dynamo
import torch.distributed.fsdp
import torch.distributed.tensor.parallel  # noqa: F401  (once, not in every process)

from minillama.scale.launcher import launch


def run_processes(
    function: Callable[..., Any], size: int, *args: Any, timeout: float = 120
) -> list[Any]:
    """Call ``function(rank, *args)`` in ``size`` processes, with the environment of torchrun.

    Returns:
        What each rank returned (it must be picklable), in rank order.

    Raises:
        RuntimeError: a rank failed, with its traceback; the others are killed.
        TimeoutError: they took longer than ``timeout`` seconds.
    """

    def with_traceback(rank: int, *args: Any) -> Any:
        try:
            return function(rank, *args)
        except BaseException:
            raise AssertionError(traceback.format_exc()) from None

    return launch(with_traceback, size, *args, timeout=timeout, group=False)
