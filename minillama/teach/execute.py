"""Run notebooks and store what they print: ``python -m minillama.teach.execute [notebooks…]``.

Without arguments it takes every notebook of ``notebooks/`` and ``notebooks/solutions/``. Nothing
that varies from run to run is stored (times, versions), so that running again changes no byte.
"""

import base64
import struct
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from minillama.errors import MinillamaError
from minillama.files import write_text

SECONDS_PER_CELL = 300
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}


def execute(path: Path) -> nbformat.NotebookNode:
    """Run the notebook at ``path`` in its own folder and return it with its outputs."""
    try:
        notebook = nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise MinillamaError(f"{path} is not a notebook ({error})", "check the path") from None
    settings = {"timeout": SECONDS_PER_CELL, "record_timing": False, "coalesce_streams": True}
    folder = {"metadata": {"path": str(path.resolve().parent)}}
    client = NotebookClient(notebook, kernel_name="python3", resources=folder, **settings)
    try:
        client.execute()
    except CellExecutionError as error:
        what = f"{path}: a cell failed\n{error}"
        raise MinillamaError(what, "mend the cell, run again") from None
    return tidy(notebook, path)


def tidy(notebook: nbformat.NotebookNode, path: Path) -> nbformat.NotebookNode:
    """Keep tags and outputs; drop whatever names a machine, a version or a time."""
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags")
        cell.metadata = nbformat.from_dict({"tags": tags} if tags else {})
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise MinillamaError(
                    f"{path}, cell {number} wrote to standard error:\n{output.text}",
                    "silence the warning or progress bar: such lines vary from machine to machine",
                )
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = without_comments(output.data["image/png"])
    return notebook


def without_comments(image: str) -> str:
    """A base64 PNG without its text chunks, in which matplotlib writes its version."""
    data = base64.b64decode(image)
    kept, place = [data[:8]], 8  # the signature, then chunks: length, name, content, checksum
    while place < len(data):
        length, name = struct.unpack(">I4s", data[place : place + 8])
        if name != b"tEXt":
            kept.append(data[place : place + 12 + length])
        place += 12 + length
    return base64.b64encode(b"".join(kept)).decode() + "\n"


def default_notebooks(folder: Path = Path("notebooks")) -> list[Path]:
    """The lessons in order, then their solutions."""
    return [*sorted(folder.glob("*.ipynb")), *sorted((folder / "solutions").glob("*.ipynb"))]


def main(arguments: list[str]) -> int:
    """Run and store the named notebooks, or all of them; 1 if one could not be run."""
    for path in [Path(name) for name in arguments] or default_notebooks():
        began = time.monotonic()
        try:
            text = nbformat.writes(execute(path)).rstrip("\n") + "\n"
        except MinillamaError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        changed = text != path.read_text(encoding="utf-8")
        if changed:
            write_text(path, text)
        state = "stored" if changed else "unchanged"
        print(f"{path}: {state}, {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
