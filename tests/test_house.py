"""The house rules: floors without circles, three doors, and budgets of lines and of density.

Imports inside functions count. The budgets are ratchets:
lower them when the package shrinks, and do not raise them to let something in.
"""

import ast
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "minillama"
FLOORS = [
    {"errors", "files", "paper"},
    {"config", "tables"},
    {"tokenizer", "model"},
    {"corpus"},
    {"efficient"},
    {"parallel"},
    {"train"},
    {"inference"},
    {"evaluate"},
    {"finetune", "analysis"},
    {"figures"},
    {"interop"},
    {"scale"},
    {"apps"},
    {"bench", "teach"},
]
"""Rooms of the package, from the ground up: a file imports from its own floor or from below."""
MACHINERY = {"interop", "scale", "apps"}
SCHOOL = {"bench", "teach"}

PACKAGE_LINES = 25_900
"""The goal is 17,500."""
CORE_LINES = 14_750
"""The goal is 10,000."""
FILE_LINES = 400
CLOSURES = {"train.loop": 2_950, "figures.loss": 700, "model.transformer": 710}
"""Lines of a module and of all it imports, directly or not. The goals are 2,000, 700 and 600."""
DENSITY_MEDIAN, DENSITY_90TH = 13.75, 18
"""Syntax nodes of a function over the non-blank lines of its body (four lines or more). The goals
are 12.5 and 18."""

FILES = sorted(PACKAGE.rglob("*.py"))
DOORS = {"__main__", "__init__"}
"""Not rooms: ``python -m minillama``, ``python -m minillama.train``, ``import minillama``."""


def dotted(path: Path) -> str:
    """``minillama/train/loop.py`` is ``train.loop``; an ``__init__.py`` is its package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {dotted(path): path for path in FILES}


def room(module: str) -> str:
    return module.split(".")[0]


def is_door(module: str) -> bool:
    return module.split(".")[-1] in DOORS


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def line_count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def imported_names(node: ast.Module | ast.stmt) -> Iterator[str]:
    """Every dotted name below ``minillama`` that is imported, also inside functions."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "a relative import"
            names = [f"{child.module}.{alias.name}" for alias in child.names]
        else:
            continue
        yield from (
            name.removeprefix("minillama.") for name in names if name.startswith("minillama.")
        )


PUBLIC = {"Llama": "model", "Tokenizer": "tokenizer", "generate": "inference",
          "ModelConfig": "config", "MinillamaError": "errors"}  # fmt: skip
"""What ``from minillama import …`` names lives in these modules."""


@cache
def imported_modules(path: Path) -> frozenset[str]:
    """The modules of the package that a file imports; a package stands for its ``__init__``."""
    found = set()
    for name in imported_names(tree(path)):
        name = PUBLIC.get(name, name)
        while name not in MODULES and "." in name:
            name = name.rsplit(".", 1)[0]
        if name in MODULES:
            found.add(name)
    return frozenset(found - {dotted(path)})


def closure(module: str) -> set[str]:
    """A module and all that it imports at top level or later, directly or not."""
    seen, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += imported_modules(MODULES[name])
    return seen


def densities(path: Path) -> Iterator[float]:
    """For each function of four lines or more: syntax nodes over non-blank lines of its body."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        documented = ast.get_docstring(node) is not None
        statements = node.body[1:] if documented else node.body
        if not statements:
            continue
        first = node.body[0].end_lineno + 1 if documented else statements[0].lineno
        body = [line for line in lines[first - 1 : node.end_lineno] if line.strip()]
        if len(body) >= 4:
            yield sum(1 for _ in ast.walk(node)) / len(body)


def test_every_file_has_a_floor() -> None:
    rooms = {room(name) for name in MODULES if not is_door(name)}
    assert rooms <= set().union(*FLOORS)


@pytest.mark.parametrize("module", [name for name in MODULES if not is_door(name)])
def test_no_file_imports_upward(module: str) -> None:
    floors = {name: number for number, names in enumerate(FLOORS) for name in names}
    for other in imported_modules(MODULES[module]):
        assert floors[room(other)] <= floors[room(module)], f"{module} imports {other}"


def test_the_paper_needs_no_machinery_and_neither_needs_the_school() -> None:
    for module in MODULES:
        if is_door(module):
            continue
        used = {room(name) for name in imported_modules(MODULES[module])}
        if room(module) not in MACHINERY | SCHOOL:
            assert not used & (MACHINERY | SCHOOL), module
        elif room(module) in MACHINERY:
            assert not used & SCHOOL, module


def test_no_files_import_in_a_circle() -> None:
    for module in MODULES:
        for other in imported_modules(MODULES[module]):
            assert module not in closure(other), f"{module} and {other} import each other"


def test_the_checks_see_imports_inside_functions(tmp_path: Path) -> None:
    source = "def f():\n    from minillama.apps.cli import main\n    import minillama.train.loop\n"
    assert set(imported_names(ast.parse(source))) == {"apps.cli.main", "train.loop"}
    path = tmp_path / "x.py"
    path.write_text("from minillama import Llama\nfrom minillama.model import rotary\nimport os\n")
    assert list(imported_names(ast.parse(path.read_text()))) == ["Llama", "model.rotary"]


def test_model_needs_no_parallel_code() -> None:
    """Nobody needs to read parallel/ to understand model/."""
    assert {room(name) for name in closure("model")} <= {"config", "errors", "model"}


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_a_file_can_be_read_at_one_sitting(path: Path) -> None:
    assert line_count(path) <= FILE_LINES


def test_the_package_stays_compact() -> None:
    lines = {name: line_count(path) for name, path in MODULES.items()}
    core = {name: n for name, n in lines.items() if room(name) not in MACHINERY | SCHOOL}
    assert sum(lines.values()) <= PACKAGE_LINES
    assert sum(core.values()) <= CORE_LINES


@pytest.mark.parametrize("module", CLOSURES)
def test_one_thing_can_be_understood_without_the_rest(module: str) -> None:
    lines = {name: line_count(MODULES[name]) for name in closure(module)}
    assert sum(lines.values()) <= CLOSURES[module], lines


def test_lines_are_not_saved_by_cramming() -> None:
    found = sorted(value for path in FILES for value in densities(path))
    assert statistics.median(found) <= DENSITY_MEDIAN
    assert found[int(0.9 * len(found))] <= DENSITY_90TH


def test_density_counts_nodes_over_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text('def f(x):\n    """Doc."""\n    a = 1\n\n    b = 2\n    c = 3\n    return x\n')
    nodes = sum(1 for _ in ast.walk(ast.parse(path.read_text()).body[0]))
    assert list(densities(path)) == [nodes / 4]
