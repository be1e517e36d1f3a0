"""The inside of the sandbox: what a fresh process does to itself before it runs unknown code.

``execution`` starts this file in a new interpreter. Everything that a program may need is imported
first; then the process gives away, for good, whatever it could do harm with. What remains is to
compute, and to write to one pipe. The standard library alone is used, since nothing else is there.

The core is a seccomp filter (Linux 3.5, 2012): a list of the system calls that are permitted, which
the kernel checks at every call, which needs no privilege to install, and which nobody can remove.
All others are refused with "Operation not permitted": opening a file, making a process or a socket,
sending a signal, changing a limit.
"""

import contextlib
import ctypes
import json
import os
import platform
import resource
import struct
import sys
import types

MODULES = (
    "_strptime", "abc", "array", "ast", "base64", "bisect", "calendar", "cmath", "collections",
    "collections.abc", "contextlib", "copy", "dataclasses", "datetime", "decimal",
    "encodings.ascii", "encodings.idna", "encodings.latin_1", "enum", "fractions", "functools",
    "hashlib", "heapq", "inspect", "io", "itertools", "json", "keyword", "locale", "math",
    "numbers", "operator", "os", "os.path", "pprint", "queue", "random", "re", "reprlib",
    "secrets", "signal", "statistics", "string", "struct", "sys", "textwrap", "threading", "time",
    "timeit", "traceback", "types", "typing", "unicodedata", "uuid", "warnings",
)  # fmt: skip
"""What programs may import: all of it is loaded beforehand, for later no file can be opened."""

CALLS = {
    # name: its number on x86_64, and on aarch64
    "read": (0, 63), "write": (1, 64), "close": (3, 57),
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "sched_yield": (24, 124), "mremap": (25, 216), "madvise": (28, 233), "nanosleep": (35, 101),
    "getpid": (39, 172), "exit": (60, 93), "getcwd": (79, 17), "gettimeofday": (96, 169),
    "getrusage": (98, 165), "times": (100, 153), "getuid": (102, 174), "getppid": (110, 173),
    "sigaltstack": (131, 132), "gettid": (186, 178), "futex": (202, 98),
    "restart_syscall": (219, 128), "clock_gettime": (228, 113), "clock_getres": (229, 114),
    "clock_nanosleep": (230, 115), "exit_group": (231, 94), "getrandom": (318, 278),
}  # fmt: skip
"""The permitted system calls: memory, clocks, and descriptors that are open already."""
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column of ``CALLS``, and the kernel's name for the machine."""

PARENT_DEATH_SIGNAL, NO_NEW_PRIVILEGES, SECCOMP = 1, 38, 22  # prctl(2)
NEW_NETWORK, NEW_USER, NEW_IPC = 0x40000000, 0x10000000, 0x08000000  # unshare(2)
SIGKILL, NOBODY = 9, 65534


def limit_resources(seconds: int, memory: int, file_bytes: int) -> None:
    """Limits that the kernel keeps, for root as well. CPU time in seconds, the others in bytes."""
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: 16,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        hard = resource.getrlimit(kind)[1]  # which none but root may raise
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def separate(libc: ctypes.CDLL) -> dict[str, bool]:
    """Leave the machine's network for an empty one, and root's account for one without rights.

    Each only where the system permits it: root may do both, others at most the first.
    """
    network = libc.unshare(NEW_NETWORK | NEW_IPC) == 0
    root = os.getuid() == 0
    if root:
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            root = False
    if not network:
        network = libc.unshare(NEW_NETWORK | NEW_IPC | NEW_USER) == 0
    return {"network": network, "nobody": not root}


def seccomp_filter(machine: str) -> bytes:
    """The list of permitted calls as a program for the kernel (classic BPF, 8 bytes a step)."""
    column, architecture = MACHINES[machine]
    numbers = sorted(row[column] for row in CALLS.values())
    load, equal, give = 0x20, 0x15, 0x06  # operations
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # answers; 1 is EPERM
    steps = [
        (load, 0, 0, 4),  # the machine that the call was made for
        (equal, 1, 0, architecture),
        (give, 0, 0, kill),
        (load, 0, 0, 0),  # the number of the call
    ]
    for i, number in enumerate(numbers):  # equal: jump over the rest, to the last step
        steps.append((equal, len(numbers) - i, 0, number))
    steps.append((give, 0, 0, refuse))
    steps.append((give, 0, 0, allow))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


def forbid(libc: ctypes.CDLL, machine: str) -> bool:
    """Install the filter; False where the kernel has none."""
    if machine not in MACHINES:
        return False
    code = ctypes.create_string_buffer(seccomp_filter(machine))
    program = struct.pack("HxxxxxxP", (len(code) - 1) // 8, ctypes.addressof(code))
    none, one, filter_mode = (ctypes.c_ulong(value) for value in range(3))
    if libc.prctl(NO_NEW_PRIVILEGES, one, none, none, none) != 0:
        return False
    return libc.prctl(SECCOMP, filter_mode, ctypes.c_char_p(program), none, none) == 0


def lock(parent: int, seconds: int, memory: int, file_bytes: int) -> dict[str, bool]:
    """All defenses, outermost last; which of them hold."""
    libc = ctypes.CDLL(None, use_errno=True)
    active = separate(libc)
    libc.prctl(PARENT_DEATH_SIGNAL, SIGKILL)  # after the change of account, which clears it
    if os.getppid() != parent:
        os._exit(1)
    limit_resources(seconds, memory, file_bytes)
    return active | {"limits": True, "seccomp": forbid(libc, platform.machine())}


def main() -> None:
    """Read a job from standard input, lock the door, run its parts, and say so with the token.

    The token is known to this function alone, and written after the last line of the last part; so
    an exit in the middle, with whatever status, or any printed words, are no success.
    """
    job = json.load(sys.stdin)
    os.close(0)  # the job cannot be read a second time
    os.open(os.devnull, os.O_RDONLY)  # takes the number that is free now: 0
    for name in MODULES:
        __import__(name)
    parts, token = job.pop("parts"), job.pop("token").encode()
    write, leave, flush, run, translate = os.write, os._exit, sys.stdout.flush, exec, compile
    scope = types.ModuleType("generated")
    sys.modules["generated"] = scope  # where dataclasses and typing look for it
    active = lock(**job)
    write(1, json.dumps(active).encode() + b"\n")
    if not active["seccomp"]:
        leave(1)
    for part in parts:  # compiled one by one, so that an open quote cannot swallow the tests
        run(translate(part, "generated", "exec"), scope.__dict__)
    flush()
    write(1, token)
    leave(0)


if __name__ == "__main__":
    main()
