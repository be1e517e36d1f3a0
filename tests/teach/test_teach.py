"""The helpers of notebooks: proofs that can fail, checks that name the mistake."""

import base64
import io
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch
from torch import Tensor

from minillama import teach
from minillama.model import RMSNorm, rotary_table
from minillama.teach import execute


def test_show_prints_the_source_and_its_file(capsys: pytest.CaptureFixture) -> None:
    teach.show(RMSNorm, rotary_table)
    text = capsys.readouterr().out
    assert text.startswith("# minillama/model/norm.py\nclass RMSNorm")
    assert "# minillama/model/rotary.py\ndef rotary_table" in text
    with pytest.raises(TypeError, match="no Python source"):
        teach.show(3)


def test_start_seeds_and_finds_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    threads = torch.get_num_threads()
    try:
        teach.start(seed=7)
        first = torch.rand(3)
        assert Path.cwd().resolve() == tmp_path.resolve()
        teach.start(seed=7)
        assert torch.equal(first, torch.rand(3))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert "seed 7" in capsys.readouterr().out


def test_agreement_sees_wrong_values_and_wrong_gradients() -> None:
    x = torch.randn(4, 6, requires_grad=True)
    assert teach.agreement(lambda: x * 2, lambda: x + x, [x]) == (0.0, 0.0)
    value, gradient = teach.agreement(lambda: x * 2.2, lambda: x * 2, [x])
    assert value == pytest.approx(0.1, rel=1e-4)
    assert gradient == pytest.approx(0.1, rel=1e-4)
    value, gradient = teach.agreement(lambda: x * x.detach(), lambda: x * x, [x])
    assert value == 0.0
    assert gradient == pytest.approx(0.5)


def test_agreement_refuses_a_tensor_compared_with_itself() -> None:
    x = torch.randn(3, requires_grad=True)
    y = x * 2
    with pytest.raises(ValueError, match="same tensor"):
        teach.agreement(lambda: y, lambda: y, [x])
    with pytest.raises(ValueError, match="shapes differ"):
        teach.relative_error(torch.ones(2), torch.ones(3))


def test_an_error_relative_to_nothing_is_small() -> None:
    """Gradients that are zero but for rounding, as attention's wq and wk over one position."""
    noise = torch.full((3, 4), 1e-9)
    assert teach.relative_error(noise, torch.zeros(3, 4)) <= 1.01e-6
    x, w = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)
    for size in (2, 0):
        right = partial(torch.add, size * x, 0 * w)
        rounded = partial(torch.add, size * x, 1e-9 * (w - w.detach()))
        assert max(teach.agreement(rounded, right, [x, w])) < 1e-6


def test_a_small_gradient_that_is_wrong_is_seen() -> None:
    x, w = torch.ones(4, requires_grad=True), torch.ones(4, requires_grad=True)

    def right() -> Tensor:
        return x + 1e-3 * w

    value, gradient = teach.agreement(lambda: right() + 1e-3 * (w.detach() - w), right, [x, w])
    assert value == 0
    assert gradient == pytest.approx(1e-3, rel=1e-3)
    assert teach.relative_error(torch.full((2,), 1e-4), torch.zeros(2)) > 0.05


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_over_one_position_agrees_with_the_fused_kernel(heads: int) -> None:
    torch.manual_seed(0)
    qkv = [torch.randn(2, heads, 1, 8, requires_grad=True) for _ in range(3)]
    q, k, v = qkv
    errors = teach.agreement(
        lambda: (q @ k.mT / 8**0.5).softmax(-1) @ v,
        lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True),
        wrt=qkv,
    )
    assert max(errors) < 1e-5


def test_prove_prints_true_or_stops(capsys: pytest.CaptureFixture) -> None:
    teach.prove("two and two are four", 2 + 2 == 4)
    assert capsys.readouterr().out == "two and two are four: True\n"
    teach.prove("a tensor's truth", torch.tensor(True))
    with pytest.raises(AssertionError, match="^not true: two and two are five$"):
        teach.prove("two and two are five", 2 + 2 == 5)
    assert "five" not in capsys.readouterr().out


def nothing(*_: object) -> None:
    return None


def broken(*_: object) -> None:
    raise ZeroDivisionError("oh")


@pytest.mark.parametrize("name", sorted(teach.checks()))
def test_every_check_survives_stubs_and_errors(name: str, capsys: pytest.CaptureFixture) -> None:
    check: Callable = getattr(teach, name)
    for answer in (nothing, broken, lambda *_: "text", lambda *_: torch.zeros(1)):
        assert check(answer) is None
        assert capsys.readouterr().out.startswith("not yet: ")
    check(broken)
    assert "ZeroDivisionError" in capsys.readouterr().out


def notebook_file(folder: Path, *sources: str) -> Path:
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    for number, cell in enumerate(cells):
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict({"tags": ["derive"]})
    path = folder / "lesson.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_execute_stores_outputs_and_changes_nothing_the_second_time(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "with space"
    folder.mkdir()
    path = notebook_file(folder, "x = 6", "print(7 * x)")
    assert execute.main([str(path)]) == 0
    stored = path.read_bytes()
    cells = nbformat.read(path, 4).cells
    assert [cell.execution_count for cell in cells] == [1, 2]
    assert cells[1].outputs[0].text == "42\n"
    assert execute.main([str(path)]) == 0
    assert path.read_bytes() == stored
    assert "unchanged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("source", "complaint"),
    [("1 / 0", "ZeroDivisionError"), ("import sys; print(1, file=sys.stderr)", "standard error")],
)
def test_execute_names_the_failing_notebook_and_keeps_the_file(
    source: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = notebook_file(tmp_path, source)
    before = path.read_bytes()
    assert execute.main([str(path)]) == 1
    message = capsys.readouterr().err
    assert complaint in message
    assert "lesson.ipynb" in message
    assert path.read_bytes() == before


def test_stored_pictures_name_no_version(tmp_path: Path) -> None:
    draw = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"
    path = notebook_file(tmp_path, draw)
    assert execute.main([str(path)]) == 0
    output = nbformat.read(path, 4).cells[0].outputs[-1]
    picture = base64.b64decode(output.data["image/png"])
    assert b"atplotlib" not in picture
    image = plt.imread(io.BytesIO(picture), format="png")
    assert image.shape[2] == 4 and image.std() > 0


def test_execute_says_that_a_file_is_not_a_notebook(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "bad.ipynb").write_text("not json")
    for name in ("bad.ipynb", "missing.ipynb"):
        assert execute.main([str(tmp_path / name)]) == 1
        assert "is not a notebook" in capsys.readouterr().err


def test_default_notebooks_are_lessons_then_solutions(tmp_path: Path) -> None:
    source = notebook_file(tmp_path, "1")
    (tmp_path / "solutions").mkdir()
    for name in ("01_b.ipynb", "00_a.ipynb", "solutions/00_solutions.ipynb"):
        shutil.copy(source, tmp_path / name)
    source.unlink()
    names = [path.name for path in execute.default_notebooks(tmp_path)]
    assert names == ["00_a.ipynb", "01_b.ipynb", "00_solutions.ipynb"]
