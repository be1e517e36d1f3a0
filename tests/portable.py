"""The tests and notebooks under other processors, threads, locales and Pythons.

``make portable``, or ``python tests/portable.py [arguments of pytest…]``. Prints one table, a row
for each environment. A Python that is not here, or in which torch cannot be installed, gets a row
that says so. Ends with 1 if anything failed.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from minillama.tables import text_table  # noqa: E402

EVERYTHING = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "tests"]
EVERYTHING += ["--nbval", "notebooks"]
COLUMNS = ("passed", "failed", "skipped")
PYTHONS = ("3.12", "3.13")
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "as it is": {},
    "torch without vector units": {"ATEN_CPU_CAPABILITY": "default"},
    "torch with AVX2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "oneDNN and MKL with SSE4": {
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    },
    "one thread": {"OMP_NUM_THREADS": "1"},
    "two threads": {"OMP_NUM_THREADS": "2"},
    "four threads": {"OMP_NUM_THREADS": "4"},
    "another hash seed": {"PYTHONHASHSEED": "1"},
    "time of Kolkata": {"TZ": "Asia/Kolkata"},
    "locale C": {"LC_ALL": "C"},
}


def run_tests(python: str, variables: dict[str, str], arguments: list[str]) -> tuple[str, ...]:
    """Run pytest and return its counts, in the order of ``COLUMNS``, and the seconds."""
    began = time.monotonic()
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | variables
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    print(done.stdout[-4000:], done.stderr[-1000:], sep="\n", file=sys.stderr, flush=True)
    counts = {"passed": 0, "failed": 0, "skipped": 0}
    last = done.stdout.rstrip().rpartition("\n")[2]
    for number, word in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", last):
        column = word if word in counts else "failed"
        counts[column] += int(number)
    if done.returncode and not counts["failed"]:
        counts["failed"] = f"exit {done.returncode}"  # pytest itself could not run
    return *(str(counts[column]) for column in COLUMNS), f"{time.monotonic() - began:.0f}"


def find_python(version: str) -> str | None:
    """Return the path of a Python of this version that runs, from PATH or from pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    places = [shutil.which(f"python{version}"), *pyenv.glob(f"{version}*/bin/python")]
    for place in filter(None, places):
        probe = [str(place), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(probe, capture_output=True, text=True)
        if done.stdout.strip() == version:
            return str(place)
    return None


def make_environment(version: str) -> str | None:
    """Return the Python of an environment with all that the tests need, or None."""
    base = find_python(version)
    folder = ROOT / ".venv" / f"portable-{version}"
    python = str(folder / "bin" / "python")
    complete = folder / ".complete"
    if base is None or complete.exists():
        return base and python
    pip = [python, "-m", "pip", "install", "--quiet", "-c", ".ci/constraints.txt"]
    for command in (
        [base, "-m", "venv", "--clear", str(folder)],
        [*pip, "setuptools", "wheel"],
        [*pip, "--no-build-isolation", "-e", ".[dev]"],
    ):
        if subprocess.run(command, cwd=ROOT).returncode:
            return None
    complete.touch()
    return python


def main(arguments: list[str]) -> int:
    """Run every environment and print the table; 1 if anything failed."""
    arguments = arguments or EVERYTHING
    rows = []
    for name, variables in ENVIRONMENTS.items():
        rows.append((name, *run_tests(sys.executable, variables, arguments)))
    for version in PYTHONS:
        python = make_environment(version)
        cells = run_tests(python, {}, arguments) if python else ("not here", None, None, None)
        rows.append((f"Python {version}", *cells))
    print(text_table(("environment", *COLUMNS, "seconds"), rows))
    return int(any(row[2] not in ("0", None) for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
