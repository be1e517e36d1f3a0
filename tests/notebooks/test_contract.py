"""The contract that every notebook keeps, checked on the stored files without running them.

See DESIGN.md, decision 2. What a notebook prints is compared by nbval; here we look at its shape.
"""

import ast
import importlib.util
import pkgutil
import re
from functools import cache
from pathlib import Path

import nbformat
import pytest

import minillama
import minillama.efficient

ROOT = Path(__file__).parents[2]
LESSONS = sorted((ROOT / "notebooks").glob("[0-9][0-9]*_*.ipynb"))
SOLUTIONS = sorted((ROOT / "notebooks" / "solutions").glob("*.ipynb"))
NOTEBOOKS = LESSONS + SOLUTIONS
TAGS = {"setup", "derive", "prove", "experiment", "exercise"}
TIMED = "nbval-ignore-output"  # of cells that print measured times, which nbval cannot compare
EXPECTED_LESSONS = {*(f"{number:02}" for number in (*range(13), 17)), "01b", "01c"}
NETWORK_MODULES = {"urllib", "requests", "http", "httpx", "socket", "aiohttp", "ftplib"}
ABSOLUTE_PATH = re.compile(r"^(/(home|root|tmp|usr|Users|mnt|data|content|etc|var)\b|[A-Z]:\\)")

HONEST_FALSE = {  # (notebook, cell) to the lines in which False is the true result, and why
    ("01_data", "n01-017"): {
        "keys are equal: False": "two near copies: a hash sees no likeness",
    },
    ("01_data", "n01-044"): {
        "keys are equal: False": "two spellings of a play: a hash sees no likeness",
    },
    ("01c_five_more_recipes", "n01c-048"): {
        "         2.0%        0.825        0.831   False": "below the threshold of 90%",
        "         5.0%        0.631        0.612   False": "below the threshold of 90%",
        "        30.0%        0.092        0.091   False": "below the threshold of 90%",
    },
    ("03_rmsnorm_and_swiglu", "n03-014"): {
        "unchanged when position 4 changes: [True, True, True, True, False, True]":
            "position 4 itself changes",
        "bfloat16, rounded after the weight:         False": "the order that Meta does not take",
    },
    ("03_rmsnorm_and_swiglu", "n03-026"): {
        "24 layers, rate 0.01: learned {'pre-norm': True, 'post-norm': False}":
            "the experiment's result: deep post-norm does not train",
    },
    ("04_rotary_embeddings", "n04-026"): {
        "one place apart: equal scores False": "two layouts mixed up, on purpose",
    },
    ("05_attention_block_and_sizes", "n05-024"): {
        "honest: in training below 1.0: False  prefix by prefix: the same":
            "only the model that sees the future falls so low",
    },
    ("06_optimizer_and_training", "n06-040"): {
        "averages restored: False  same weights as the whole run: False":
            "a careless resume, on purpose",
    },
    ("06_optimizer_and_training", "n06-048"): {
        "the model needs fewer bits than 5-grams of pieces, text read: False":
            "minutes of training do not beat counting pieces",
        "the model needs fewer bits than 5-grams of pieces, all text: False":
            "the count has read more text",
    },
    ("07_efficient_implementation", "n07-068"): {
        "none        52.0 GiB of activations,  62.8 in all; fits twice the sequences: False":
            "what the hand-written backward is for",
    },
    ("08_parallelism", "n08-009"): {
        f"rank {rank}: gradient of its part = of the batch: False   averaged: True"
        "   by torch's DDP: True": "a part is not the batch; the mean over ranks is"
        for rank in (0, 1)
    },
    ("08_parallelism", "n08-021"): {
        "part 1 alone:                           False": "one term of a sum of two",
        "SiLU of the sum = sum of the SiLUs:     False": "SiLU is not linear",
    },
    ("10_benchmarks", "n10-036"): {
        "never ends        passed: False  time": "the sandbox stops it",
        "reads a file      passed: False": "the sandbox forbids it",
        "starts a process  passed: False": "the sandbox forbids it",
    },
    ("10_benchmarks", "n10-050"): {
        "SIQA   prompts end with 'this?\\nA:'  gain is 0: False": "its prompts end otherwise",
    },
    ("11_benchmark_versus_perplexity", "n11-016"): {
        "TriviaQA           4.31  4.19  4.10  4.10  3.98  3.87  3.78  3.78   False":
            "two sizes are level",
    },
}  # fmt: skip
WRITTEN_BY_A_MODEL = {("00_the_whole_paper", "n00-028"), ("06_optimizer_and_training", "n06-050")}
"""Cells whose False is text, no result."""

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
every_lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)


@cache
def code_cells(path: Path) -> list:
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@cache
def trees(path: Path) -> list[ast.Module]:
    return [ast.parse(cell.source) for cell in code_cells(path)]


@cache
def package_modules() -> dict[str, str]:
    """Module name to source text, for every module of the package."""
    found = {}
    for module in pkgutil.walk_packages(minillama.__path__, "minillama."):
        spec = importlib.util.find_spec(module.name)
        if spec and spec.origin and spec.origin.endswith(".py"):
            found[module.name] = Path(spec.origin).read_text(encoding="utf-8")
    return found


@cache
def exported_names() -> set[str]:
    """All that an ``__all__`` of the package lists, and all that any notebook imports from it."""
    names = set(minillama.__all__)
    for module, source in package_modules().items():
        if module.startswith("minillama.teach"):
            continue  # always written with their module's name: teach.show
        for node in ast.parse(source).body:
            targets = [t.id for t in getattr(node, "targets", []) if isinstance(t, ast.Name)]
            if targets == ["__all__"]:
                names |= set(ast.literal_eval(node.value))
    for path in NOTEBOOKS:
        for tree in trees(path):
            names |= {name for name, _ in imported_from_package(tree)}
    return names


def imported_from_package(tree: ast.AST) -> list[tuple[str, str]]:
    """``(name in the notebook, module it comes from)`` of ``from minillama… import …``."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "minillama":
            found += [(alias.asname or alias.name, node.module) for alias in node.names]
    return found


def bound_names(tree: ast.Module) -> set[str]:
    """Names that a cell binds for later cells: definitions, assignments, foreign imports."""
    names, stack = set(), list(tree.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
            continue  # what is bound inside stays inside
        if isinstance(node, ast.Lambda | ast.ListComp | ast.SetComp | ast.DictComp):
            continue
        if isinstance(node, ast.GeneratorExp):
            continue
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        if isinstance(node, ast.Import | ast.ImportFrom):
            own = isinstance(node, ast.ImportFrom) and (node.module or "").startswith("minillama")
            names |= {a.asname or a.name.split(".")[0] for a in node.names if not own}
        stack.extend(ast.iter_child_nodes(node))
    return names


class _Anonymous(ast.NodeTransformer):
    """Renames local names in order of appearance, so that a copy with new names is still a copy."""

    def __init__(self) -> None:
        self.names: dict[str, str] = {}

    def _rename(self, name: str) -> str:
        return self.names.setdefault(name, f"v{len(self.names)}")

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self._rename(node.id), node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(self._rename(node.arg))


def bodies(tree: ast.AST) -> set[str]:
    """The normalized bodies of all functions of more than one simple statement or of some size."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef):
            continue
        body = list(node.body)
        if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            body = body[1:]  # the docstring
        copy = ast.Module([_Anonymous().visit(n) for n in ast.parse(ast.unparse(body)).body], [])
        if sum(1 for _ in ast.walk(copy)) > 25:
            found.add(ast.dump(copy))
    return found


def printed(cell: nbformat.NotebookNode) -> str:
    """What nbval compares: text streams and text results, not pictures."""
    texts = []
    for output in cell.outputs:
        if output.output_type == "stream":
            texts.append(output.text)
        elif output.output_type == "execute_result":
            texts.append(output.data.get("text/plain", ""))
    return "".join(texts).strip()


def false_lines(notebook: str, cells: list) -> dict[tuple[str, str], set[str]]:
    """``(notebook, cell)`` to the stored lines with False, whatever the cell's tag.

    Left out are what an unsolved exercise is told, source code that ``teach.show`` prints, and
    text that a model wrote.
    """
    found = {}
    for cell in cells:
        place = (notebook, cell.id)
        if place in WRITTEN_BY_A_MODEL or only_shows(cell.source):
            continue
        lines = {
            line.rstrip()
            for line in printed(cell).splitlines()
            if re.search(r"\bFalse\b", line) and not line.startswith("not yet: ")
        }
        if lines:
            found[place] = lines
    return found


def only_shows(source: str) -> bool:
    """Whether a cell does nothing but print source code."""
    calls = [ast.unparse(getattr(node, "value", node)) for node in ast.parse(source).body]
    return all(call.startswith("teach.show(") for call in calls)


def test_there_are_notebooks() -> None:
    assert LESSONS


def test_the_rules_can_be_broken() -> None:
    cell = ast.parse(
        "import torch.nn as Llama\nfor ModelConfig in []:\n  pass\ndef f(RMSNorm):\n  x = RMSNorm\n"
        "from minillama import Attention\n[y for y in []]"
    )
    assert bound_names(cell) == {"Llama", "ModelConfig", "f"}
    source = package_modules()["minillama.model.rotary"].split("def scaled_frequencies")[0]
    renamed = source.replace("angles", "turns").replace("head_dim", "size")
    assert bodies(ast.parse(source)) == bodies(ast.parse(renamed)) != set()
    other = source.replace("torch.outer", "torch.mul")
    assert bodies(ast.parse(source)) != bodies(ast.parse(other))
    assert "RMSNorm" in exported_names()


@every_notebook
def test_was_run_from_top_to_bottom_without_errors(path: Path) -> None:
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", f"{cell.source}\nwrote to stderr"


@every_notebook
def test_prints_what_it_shows(path: Path) -> None:
    cells = code_cells(path)
    silent = [cell for cell in cells if not printed(cell)]
    assert len(silent) <= 0.6 * len(cells)
    for place, cell in enumerate(cells):
        shows = re.search(r"\bplt\.show\(\)|\bdisplay\(", cell.source)
        if shows:
            beside = printed(cell) or (place + 1 < len(cells) and printed(cells[place + 1]))
            assert beside, f"a plot without numbers:\n{cell.source}"
            assert re.search(r"\d|True|False|:", str(beside))
        draws = any("image/png" in output.get("data", {}) for output in cell.outputs)
        assert shows or not draws, cell.source


@every_notebook
def test_redefines_nothing_of_the_package(path: Path) -> None:
    for cell, tree in zip(code_cells(path), trees(path), strict=True):
        taken = bound_names(tree) & exported_names()
        assert not taken, f"{sorted(taken)} belong to the package:\n{cell.source}"


@every_notebook
def test_copies_no_function_of_the_package(path: Path) -> None:
    package = set().union(*(bodies(ast.parse(text)) for text in package_modules().values()))
    for cell, tree in zip(code_cells(path), trees(path), strict=True):
        assert not bodies(tree) & package, f"copied from the package:\n{cell.source}"


@every_notebook
def test_needs_no_network_no_shell_and_no_absolute_path(path: Path) -> None:
    for cell, tree in zip(code_cells(path), trees(path), strict=True):
        assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE), cell.source
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not {a.name.split(".")[0] for a in node.names} & NETWORK_MODULES
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in NETWORK_MODULES
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not ABSOLUTE_PATH.match(node.value), node.value
                assert not re.match(r"https?://", node.value), node.value
    assert str(ROOT) not in path.read_text(encoding="utf-8"), "this checkout's path is stored"


@every_lesson
def test_has_every_beat_and_proves_something(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    tags = [tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
    assert set(tags) <= TAGS | {TIMED}
    assert {"prove", "exercise"} <= set(tags)
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    proofs = [c for c in code_cells(path) if "prove" in c.metadata.get("tags", [])]
    assert any("True" in printed(cell) for cell in proofs)


@every_notebook
def test_nothing_false_is_stored_without_a_reason(path: Path) -> None:
    expected = {place: set(why) for place, why in HONEST_FALSE.items() if place[0] == path.stem}
    assert false_lines(path.stem, code_cells(path)) == expected


def test_every_honest_false_has_its_reason() -> None:
    assert {notebook for notebook, _ in HONEST_FALSE} <= {path.stem for path in LESSONS}
    assert all(reason for lines in HONEST_FALSE.values() for reason in lines.values())


def test_a_failed_proof_is_seen() -> None:
    def seen(tag: str, text: str, source: str = "print(1)") -> set[str]:
        output = nbformat.v4.new_output("stream", text=text)
        cell = nbformat.v4.new_code_cell(source, id="c", metadata={"tags": [tag]}, outputs=[output])
        return false_lines("05_attention", [cell]).get(("05_attention", "c"), set())

    mixed = "gradient equal True\nvalue equal False\nequal True\n"
    for tag in TAGS:
        assert seen(tag, mixed) == {"value equal False"}
    assert seen("prove", "equal True\nFalsehood\n") == set()
    assert seen("exercise", "not yet: return True or False\n") == set()
    assert seen("derive", "bias=False\n", "teach.show(f)\nteach.show(g)") == set()
    assert seen("derive", "equal: False\n", "teach.show(f)\nprint(1)") == {"equal: False"}


@every_notebook
def test_the_places_it_names_are_there(path: Path) -> None:
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "markdown":
            for place in re.findall(r"`((?:minillama|tests|data)/[\w./-]+)`", cell.source):
                fetched = place.startswith(("data/corpus", "data/downloads"))  # not in a clone
                assert fetched or (ROOT / place).exists(), place


@every_lesson
def test_every_exercise_is_checked_and_solved(path: Path) -> None:
    def checks(notebook: Path) -> list[str]:
        sources = "\n".join(cell.source for cell in code_cells(notebook))
        return re.findall(r"teach\.(check_\w+)\(", sources)

    solution = path.parent / "solutions" / f"{path.stem.split('_')[0]}_solutions.ipynb"
    assert checks(path)
    assert checks(path) == checks(solution)
    for cell in code_cells(path):
        if "exercise" in cell.metadata.get("tags", []) and "teach.check_" in cell.source:
            assert printed(cell).startswith("not yet: ")
    for cell in code_cells(solution):
        assert "not yet" not in printed(cell)


@every_notebook
def test_stored_file_holds_nothing_that_varies(path: Path) -> None:
    notebook = nbformat.read(path, 4)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert dict(notebook.metadata.language_info) == {"name": "python"}
    for cell in notebook.cells:
        assert set(cell.metadata) <= {"tags"}
    for cell in code_cells(path):
        assert not re.search(r"0x[0-9a-f]{6,}", printed(cell)), "a memory address is printed"


def test_every_public_name_is_used_somewhere() -> None:
    assert {path.stem.split("_")[0] for path in LESSONS} == EXPECTED_LESSONS
    public = {*minillama.model.__all__, *minillama.efficient.__all__, *minillama.__all__}
    used = set()
    for path in NOTEBOOKS:
        for tree in trees(path):
            used |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            used |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert public <= used, f"no notebook uses {sorted(public - used)}"
