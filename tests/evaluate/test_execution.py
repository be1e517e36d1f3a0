"""The sandbox, from the outside: programs that try to get out, and programs that should pass.

That a program fails is not enough: each test names what stopped it.
"""

import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from minillama.errors import ConfigError
from minillama.evaluate import execution, sandbox
from minillama.evaluate.execution import DEFAULT, Limits, _run, run_program, run_programs

if not sys.platform.startswith("linux"):
    pytest.skip("the sandbox is made of Linux", allow_module_level=True)
QUICK = Limits(cpu_seconds=1, wall_seconds=10)
PATIENT = Limits(cpu_seconds=20, wall_seconds=50)
REFUSED = "PermissionError"
LIBC = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"


def ours():
    """The processes that descend from this one or run the sandbox, by their command."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue
        if parent == os.getpid() and "sandbox" in command:
            found.append(command)
    return found


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path, monkeypatch):
    """After each test: no process, no file, and the time is short."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    began = time.monotonic()
    yield
    assert ours() == []
    assert list(tmp_path.iterdir()) == []
    assert time.monotonic() - began < 60


def test_the_defenses_of_this_system():
    _, active = _run([""], DEFAULT)
    assert set(active) == {"limits", "seccomp", "network", "nobody"}
    assert active["limits"] and active["seccomp"]


def test_code_that_is_right_and_code_that_is_not():
    good = "import math\ndef f(x):\n    return math.sqrt(x)\n"
    assert run_program([good, "assert f(4) == 2"]).passed
    assert run_program([good, "assert f(4) == 3"]).reason == "AssertionError"
    assert run_program([good, "assert f(-1)"]).reason == "ValueError: math domain error"
    assert "SyntaxError" in run_program(["def f(:", ""]).reason
    assert run_program([]).passed


OUTSIDE = Path(tempfile.gettempdir()) / "minillama-was-here"
ESCAPES = {
    "fork bomb": ("import os\nwhile True: os.fork()", REFUSED),
    "double fork": ("import os\nif os.fork() == 0:\n os.setsid()\n os.fork()", REFUSED),
    "spawn": ("import os\nos.posix_spawn('/bin/sh', ['sh'], {})", REFUSED),
    "exec": ("import os\nos.execv('/bin/sh', ['sh', '-c', 'echo'])", REFUSED),
    "shell": ("import os\nassert os.system('true') == 0", "AssertionError"),
    "threads": ("import threading\nwhile 1: threading.Thread(target=print).start()", "thread"),
    "endless loop": ("while True: pass", "time"),
    "deaf loop": ("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile 1: pass",
                  "time"),
    "more time": ("import resource\nresource.setrlimit(resource.RLIMIT_CPU, (9, 9))", "Error"),
    "memory hog": ("x = bytearray(1 << 40)", "MemoryError"),
    "slow hog": ("x = []\nwhile True: x.append(bytearray(1 << 24))", "MemoryError"),
    "output flood": ("while True: print('x' * 1000)", "output"),
    "error flood": ("import os\nwhile True: os.write(2, b'x' * 1000)", "output"),
    "file outside": (f"open({str(OUTSIDE)!r}, 'w')", REFUSED),
    "file in the folder": ("open('x', 'w')", REFUSED),
    "huge file": ("f = open('x', 'wb')\nwhile 1: f.write(bytes(1 << 20))", REFUSED),
    "memory file": ("import os\nos.memfd_create('x')", REFUSED),
    "reading": ("open('/etc/passwd').read()", REFUSED),
    "listing": ("import os\nos.listdir('/')", REFUSED),
    "deleting": (f"import os\nos.remove({str(OUTSIDE)!r})", REFUSED),
    "memory of the parent": ("import os\nopen(f'/proc/{os.getppid()}/environ').read()", REFUSED),
    "own environment": ("open('/proc/self/environ').read()", REFUSED),
    "killing the parent": ("import os\nos.kill(os.getppid(), 9)", REFUSED),
    "killing all": ("import os\nos.kill(-1, 9)", REFUSED),
    "killing its group": ("import os\nos.killpg(0, 9)", REFUSED),
    "input": ("input()", "EOFError"),
    "network module": ("import socket", "ModuleNotFoundError"),
}  # fmt: skip


@pytest.mark.parametrize("name", ESCAPES)
def test_no_way_out(name):
    program, reason = ESCAPES[name]
    # What time must stop has little; the others have enough to reach their end on a slow machine.
    limits = QUICK if reason == "time" else PATIENT
    outcome = run_program([program], limits)
    assert not outcome.passed and reason in outcome.reason, outcome
    assert not OUTSIDE.exists()


@pytest.mark.parametrize("family", ["AF_INET", "AF_UNIX", "AF_NETLINK"])
def test_no_sockets(family):
    number = {"AF_UNIX": 1, "AF_INET": 2, "AF_NETLINK": 16}[family]
    program = LIBC + (
        f"assert libc.socket({number}, 1, 0) == -1 and ctypes.get_errno() == 1\n"
        f"pair = (ctypes.c_int * 2)()\nassert libc.socketpair({number}, 1, 0, pair) == -1\n"
    )
    assert run_program([program]).passed


def test_calls_by_number_are_refused():
    """Making a process, tracing, another namespace, a new limit, the 32-bit numbers of x86."""
    refused = {"x86_64": [56, 57, 58, 59, 62, 101, 157, 160, 234, 272, 302, 425, 435, 438, 1 << 30],
               "aarch64": [117, 129, 130, 131, 164, 167, 220, 221, 261, 425, 435, 438],
               }[os.uname().machine]  # fmt: skip
    program = LIBC + (
        f"for number in {refused}:\n"
        "    assert libc.syscall(number, 0, 0, 0, 0, 0, 0) == -1, number\n"
        "    assert ctypes.get_errno() == 1, number\n"
    )
    assert run_program([program]).passed


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="machine code of x86")
def test_the_older_way_into_the_kernel_ends_the_program():
    """``int 0x80`` counts calls differently: number 2 is fork there."""
    program = LIBC + (
        "libc.mmap.restype = ctypes.c_void_p\n"
        "page = libc.mmap(None, 4096, 7, 34, -1, 0)\n"
        "ctypes.memmove(page, bytes.fromhex('b802000000cd80c3'), 8)\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(page)()\n"
    )
    outcome = run_program([program])
    assert not outcome.passed and re.search(r"status -(31|11)", outcome.reason), outcome


def test_no_secrets_are_inherited(monkeypatch):
    monkeypatch.setenv("SECRET_KEY", "open sesame")
    program = (
        "import os\nassert set(os.environ) <= {'HOME', 'LC_CTYPE', 'PYTHONHASHSEED', 'TMPDIR'}"
    )
    assert run_program([program]).passed


def test_no_files_are_inherited(tmp_path):
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    program = (
        "import os\nfor number in range(3, 64):\n    try:\n        os.close(number)\n"
        "    except OSError:\n        continue\n    raise AssertionError(number)\n"
    )
    try:
        assert run_program([program]).passed
        assert not run_program([program.replace("3", "2")]).passed  # it would be noticed
    finally:
        os.close(reading)
        os.close(writing)


def test_a_sleeper_is_ended():
    began = time.monotonic()
    outcome = run_program(["import time\ntime.sleep(100)"], Limits(wall_seconds=2))
    assert outcome.reason == "time" and time.monotonic() - began < 30


def test_closing_the_output_does_not_help():
    program = "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(100)"
    assert run_program([program], Limits(wall_seconds=2)).reason == "time"


FORGERIES = {
    "sys.exit": "import sys\nsys.exit()",
    "SystemExit": "raise SystemExit(0)",
    "os._exit": "import os\nos._exit(0)",
    "printing": "import os\nprint('passed')\nos.write(1, b'passed' + bytes(16).hex().encode())\n"
                "os._exit(0)",
    "reading the job again": "import os\ntry:\n os.lseek(0, 0, 0)\nexcept OSError: pass\n"
                             "print(os.read(0, 10**6).decode()[-500:])\nos._exit(0)",
    "another check": "def check(f): pass\nf = None",
    "other exec": "import builtins, os\nbuiltins.exec = builtins.compile = lambda *a: None\n"
                  "os.write = os._exit = lambda *a: None",
    "other errors": "import builtins\nclass E(Exception):\n    __init__ = lambda s, *a: None\n"
                    "builtins.AssertionError = E",
    "open quote": "x = '''",
    "open bracket": "x = (",
    "hidden tests": "if False:\\\n",
    "at the end": "import atexit, os\natexit.register(os._exit, 0)",
    "no output": "import sys\nsys.stdout = sys.stderr = None",
    "tracing": "import sys\nsys.settrace(lambda *a: sys.exit(0))",
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_no_way_around_the_tests(name):
    tests = "def check(f):\n    '''a text'''\n    assert f == 1\ncheck(f)\n"
    outcome = run_program([FORGERIES[name], tests])
    assert not outcome.passed
    assert run_program(["f = 1", tests]).passed


def test_results_do_not_depend_on_chance():
    program = "assert list({'a', 'b', 'c', 'd', 'e', 'f'}) == "
    order = run_program(["raise ValueError(list({'a', 'b', 'c', 'd', 'e', 'f'}))"]).reason
    assert run_program([program + order.removeprefix("ValueError: ")]).passed


def test_many_at_once_keep_their_order():
    told = []
    programs = [[f"assert {i} % 3"] for i in range(9)]
    outcomes = run_programs(programs, workers=4, done=lambda: told.append(1))
    assert [outcome.passed for outcome in outcomes] == [bool(i % 3) for i in range(9)]
    assert len(told) == 9


def test_without_a_filter_nothing_runs(monkeypatch, tmp_path_factory):
    """The same file on a machine that it does not know."""
    copy = tmp_path_factory.mktemp("copy") / "sandbox.py"
    text = Path(sandbox.__file__).read_text()
    text = text.replace("platform.machine()", "'abacus'")
    copy.write_text(text.replace("run(translate(", "write(1, b'it ran') or run(translate("))
    monkeypatch.setattr(execution, "INTERPRETER", (sys.executable, "-S", "-P", str(copy)))
    with pytest.raises(ConfigError, match="no seccomp filter"):
        run_program(["pass"])
    outcome, active = execution._run(["pass"], Limits())
    assert not active["seccomp"] and "it ran" not in outcome.reason
    monkeypatch.setattr(execution, "INTERPRETER", (sys.executable, "-c", "raise ValueError('x')"))
    with pytest.raises(ConfigError, match="does not start: ValueError"):
        run_program(["pass"])


def answer(program: bytes, architecture: int, number: int) -> int:
    """What the kernel would answer: the few operations of the filter, one by one."""
    steps = [struct.unpack_from("HBBI", program, at) for at in range(0, len(program), 8)]
    value, at = 0, 0
    while True:
        operation, yes, no, constant = steps[at]
        if operation == 0x20:
            value = {0: number, 4: architecture}[constant]
        elif operation == 0x15:
            at += yes if value == constant else no
        else:
            assert operation == 0x06
            return constant
        at += 1


@pytest.mark.parametrize("machine", sandbox.MACHINES)
def test_the_filter_permits_its_list_and_nothing_else(machine):
    column, architecture = sandbox.MACHINES[machine]
    program = sandbox.seccomp_filter(machine)
    permitted = {row[column] for row in sandbox.CALLS.values()}
    for number in [*range(600), 1 << 30, (1 << 30) + 57, (1 << 32) - 1]:
        wanted = 0x7FFF0000 if number in permitted else 0x00050001
        assert answer(program, architecture, number) == wanted
    assert answer(program, 0x40000003, 1) == 0x80000000  # i386: ends the process


@pytest.mark.parametrize(
    ("column", "header"),
    [
        (0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
        (1, "/usr/include/asm-generic/unistd.h"),
    ],
)
def test_the_numbers_are_the_kernels(column, header):
    if not Path(header).exists():
        pytest.skip("no kernel headers here")
    text = Path(header).read_text()
    pairs = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)
    numbers = {name: int(number) for name, number in pairs}
    for name, row in sandbox.CALLS.items():
        assert numbers[name] == row[column], name


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
def test_as_an_ordinary_user(tmp_path_factory):
    """An interpreter that all may use, and a copy of the two files that it needs."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    version = [python, "-c", "import sys; print(sys.version_info >= (3, 11))"]
    if python is None or subprocess.check_output(version).strip() != b"True":
        pytest.skip("no Python for all users")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        root = Path(execution.__file__).parents[1]
        for name in ("__init__.py", "errors.py", "config.py", "evaluate/execution.py",
                     "evaluate/sandbox.py"):  # fmt: skip
            target = Path(folder, "minillama", name)
            target.parent.mkdir(exist_ok=True, parents=True)
            shutil.copy(root / name, target)
        shutil.copytree(root / "presets", Path(folder, "minillama/presets"))
        Path(folder, "minillama/evaluate/__init__.py").touch()
        subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
        code = (
            "import os\nfrom minillama.evaluate.execution import run_program\n"
            "print(os.getuid(), run_program(['x = 1']).passed,\n"
            "      run_program(['import os', 'os.fork()']).reason)\n"
        )
        told = subprocess.run(
            [python, "-c", code], cwd=folder, user=12345, group=12345, extra_groups=[],
            env={"TMPDIR": "/tmp"}, capture_output=True, text=True,
        )  # fmt: skip
    assert told.stdout.startswith("12345 True PermissionError"), told.stderr


def test_nothing_outlives_an_evaluation_that_is_killed(tmp_path):
    """The kernel ends the program as soon as the process that started it is gone."""
    code = (
        "from minillama.evaluate.execution import run_program\n"
        "run_program(['import os, time\\ntime.sleep(1000)'])\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    evaluation = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, cwd=Path(execution.__file__).parents[2]
    )
    children = Path(f"/proc/{evaluation.pid}/task/{evaluation.pid}/children")
    if not children.exists():
        evaluation.kill()
        pytest.skip("this kernel does not tell children")
    deadline = time.monotonic() + 60
    while not (born := children.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.02)
    child = Path(f"/proc/{born[0]}/status")
    while "Seccomp:\t2" not in child.read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    evaluation.kill()
    evaluation.wait()
    while child.exists() and "State:\tZ" not in child.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for folder in tmp_path.iterdir():
        assert list(folder.iterdir()) == []
        folder.rmdir()
