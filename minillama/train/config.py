"""What a training run is made of: one dataclass, read from a preset or a run's config.toml.

A preset is a TOML file in ``minillama/presets``; it opens with the command, the time and the loss
to expect. Command-line flags override it field by field.
"""

import dataclasses
import re
import tomllib
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Literal

import tomli_w

from minillama.config import ModelConfig, RopeScaling
from minillama.errors import ConfigError, nearest
from minillama.files import write_text
from minillama.parallel.mesh import ParallelConfig
from minillama.train.optimizer import OptimizerConfig


@dataclass(frozen=True)
class TrainConfig:
    """One training run (Sections 2.2 and 2.3)."""

    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    corpus: str = "data/corpus/nano"
    """Folder made by ``minillama data build``."""
    name: str = "unnamed"
    """The run is written to RUNS/NAME."""
    runs: str = "runs"
    """Folder of all runs."""
    tokens: int = 10**12
    """Training tokens; rounded to whole steps."""
    batch_tokens: int = 4 * 2**20
    """Tokens per step over all processes; gradient accumulation follows from it."""
    seq_len: int = 2048
    """Tokens in a sequence; at most model.max_seq_len."""
    micro_batch: int = 16
    """Sequences per forward pass of one process: a matter of memory, not of results."""
    eval_every: int = 500
    """Steps between two measurements of the validation loss."""
    eval_tokens: int = 2**19
    """Validation tokens per slice, sampled evenly."""
    save_every: int = 1_000
    """Steps between two checkpoints; the two newest are kept."""
    async_save: bool = False
    """Write checkpoints while training goes on; takes a copy in the CPU's memory."""
    milestones: int = 12
    """Checkpoints kept for good, spaced evenly in log(tokens): the points of Figure 2."""
    seed: int = 0
    """Same seed: same initial weights and same data, in the same order."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 computes products in bfloat16 (autocast) over float32 weights: GPUs only."""
    compile: bool = False
    """torch.compile: needs a C++ compiler on CPUs, and half a minute."""
    backward: Literal["autograd", "by_hand"] = "autograd"
    """by_hand keeps half the activations; see minillama.efficient.block_backward."""
    threads: int = 0
    """CPU threads; 0 leaves torch's choice."""
    hang_seconds: int = 1800
    """With many processes: all end if no step finishes for so long (three times as long for the
    first); 0 for no limit. Longer than a validation and a checkpoint take."""

    def __post_init__(self) -> None:
        for name in ("tokens", "batch_tokens", "seq_len", "micro_batch", "eval_every",
                     "eval_tokens", "save_every"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} = {getattr(self, name)}", f"{name} must be at least 1")
        for name in ("seed", "milestones", "threads", "hang_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)}", f"{name} must not be negative")
        if self.seq_len > self.model.max_seq_len:
            raise ConfigError(
                f"seq_len = {self.seq_len} exceeds the model's context of {self.model.max_seq_len}",
                "lower seq_len or raise model.max_seq_len",
            )
        if self.batch_tokens % self.seq_len:
            raise ConfigError(
                f"batch_tokens = {self.batch_tokens} is not a multiple of seq_len = {self.seq_len}",
                f"choose {max(1, round(self.batch_tokens / self.seq_len)) * self.seq_len}",
            )
        if self.backward == "by_hand" and self.parallel.recompute == "selective":
            raise ConfigError(
                "backward = by_hand with parallel.recompute = selective: it is selective already",
                "choose parallel.recompute = none or full, or backward = autograd",
            )
        if self.total_steps < 1:
            raise ConfigError(f"tokens = {self.tokens} is less than one batch", "raise tokens")
        if self.name in ("", ".", "..") or Path(self.name).name != self.name:
            raise ConfigError(f"name = '{self.name}' is no folder name", "use letters and digits")

    @property
    def batch_sequences(self) -> int:
        """Sequences in one global step."""
        return self.batch_tokens // self.seq_len

    @property
    def total_steps(self) -> int:
        """Optimizer updates in the whole run."""
        return round(self.tokens / self.batch_tokens)

    @property
    def run(self) -> Path:
        """The run folder."""
        return Path(self.runs) / self.name

    def milestone_steps(self) -> set[int]:
        """``milestones`` steps from 2% of the run to its end, evenly spaced in log(tokens)."""
        count = max(1, self.milestones)
        fractions = (50 ** (-i / max(1, count - 1)) for i in range(count))
        return {max(1, round(self.total_steps * fraction)) for fraction in fractions}


MAY_CHANGE = frozenset(
    {"runs", "corpus", "micro_batch", "device", "compile", "backward", "threads", "parallel",
     "hang_seconds", "async_save"}
)  # fmt: skip
"""Fields that a resumed run may change: they alter the speed or the place, not the result."""


def from_dict(cls: type, values: dict[str, Any], where: str) -> Any:
    """Build a (nested) dataclass from plain values.

    Raises:
        ConfigError: an unknown key, with the nearest known one; a value of the wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise ConfigError(f"unknown key '{key}' in {where}", nearest(key, fields))
    nested = {
        "model": ModelConfig,
        "optimizer": OptimizerConfig,
        "parallel": ParallelConfig,
        "rope_scaling": RopeScaling,
    }
    arguments = {}
    for key, value in values.items():
        if key == "model" and isinstance(value, str):
            value = ModelConfig.from_name(value)
        elif key in nested and isinstance(value, dict):
            value = from_dict(nested[key], value, f"[{key}] of {where}")
        elif not _fits(value, fields[key].type):
            what = f"{key} = {value!r} in {where} has the wrong type"
            words = ["a table"] if key in nested else _allowed(fields[key].type)
            raise ConfigError(what, f"it must be {' or '.join(words)}")
        arguments[key] = value
    return cls(**arguments)


def _allowed(kind: Any) -> list[str]:
    """In words: the choices of a Literal, or the name of a type."""
    return getattr(kind, "__args__", [kind.__name__])


def _fits(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind in (int, str, bool):
        return type(value) is kind
    return value in getattr(kind, "__args__", ())  # a Literal; a table is no plain value


def presets() -> list[str]:
    """The names of all presets."""
    folder = package_files("minillama") / "presets"
    return sorted(file.name[:-5] for file in folder.iterdir() if file.name.endswith(".toml"))


def load_preset(name: str) -> TrainConfig:
    """A preset by name, as in ``load_preset("nano-65b")``. Unknown names suggest the nearest."""
    if name not in presets():
        raise ConfigError(f"unknown preset '{name}'", nearest(name, presets()))
    values = tomllib.loads(preset_text(name))
    return from_dict(TrainConfig, {"name": name} | values, f"preset {name}")


def preset_text(name: str) -> str:
    """The TOML file of a preset."""
    file = package_files("minillama") / "presets" / f"{name}.toml"
    return file.read_text(encoding="utf-8")


def preset_world(name: str) -> int | None:
    """The processes that a preset's own torchrun command starts; None if it has none."""
    found = re.search(r"torchrun --nnodes=(\d+) --nproc-per-node=(\d+)", preset_text(name))
    return int(found[1]) * int(found[2]) if found else None


def read_config(path: Path) -> TrainConfig:
    """The config.toml of a run, or any TOML file of the same form."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", "check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", "correct it") from None
    return from_dict(TrainConfig, values, str(path))


def write_config(path: Path, config: TrainConfig) -> None:
    """Write every field, so that the run folder says all that the run was; TOML has no None."""
    values = dataclasses.asdict(config, dict_factory=_without_none)
    write_text(path, tomli_w.dumps(values))


def _without_none(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {key: value for key, value in pairs if value is not None}


def check_same_run(old: TrainConfig, new: TrainConfig, path: Path) -> None:
    """Raise ``ConfigError`` if a run would be resumed with settings that change its result."""
    before, after = dataclasses.asdict(old), dataclasses.asdict(new)
    for key in before:
        if key not in MAY_CHANGE and before[key] != after[key]:
            raise ConfigError(
                f"{path} was started with {key} = {before[key]}, not {after[key]}",
                "use the same settings to resume, or another --name for a new run",
            )
