"""The floors of the house: a module imports from its own floor or below, never from above."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "minillama"
FLOORS = [
    {"errors", "files"},
    {"config", "paper"},
    {"model", "tokenizer", "corpus"},
    {"efficient", "parallel", "generate", "convert"},
    {"train", "evaluate"},
    {"analysis", "finetune"},
    {"cli", "bench", "teach", "reproduce", "serve"},
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def part(dotted: str) -> str:
    """``minillama.train.loop`` is of the part ``train``; the package itself is ''."""
    return (dotted.split(".") + [""])[1]


def floor(name: str) -> int:
    return next(i for i, names in enumerate(FLOORS) if name in names)


def imported_parts(path: Path) -> set[str]:
    """The parts that a module imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "minillama":
                names |= {f"minillama.{alias.name}" for alias in node.names}
            names.add(node.module or "")
    return {part(name) for name in names if name.startswith("minillama.")}


def belongs_to(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_every_part_has_a_floor() -> None:
    known = set().union(*FLOORS) | {"__init__", "__main__"}
    assert {belongs_to(path) for path in MODULES} <= known


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_imports_upward(path: Path) -> None:
    if path.name == "__main__.py" or path == PACKAGE / "__init__.py":
        return  # doors, not rooms: they lead to the command line, or name what is inside
    mine = floor(belongs_to(path))
    exported = {"Llama": "model", "ModelConfig": "config", "MinillamaError": "errors",
                "Tokenizer": "tokenizer", "__version__": "errors"}  # fmt: skip
    for name in imported_parts(path):
        assert floor(exported.get(name, name)) <= mine, f"{path} imports minillama.{name}"


def test_the_check_sees_imports_inside_functions(tmp_path: Path) -> None:
    module = tmp_path / "x.py"
    module.write_text(
        "def f():\n    from minillama.apps.cli import main\n    import minillama.train.loop\n"
    )
    assert imported_parts(module) == {"cli", "train"}
    module.write_text("from minillama import teach\nfrom minillama.model import Llama\nimport os\n")
    assert imported_parts(module) == {"teach", "model"}


def test_model_needs_no_parallel_code() -> None:
    """Nobody needs to read parallel/ to understand model/."""
    used = set().union(*(imported_parts(path) for path in MODULES if belongs_to(path) == "model"))
    assert used == {"config", "errors", "model"}
