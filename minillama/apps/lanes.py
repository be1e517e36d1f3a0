"""Jobs side by side: each in a process of its own with one thread, as many at a time as lanes.

Two threads of one process wait for one another in every small matrix product, and spin while they
wait; two processes never do. So two models, one thread each, train faster than one after the other
with two threads, also where other programs want the cores, and one thread's numbers are the same
on every machine's count of cores.

This file is also the program that runs a job: ``python -m minillama.apps.lanes`` reads a pickled
call from its input.
"""

import codecs
import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from minillama.apps.cli import exit_on_error, print_result
from minillama.errors import MinillamaError
from minillama.tables import text_table
from minillama.train.stop import StopRequest

POLL_SECONDS = 0.2
LOG_SECONDS = 60.0
"""Between two lines of progress where no terminal can draw them in place."""
GRACE_SECONDS = 120.0
"""For a job to end its step and save, when it is asked to stop."""


@dataclass(frozen=True)
class Job:
    """Something to do, once what it needs is done."""

    name: str
    call: Callable[[], Any]
    """What can be pickled; a text that it returns is printed."""
    needs: tuple[str, ...] = ()
    """Names of jobs that come before."""
    cost: float = 0.0
    """Compared with the others': of those that are ready the costliest begins first."""


@dataclass(frozen=True)
class Done:
    """When a job ran and where; seconds of ``time.monotonic``."""

    name: str
    began: float
    seconds: float
    lane: int | None = None
    """None: not beside others."""


class Stopped(Exception):
    """Ctrl-C or SIGTERM came; all jobs have ended, and trainings saved their last step."""

    def __init__(self, signal_number: int) -> None:
        self.exit_code = 128 + signal_number
        super().__init__("stopped; run the same command to go on")


class Lane:
    """One job at a time, its process, and the line that shows how far it is."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: subprocess.Popen | None = None
        options = {"bar_format": "{desc}", "leave": False, "dynamic_ncols": True}
        # Without a terminal nothing is drawn.
        self.bar = tqdm(position=number - 1, disable=None, **options)

    def start(self, job: Job) -> None:
        """Start a process for a job: in a session of its own, so that Ctrl-C comes only to us."""
        self.job, self.began = job, time.monotonic()
        self.lines: list[str] = []
        self.progress = job.name
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "PYTHONIOENCODING": "utf-8",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "minillama.apps.lanes"],
            stdin=subprocess.PIPE,  # stays open: its end tells the process that we are gone
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
        pickle.dump(job.call, self.process.stdin)
        self.process.stdin.flush()
        self.show()

    def read(self) -> bool:
        """Take what the process has printed; False at its end."""
        data = os.read(self.process.stdout.fileno(), 2**16)
        *lines, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        # A carriage return begins a line again: what counts is behind the last one.
        self.lines += [line.rstrip("\r").split("\r")[-1] for line in lines]
        shown = self._rest.rstrip("\r").split("\r")[-1]
        self.progress = shown.strip() or self.progress
        self.show()
        return bool(data)

    def show(self) -> None:
        """Draw the line of progress."""
        self.bar.set_description_str(self.progress)

    def finish(self) -> Done:
        """Print what the job had to say, now that it has ended.

        Raises:
            MinillamaError: it failed or was killed.
        """
        process, self.process = self.process, None
        code = process.wait()
        process.stdin.close()
        process.stdout.close()
        self.bar.set_description_str("")
        seconds = time.monotonic() - self.began
        *lines, last = self.lines or [""]
        if code > 0 and last.startswith("error: "):
            raise MinillamaError(f"{self.job.name}: {last.removeprefix('error: ')}")
        tqdm.write("\n".join([f"=== {self.job.name}: {seconds:.0f} s", *self.lines]))
        if code:
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            hint = "nothing else is lost; run the same command to go on"
            raise MinillamaError(f"{self.job.name} {how}", hint)
        return Done(self.job.name, self.began, seconds, self.number)


def count_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_jobs(jobs: Sequence[Job], count: int) -> list[Done]:
    """Do all jobs, at most ``count`` at a time, each in a fresh process with one thread.

    Raises:
        MinillamaError: a job failed or was killed; the others were stopped first.
        Stopped: after Ctrl-C or SIGTERM.
    """
    waiting = sorted(jobs, key=lambda job: job.cost, reverse=True)
    done: list[Done] = []
    next_log = time.monotonic() + LOG_SECONDS
    lanes = [Lane(number) for number in range(1, count + 1)]
    with StopRequest() as stop:
        try:
            while len(done) < len(jobs):
                start_ready(waiting, lanes, {each.name for each in done})
                for lane in lanes_with_news(lanes):
                    if not lane.read():
                        done.append(lane.finish())
                if stop.number:
                    raise Stopped(stop.number)
                if time.monotonic() > next_log:
                    next_log += LOG_SECONDS
                    log_progress(lanes)
        finally:
            end_all(lanes)
    return done


def start_ready(waiting: list[Job], lanes: Sequence[Lane], done: set[str]) -> None:
    """Give each free lane the first job of ``waiting`` that has all it needs."""
    for lane in lanes:
        ready = [job for job in waiting if done.issuperset(job.needs)]
        if lane.process is None and ready:
            waiting.remove(ready[0])
            lane.start(ready[0])


def lanes_with_news(lanes: Sequence[Lane]) -> list[Lane]:
    """The lanes whose process has printed something or ended, after a short wait at most."""
    with selectors.DefaultSelector() as selector:
        for lane in lanes:
            if lane.process is not None:
                selector.register(lane.process.stdout, selectors.EVENT_READ, lane)
        return [key.data for key, _ in selector.select(POLL_SECONDS)]


def log_progress(lanes: Sequence[Lane]) -> None:
    """Print a line a lane, where it is not drawn already."""
    for lane in lanes:
        if lane.process is not None and lane.bar.disable:
            print(lane.progress, flush=True)


def end_all(lanes: Sequence[Lane]) -> None:
    """Ask what still runs to save and end; kill what does not."""
    running = [lane.process for lane in lanes if lane.process is not None]
    for process in running:
        process.terminate()
    end = time.monotonic() + GRACE_SECONDS
    try:
        for process in running:
            process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass  # killed below
    finally:
        for process in running:
            process.kill()
            process.wait()
        for lane in lanes:
            lane.bar.close()


def run_in_turn(jobs: Sequence[Job]) -> list[Done]:
    """Do all jobs in this process, in their order: what a GPU wants, which one run can fill."""
    return [run_here(job.name, lambda job=job: print_result(job.call()))[1] for job in jobs]


def run_here(name: str, work: Callable[[], Any]) -> tuple[Any, Done]:
    """Do something in this process, between two lines that say what and how long."""
    print(f"=== {name}", flush=True)
    began = time.monotonic()
    result = work()
    seconds = time.monotonic() - began
    print(f"=== {name}: {seconds:.0f} s", flush=True)
    return result, Done(name, began, seconds)


def timetable(done: Sequence[Done]) -> str:
    """What was done when and in which lane, as minutes:seconds."""
    first = min(each.began for each in done)
    rows = []
    for each in sorted(done, key=lambda each: each.began):
        rows.append([each.name, each.lane or "-", clock(each.began - first), clock(each.seconds)])
    return text_table(["stage", "lane", "began", "took"], rows)


def clock(seconds: float) -> str:
    """Minutes and seconds: ``3:07``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def run_job() -> None:
    """The life of a job's process: read a call and make it; end when the parent has ended."""
    # A training saves first, see train/stop.py; what else is half done is taken away.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    call = pickle.load(sys.stdin.buffer)

    def watch() -> None:
        while os.read(0, 1):  # not sys.stdin: Python wants to lock that when it ends
            pass
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    print_result(call())


if __name__ == "__main__":
    sys.stderr.isatty = lambda: True  # the parent draws the bars that are written there
    exit_on_error(run_job)
