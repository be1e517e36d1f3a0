"""Long runs are not repeated in a lesson: their logs are committed, and read from here."""

from pathlib import Path

from minillama.errors import DataError

PUBLISHED = Path("data/runs")
"""Logs of published runs, seen from the project's folder, where ``start`` puts a lesson."""


def published_run(name: str) -> Path:
    """Where a published run lies, such as ``nano-65b``, or a file such as ``nano-5gram.json``.

    Raises:
        DataError: it is not there.
    """
    path = PUBLISHED / name
    if not path.exists():
        raise DataError(
            f"there is no published run {path}",
            "it comes with the repository: get a complete checkout, and call teach.start() first",
        )
    return path
