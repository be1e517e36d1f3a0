"""Jobs in lanes: their order, their failures, and what is drawn or logged of them."""

import re
import time
from functools import partial

import pytest

from minillama.apps import lanes
from minillama.apps.lanes import Done, Job, Lane, run_jobs, timetable
from minillama.errors import MinillamaError

SLEEPER = """
import sys, time
open('started', 'w').close()
try:
    time.sleep(100)
except SystemExit:
    open('asked to stop', 'w').close()
    raise
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def noted(name, needs=(), cost=0.0):
    """A job that adds its name to a file."""
    return Job(name, partial(exec, f"open('notes', 'a').write('{name} ')"), needs, cost)


def test_the_costliest_ready_job_begins_first(folder):
    jobs = [noted("b", cost=2), noted("b2", ("b",), 9), noted("c"), noted("a", cost=3)]
    done = run_jobs(jobs, 1)
    assert (folder / "notes").read_text().split() == [d.name for d in done] == ["a", "b", "b2", "c"]
    assert {each.lane for each in done} == {1}


def test_jobs_run_side_by_side_with_one_thread(folder):
    meet = (
        "import os, time, torch\nopen('{0}', 'w').close()\nend = time.monotonic() + 60\n"
        "while not os.path.exists('{1}') and time.monotonic() < end: time.sleep(0.01)\n"
        "assert os.path.exists('{1}') and torch.get_num_threads() == 1"
    )
    pairs = (("x", "y"), ("y", "x"))
    jobs = [Job(names[0], partial(exec, meet.format(*names))) for names in pairs]
    assert {each.lane for each in run_jobs(jobs, 2)} == {1, 2}


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("from minillama.errors import DataError; raise DataError('no x', 'get x')",
         r"bad: no x\. Get x\."),
        ("open('absent/file')", r"bad: absent/file: No such file.*"),
        ("import os; os.kill(os.getpid(), 9)", r"bad was killed by signal 9\..*run the same.*"),
        ("import os; os._exit(3)", r"bad ended with exit code 3\..*"),
        ("1 / 0", r"bad ended with exit code 1\..*"),
    ],
)  # fmt: skip
def test_a_failure_names_its_job_and_stops_the_others(folder, capfd, code, expected):
    wait = "import os, time\nwhile not os.path.exists('started'): time.sleep(0.01)\n"
    jobs = [Job("long", partial(exec, SLEEPER)), Job("bad", partial(exec, wait + code))]
    began = time.monotonic()
    with pytest.raises(MinillamaError) as failed:
        run_jobs([*jobs, Job("next", partial(open, "never", "w"), ("bad",))], 2)
    assert re.fullmatch(expected, str(failed.value))
    assert (folder / "asked to stop").exists() and not (folder / "never").exists()
    assert time.monotonic() - began < 60
    assert ("ZeroDivisionError" in capfd.readouterr().out) == ("1 / 0" in code)  # a bug is shown


def test_what_a_job_prints_comes_together_at_its_end(capfd):
    code = "import sys, time\nfor i in range(3): print(i, '{0}', flush=True); time.sleep(0.1)"
    run_jobs([Job(name, partial(exec, code.format(name))) for name in "ab"], 2)
    printed, _ = capfd.readouterr()
    found = [line for line in printed.splitlines() if not line.startswith("===")]
    assert found in ([f"{i} {name}" for name in order for i in range(3)] for order in ("ab", "ba"))


def test_a_log_has_lines_of_progress_at_intervals(monkeypatch, capfd):
    monkeypatch.setattr(lanes, "LOG_SECONDS", 0.5)
    code = (
        "import sys, time, tqdm\n"
        "for _ in tqdm.tqdm(range(200), desc='steps', mininterval=0, disable=None):\n"
        "    time.sleep(0.01)"
    )
    run_jobs([Job("job", partial(exec, code))], 1)
    printed, error = capfd.readouterr()
    drawn = [line for line in printed.splitlines() if line.startswith("steps: ")]
    assert 2 <= len(drawn) <= 12 and "100%" in drawn[-1] and "\r" not in printed + error


def test_progress_is_what_stands_behind_the_last_return():
    lane = Lane(1)
    lane.start(Job("job", partial(print, "one\rtwo\nthree\r\rfo\u00fcr", end="")))
    while lane.read():
        pass
    assert lane.lines == ["two"] and lane.progress == "fo\u00fcr"
    assert lane.finish().name == "job"


def test_the_timetable():
    rows = [Done("late", 105.4, 61.2, 2), Done("early", 100.0, 3.0)]
    lines = [line.split() for line in timetable(rows).splitlines()]
    assert lines[1:] == [["early", "-", "0:00", "0:03"], ["late", "2", "0:05", "1:01"]]
