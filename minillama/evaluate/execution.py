"""Running programs that a model wrote (HumanEval, MBPP): only here, and only in a sandbox.

Each program gets a process of its own (``sandbox``): a fresh interpreter in a session of its own,
with an empty environment, no inherited files, an empty temporary folder, and limits of time, memory
and output. It cannot open files, start processes, reach a network or send signals, so there is
nothing that could outlive it. Where the kernel cannot refuse these things, nothing is run at all.

What this does not do: a program may walk its own interpreter's frames to the token and so feign
success (that harms a score, not the machine), and a fault in the kernel itself is not guarded
against. For models that are trained to pass these tests, use a virtual machine as well.
"""

import contextlib
import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from minillama.errors import ConfigError

SANDBOX = Path(__file__).with_name("sandbox.py")
INTERPRETER = (sys.executable, "-S", "-s", "-P", "-B", "-X", "utf8", str(SANDBOX))
"""Without site-packages, the user's folder, the current folder, and compiled files."""


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    cpu_seconds: int = 5
    """Time on a processor; whole seconds, as the kernel counts."""
    wall_seconds: float = 20.0
    """Time on the clock: longer, since a busy machine lets a program wait."""
    memory: int = 512 << 20
    """Address space in bytes, the interpreter's own (about 100 MB) included."""
    output: int = 64 << 10
    """Bytes it may print."""
    file_bytes: int = 0
    """The largest file it may write (it can open none; this is a second lock)."""


DEFAULT = Limits()


@dataclass(frozen=True)
class Outcome:
    """What became of a program."""

    passed: bool
    """It ran to its last line, past all of its tests."""
    reason: str
    """"passed", "time", "output", or the last line it printed, which names the error."""


def run_program(parts: Sequence[str], limits: Limits = DEFAULT) -> Outcome:
    """Run a program in the sandbox.

    Args:
        parts: sources that run one after the other in one module: the code, then its tests.
        limits: what it may use.

    Raises:
        ConfigError: this system cannot confine a program.
    """
    outcome, active = _run(parts, limits)
    if not active:
        raise ConfigError(f"the sandbox does not start: {outcome.reason}", "use Linux")
    if not active["seccomp"]:
        raise ConfigError(
            "this system has no seccomp filter, so generated code is not run",
            "use Linux on x86_64 or aarch64, or do not ask for code to be run",
        )
    return outcome


def run_programs(
    programs: Sequence[Sequence[str]],
    limits: Limits = DEFAULT,
    workers: int | None = None,
    done: Callable[[], object] = lambda: None,
) -> list[Outcome]:
    """Run many programs, ``workers`` at a time (default: one for each processor)."""

    def one(program: Sequence[str]) -> Outcome:
        outcome = run_program(program, limits)
        done()
        return outcome

    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(one, programs))


@cache
def defenses() -> dict[str, bool]:
    """Which defenses hold on this system, by name.

    ``limits`` (CPU time, memory, files) and ``seccomp`` (no files, processes, sockets, signals) are
    the least that is asked for; ``network`` (an empty network of its own) and ``nobody`` (not root)
    are a second lock on the same doors, where the system permits it.
    """
    _, active = _run([""], DEFAULT)
    return {name: active.get(name, False) for name in ("limits", "seccomp", "network", "nobody")}


def _run(parts: Sequence[str], limits: Limits) -> tuple[Outcome, dict[str, bool]]:
    if sys.platform != "linux":
        return Outcome(False, "no sandbox"), {}
    token = secrets.token_hex(16)
    job = {
        "parts": list(parts),
        "token": token,
        "parent": os.getpid(),
        "seconds": limits.cpu_seconds,
        "memory": limits.memory,
        "file_bytes": limits.file_bytes,
    }
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as work:
        work.write(json.dumps(job).encode())
        work.seek(0)
        process = subprocess.Popen(
            INTERPRETER,
            cwd=folder,
            env={"HOME": folder, "TMPDIR": folder, "PYTHONHASHSEED": "0"},
            stdin=work,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, stopped = _listen(process, limits)
        finally:
            with contextlib.suppress(ProcessLookupError):  # all of its session, whoever is left
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            process.stdout.close()
    first, _, rest = output.partition(b"\n")
    active = json.loads(first) if first.startswith(b"{") else {}
    if stopped:
        return Outcome(False, stopped), active
    if active.get("seccomp") and rest.endswith(token.encode()):
        return Outcome(True, "passed"), active
    return Outcome(False, _reason(rest, process.returncode)), active


def _listen(process: subprocess.Popen, limits: Limits) -> tuple[bytes, str]:
    """What it printed, until it ended, or why it has to be ended."""
    deadline, output = time.monotonic() + limits.wall_seconds, b""
    pipe = process.stdout.fileno()
    while (left := deadline - time.monotonic()) > 0:
        if select.select([pipe], [], [], left)[0]:
            block = os.read(pipe, 1 << 16)
            output += block
            if not block:
                return output, _await(process, deadline)
            if len(output) > limits.output:
                return output, "output"
    return output, "time"


def _await(process: subprocess.Popen, deadline: float) -> str:
    """It closed its output; wait for its end."""
    try:
        code = process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return "time"
    return "time" if code in (-signal.SIGXCPU, -signal.SIGKILL) else ""


def _reason(output: bytes, code: int) -> str:
    """The last line, or how it ended."""
    lines = output.decode("utf-8", "replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return last[:200] or f"ended early, with status {code}"
