"""What is installed, what lies where, and what must not be written anywhere."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from tiny import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
TOP_LEVEL = {
    ".ci", ".gitattributes", ".gitignore", "LICENSE", "Makefile", "README.md", "data",
    "environment.yml", "figures", "minillama", "notebooks", "pyproject.toml", "tests",
}  # fmt: skip
MAX_LINES = 400


def tracked(*options: str) -> list[Path]:
    """Files that git keeps, relative to the top."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", *options]
    try:
        done = subprocess.run(command, capture_output=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("this is no git checkout")
    names = done.stdout.decode().split("\0")
    return [Path(name) for name in names if name and (ROOT / name).is_file()]


def pip_lines() -> list[str]:
    """The pip section of environment.yml: lines of a requirements file."""
    return next(d for d in ENVIRONMENT["dependencies"] if isinstance(d, dict))["pip"]


def dependencies() -> list[Requirement]:
    """All that pyproject names, build requirements and extras included."""
    extras = [text for group in PROJECT["optional-dependencies"].values() for text in group]
    return [Requirement(text) for text in PROJECT["dependencies"] + extras]


def pins() -> dict[str, Requirement]:
    lines = (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in found}


def test_the_conda_environment_is_pyproject() -> None:
    """All but Python comes through pip, from pyproject and its constraints, as in the Makefile."""
    assert ENVIRONMENT["name"] == PROJECT["name"]
    assert ENVIRONMENT["channels"] == ["conda-forge"]
    conda = [d for d in ENVIRONMENT["dependencies"] if isinstance(d, str)]
    assert [d for d in conda if not d.startswith("python")] == ["pip"]
    python = next(d for d in conda if d.startswith("python"))
    assert SpecifierSet(python.removeprefix("python")) == SpecifierSet(PROJECT["requires-python"])
    assert pip_lines() == ["-c .ci/constraints.txt", "-e .[dev]"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "install --quiet --disable-pip-version-check -c .ci/constraints.txt" in makefile
    assert "-e '.[dev]'" in makefile


def test_constraints_pin_every_dependency() -> None:
    pinned = pins()
    for pin in pinned.values():
        assert re.fullmatch(r"==[\w.]+", str(pin.specifier)), f"{pin} is no pin"
    for wanted in dependencies():
        name = canonicalize_name(wanted.name)
        assert name in pinned, f"{wanted} has no pin in .ci/constraints.txt"
        version = str(pinned[name].specifier).removeprefix("==")
        assert wanted.specifier.contains(version), f"{wanted} excludes the pin {version}"


def test_constraints_pin_what_the_dependencies_need() -> None:
    """All that is installed because of them, so that no install depends on its day. The builds of
    torch for GPUs name their own exact versions of what they add."""
    pinned, waiting = pins(), dependencies()
    seen: set[str] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in seen or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        waiting += [Requirement(text) for text in metadata.requires(name) or []]
    unpinned = {name for name in seen - set(pinned) if not re.match("nvidia-|cuda-|triton", name)}
    assert not unpinned and len(seen) > 50


def copy_of_the_project(target: Path) -> Path:
    """The files that a clean checkout has (new ones included)."""
    for name in tracked("--cached", "--others", "--exclude-standard"):
        if name.parts[0] in {"minillama", ".ci"} or len(name.parts) == 1:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    return target


def install(folder: Path, python: Path, *options: str) -> None:
    """Do what conda does with the pip section: write it to a file beside environment.yml."""
    (folder / "condaenv.txt").write_text("\n".join(pip_lines()))
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options]
    done = subprocess.run(
        [*command, "-r", "condaenv.txt"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def assert_installed(folder: Path, environment: Path) -> None:
    """The new environment runs the copy, not this checkout."""
    where = "import minillama, torch; print(minillama.__file__)"
    done = subprocess.run(
        [environment / "bin" / "python", "-c", where],
        cwd=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == str(folder / "minillama" / "__init__.py"), done.stderr
    told = subprocess.run(
        [environment / "bin" / "minillama", "--help"], capture_output=True, text=True
    )
    assert told.returncode == 0 and "usage: minillama" in told.stdout


def test_the_environment_installs(tmp_path: Path) -> None:
    """The short form: a fresh environment that may look at the packages installed here, and at no
    index. pip must find every dependency, at the version that the constraints pin."""
    folder = copy_of_the_project(tmp_path / "a copy")
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = environment / "lib" / version / "site-packages"
    site.joinpath("here.pth").write_text(sysconfig.get_path("purelib"))
    install(folder, environment / "bin" / "python", "--no-index", "--no-build-isolation")
    assert_installed(folder, environment)


@pytest.mark.soak
def test_the_environment_installs_from_nothing(tmp_path: Path) -> None:
    folder = copy_of_the_project(tmp_path / "a copy")
    environment = tmp_path / "environment"
    venv.create(environment, symlinks=True, with_pip=True)
    install(folder, environment / "bin" / "python")
    assert_installed(folder, environment)


def test_the_top_level_is_the_design() -> None:
    assert {path.parts[0] for path in tracked()} - TOP_LEVEL == set()
    assert {name for name in TOP_LEVEL if not (ROOT / name).exists()} == set()


def test_ci_runs_make_test(tmp_path: Path) -> None:
    """.ci/run calls `make test` at the top, from wherever it is started, and returns its status."""
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    fake = tmp_path / "make"
    fake.write_text('#!/bin/sh\necho "$(pwd)|$*"\nexit 7\n')
    fake.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [script], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (7, f"{ROOT}|test\n")


def test_files_are_short() -> None:
    long = {
        str(path): count
        for path in tracked("--cached", "--others", "--exclude-standard")
        if path.suffix == ".py"
        and (count := len((ROOT / path).read_text(encoding="utf-8").splitlines())) >= MAX_LINES
    }
    assert not long


UNFINISHED = ["TO" + "DO", "FIX" + "ME", "X" * 3, "place" + "holder(?!=)", "for" + " now",
              "NotImplemented" + "Error"]  # fmt: skip
MACHINE = ["/ro" + "ot/", "/wo" + "rk/", "/ho" + r"me/\w", "/tm" + r"p/\w", "/Us" + r"ers/\w"]
HOSTS = ["py" + r"pi\.org", "python" + r"hosted\.org", "local" + r"host:\d"]
FORBIDDEN = re.compile(rf"\b({'|'.join(UNFINISHED)})\b|{'|'.join(MACHINE + HOSTS)}", re.IGNORECASE)
PICTURES = re.compile(r'"image/[a-z+]+": (\[[^\]]*\]|"[^"]*")')


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("# to" + "do: mend", True),
        ("see /ho" + "me/me/x", True),
        ("https://py" + "pi.org/simple", True),
        ("the method and its fixmerit", False),
        ("/data/corpus and home/me", False),
    ],
)
def test_forbidden_words_are_found(text: str, found: bool) -> None:
    assert bool(FORBIDDEN.search(text)) == found


def test_nothing_unfinished_and_no_machine_is_named() -> None:
    bad = []
    for path in tracked("--cached", "--others", "--exclude-standard"):
        try:
            text = (ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        if path.suffix == ".ipynb":
            text = PICTURES.sub("", text)
        lines = text.splitlines()
        bad += [f"{path}:{i}: {line.strip()[:90]}" for i, line in enumerate(lines, 1)
                if FORBIDDEN.search(line)]  # fmt: skip
    assert not bad, "\n".join(bad)
