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
from pathlib import Path

from minillama.errors import ConfigError

SANDBOX = Path(__file__).with_name("sandbox.py")
INTERPRETER = (sys.executable, "-S", "-s", "-P", "-B", "-X", "utf8", str(SANDBOX))
"""Without site-packages, the user's folder, the current folder, and compiled files."""


@dataclass(frozen=True)
class Limits:
    """What one program may use."""

    cpu_seconds: int = 5  # time on a processor; whole seconds, as the kernel counts
    wall_seconds: float = 20.0  # longer, since a busy machine lets a program wait
    memory: int = 512 << 20  # address space in bytes, some 100 MB of the interpreter's included
    output: int = 64 << 10  # bytes it may print
    file_bytes: int = 0  # the largest file it may write; it can open none: a second lock


DEFAULT = Limits()


@dataclass(frozen=True)
class Outcome:
    """What became of a program."""

    passed: bool  # it ran to its last line, past all of its tests
    reason: str  # "passed", "time", "output", or the last line it printed, which names the error


def run_program(parts: Sequence[str], limits: Limits = DEFAULT) -> Outcome:
    """Run sources one after the other in one module, the code and then its tests, in the sandbox.

    Raises ``ConfigError`` if this system cannot confine a program.
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
    outcomes = []
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        for outcome in pool.map(lambda program: run_program(program, limits), programs):
            outcomes.append(outcome)
            done()
    return outcomes


def _run(parts: Sequence[str], limits: Limits) -> tuple[Outcome, dict[str, bool]]:
    """What became of a program, and which defenses held.

    ``limits`` (CPU time, memory, files) and ``seccomp`` (no files, processes, sockets, signals) are
    the least that is asked for; ``network`` (an empty network of its own) and ``nobody`` (not root)
    are a second lock on the same doors, where the system permits it.
    """
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
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as stdin:
        stdin.write(json.dumps(job).encode())
        stdin.seek(0)
        process = subprocess.Popen(
            INTERPRETER,
            cwd=folder,
            env={"HOME": folder, "TMPDIR": folder, "PYTHONHASHSEED": "0"},
            stdin=stdin,
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

    # The first line names the defenses; the token behind the last one is the proof of success.
    first, _, rest = output.partition(b"\n")
    active = json.loads(first) if first.startswith(b"{") else {}
    if stopped:
        return Outcome(False, stopped), active
    if active.get("seccomp") and rest.endswith(token.encode()):
        return Outcome(True, "passed"), active
    lines = rest.decode("utf-8", "replace").split("\n")
    printed = [line.strip() for line in lines if line.strip()]
    reason = printed[-1] if printed else f"ended early, with status {process.returncode}"
    return Outcome(False, reason[:200]), active


def _listen(process: subprocess.Popen, limits: Limits) -> tuple[bytes, str]:
    """What it printed until it ended, and why it has to be ended if it did not."""
    deadline = time.monotonic() + limits.wall_seconds
    output, pipe = b"", process.stdout.fileno()
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([pipe], [], [], left)[0]:
            break
        block = os.read(pipe, 1 << 16)
        output += block
        if len(output) > limits.output:
            return output, "output"
        if not block:  # it closed its output; wait for its end
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(max(0.0, deadline - time.monotonic()))
                return output, "time" if code in (-signal.SIGXCPU, -signal.SIGKILL) else ""
            break
    return output, "time"
