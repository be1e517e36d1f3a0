"""One look for every table that is printed: columns padded, numbers to the right, one header."""

from collections.abc import Sequence
from typing import Any

Row = Sequence[Any]


def text_table(header: Row, rows: Sequence[Row], rule: bool = False) -> str:
    """Lay out rows of cells as lines of text, two blanks between columns.

    The first column is set to the left, the others to the right. Cells are shown by ``str``; None
    is an empty cell.

    Args:
        header: the names of the columns.
        rows: as many cells each as the header has.
        rule: draw a line of dashes below the header.
    """
    lines = [_as_text(row) for row in (header, *rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    if rule:
        lines.insert(1, ["-" * width for width in widths])
    return "\n".join(_pad(line, widths) for line in lines)


def markdown_table(header: Row, rows: Sequence[Row]) -> str:
    """The same rows as a table of Markdown."""
    marks = [":--"] + ["--:"] * (len(header) - 1)
    lines = [_as_text(header), marks, *map(_as_text, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _as_text(row: Row) -> list[str]:
    return ["" if cell is None else str(cell) for cell in row]


def _pad(cells: list[str], widths: list[int]) -> str:
    first = cells[0].ljust(widths[0])
    rest = [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
    return "  ".join([first, *rest]).rstrip()
