"""What the training loop asks of its surroundings, and the simplest answer: one process.

The loop is the same page for one processor and for 2,048: where processes have to speak with each
other, it calls its backend. ``scale.runtime.DistributedBackend`` answers the same calls for many.
"""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minillama.errors import ConfigError
from minillama.model import Llama
from minillama.parallel.mesh import check_mesh
from minillama.train import checkpoint
from minillama.train.config import TrainConfig


class LocalBackend:
    """One process, which holds the whole model and reads the whole batch.

    Args:
        device: ``auto`` takes a GPU if there is one.

    Raises:
        ConfigError: torch sees no such device.
    """

    rank, size = 0, 1
    """This process's number, and how many there are."""
    data_rank, data_size = 0, 1
    """Which part of a batch is this process's, and into how many parts it is cut."""
    mesh = None
    """How the model is spread over processes; None if each of them holds all of it."""
    is_main = True
    """Whether this process writes files and shows progress."""

    def __init__(self, device: str | torch.device = "auto") -> None:
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device = cuda, but torch sees no GPU", "use --device cpu")
        self.device = torch.device(device)

    def check(self, config: TrainConfig) -> None:
        """Raise ``ConfigError`` if these processes cannot train as ``config`` says."""
        check_mesh(config.parallel, config.model, self.size, config.seq_len)

    def build_model(self, config: TrainConfig) -> tuple[Llama, nn.Module]:
        """The model with its initial weights, and what wraps it to compute a step's gradients."""
        torch.manual_seed(config.seed)
        model = Llama(config.model).to(self.device)
        return model, self.wrap(model, config)

    def wrap(self, model: Llama, config: TrainConfig) -> nn.Module:
        """Compile, if asked. The other ways to compute a step (Section 2.4) need ``scale``."""
        if config.backward != "autograd" or config.parallel.recompute != "none":
            hint = "call scale.runtime.train_distributed, as `minillama train` does"
            raise ConfigError("this backend has only autograd's backward", hint)
        return torch.compile(model) if config.compile else model

    def micro_batch(
        self, module: nn.Module, config: TrainConfig, last: bool
    ) -> AbstractContextManager:
        """Context of one forward and backward, the ``last`` of a step or not."""
        kind = next(module.parameters()).device.type
        return torch.autocast(kind, torch.bfloat16, enabled=config.dtype == "bfloat16")

    def mean(self, values: Tensor) -> Tensor:
        """The mean of ``values`` over all processes (in place)."""
        return values

    def maximum(self, number: int) -> int:
        """The largest ``number`` of all processes."""
        return number

    def agree(self, facts: dict[str, Any]) -> None:
        """Raise ``ConfigError`` if ``facts`` differ between processes."""

    def barrier(self) -> None:
        """Wait for all processes."""

    def beat(self) -> None:
        """A step is finished: nobody hangs."""

    def last_good(self, run: Path) -> int | None:
        """The newest step whose checkpoint is whole."""
        return checkpoint.last_good(run)

    def restore(self, run: Path, step: int, model: Llama, optimizer: torch.optim.Optimizer) -> None:
        """Load a step's weights and optimizer state in place."""
        checkpoint.restore(run, step, model, optimizer)

    def saver(self, config: TrainConfig) -> checkpoint.LocalSaver:
        """What writes the checkpoints of a run."""
        return checkpoint.LocalSaver(config.run, config.milestone_steps(), config.async_save)
